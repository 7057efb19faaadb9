"""The paper's numbers beside ours, and what others published: tables made from the files in results/."""

from __future__ import annotations

import json
from statistics import mean, stdev

from cra_smra.budget import table
from cra_smra.data.make import MADE
from cra_smra.evaluate import WHERE_AND_HOW
from cra_smra.recipes import PAPER_DATASETS, Recipe
from cra_smra.runs import RESULTS, stored_results

# What may differ between runs that are averaged, and between them and the paper's recipe.
FREE = (*WHERE_AND_HOW, "seed", "precision")
NETWORK = ("backbone", "method", "cram", "smram")  # say which row of the table a run belongs to
# The paper gives learning rates for its method alone. Those of the plain network are ours, equal in all its runs.
FREE_IN_PLAIN = ("lr_backbone", "lr_cram", "lr_heads")
PROTOCOLS = {"clean": "ours, clean", "paper": "ours, protocol paper"}


def paper_numbers() -> dict[str, object]:
    """The paper's accuracies with their source and how they are known, as in results/paper.json."""
    return json.loads((RESULTS / "paper.json").read_text())


def published() -> list[dict[str, object]]:
    """What others published: name, backbone, size, pretraining, selection, top1 and where it was read, for each method;
    results/published.json.
    """
    return json.loads((RESULTS / "published.json").read_text())["methods"]


def published_table() -> str:
    """A table in Markdown: top-1 of others, of the paper and of our runs on the four sets, in percent, each with what
    it needs to be compared: backbone, side of the input, pretraining, and how the epoch was chosen. Ours are the mean
    over the seeds under protocol "clean".
    """
    rows = [["method", "backbone", "px", "pretrained on", "epoch chosen by"]]
    rows[0] += [MADE[dataset][0].title for dataset in PAPER_DATASETS]
    for method in published():
        top1 = [f"{method['top1'][dataset]:.1f}" if dataset in method["top1"] else "" for dataset in PAPER_DATASETS]
        known = [str(method[key]) for key in ("name", "backbone", "size", "pretraining", "selection")]
        rows.append(known + top1)
    paper = paper_numbers()["rows"]
    for row in paper:
        if row["recipe"] == {}:
            top1 = [published_cell(row, dataset) for dataset in PAPER_DATASETS]
            rows.append(["the paper", row["name"].split(" + ")[0], "448", "ImageNet", "not stated", *top1])
    ours = {dataset: counted(dataset, paper)[0] for dataset in PAPER_DATASETS}
    for place, row in enumerate(paper):
        if row["recipe"] in ({}, {"method": "plain"}):
            found = [ours[dataset][place, "clean"] for dataset in PAPER_DATASETS]
            name = "ours, CRA-SMRA" if row["recipe"] == {} else "ours, plain"
            backbone = row["name"].replace(",", " +").split(" + ")[0]
            rows.append([name, backbone, "448", "ImageNet-1k", "held-out images", *map(short_cell, found)])
    return table(rows)


def paper_beside_ours(dataset: str) -> str:
    """A table in Markdown: top-1 of the paper beside that of the runs in results/``dataset``/, in percent, with what
    has to be known of the set, the provenance of each run, and what was not counted and why.

    ``dataset`` is one of the paper's four. Under protocol "clean" the epoch was chosen on held-out images; under
    "paper" it is the last, with the best test epoch beside it as what it is, an upper bound. Several seeds give the
    mean and the standard deviation. A run counts when it is finished, was tested on the official test images, and
    followed the paper's recipe. What was not run is shown as not run.
    """
    if dataset not in PAPER_DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(PAPER_DATASETS)}, got {dataset!r}")
    numbers, official = paper_numbers(), MADE[dataset][0]
    cells, below = counted(dataset, numbers["rows"])
    rows = [["top-1 in %", "paper", *PROTOCOLS.values()]]
    for place, row in enumerate(numbers["rows"]):
        ours = [cell(cells[place, protocol]) for protocol in PROTOCOLS]
        rows.append([row["name"], published_cell(row, dataset), *ours])
    test = official.counts["test"]
    accuracy = next(row for row in numbers["rows"] if row["recipe"] == {})["top1"][dataset]
    error = (accuracy * (100 - accuracy) / test) ** 0.5
    notes = [
        f"{official.title}, {test:,} test images; one binomial standard error at {accuracy} % is {error:.2f} points.",
        *numbers["notes"][dataset],
        f"The paper: {numbers['source']}.",
        f"  inferred: {from_differences(numbers['differences'][dataset])}; {numbers['status']['inferred']}.",
        *(f"  {word}: {numbers['status'][word]}." for word in ("bound", "unknown")),
        *below,
    ]
    return table(rows) + "\n\n" + "\n".join(notes)


def counted(
    dataset: str, rows: list[dict[str, object]]
) -> tuple[dict[tuple[int, str], list[dict[str, object]]], list[str]]:
    """The stored runs of each row and protocol, and a line for every stored run: its provenance, or why it does not
    count.
    """
    cells: dict[tuple[int, str], list[dict[str, object]]] = {
        (place, protocol): [] for place in range(len(rows)) for protocol in PROTOCOLS
    }
    lines = []
    for record in stored_results(dataset):
        recipe = Recipe.from_dict(record["recipe"])
        run = f"{recipe.backbone}, {recipe.method}, {recipe.protocol}, seed {recipe.seed}"
        place, differing = find_row(recipe, dataset, rows)
        same = cells.get((place, recipe.protocol), [])
        if place is None:
            why = f"the table has no row for cram={recipe.cram}, smram={recipe.smram} on this backbone"
        elif record["status"] != "finished":
            why = "it is not finished"
        elif record["result"]["test"]["images"] != MADE[dataset][0].counts["test"]:
            why = f"it was tested on {record['result']['test']['images']:,} images, not on the official ones"
        elif differing:
            why = "its recipe is another one: " + ", ".join(differing)
        elif other := [name for name in FREE_IN_PLAIN if same and same[0]["recipe"][name] != getattr(recipe, name)]:
            why = f"its {other[0]} is not that of the first run of this row"
        elif any(each["seed"] == recipe.seed for each in same):
            why = "a run of this row with this seed is there already"
        else:
            same.append(record)
            hours, device = record["wall_time_s"] / 3600, record["device"]["name"]
            lines.append(
                f"Run: {run}: epoch {record['result']['chosen_epoch']}, {hours:.1f} h on {device}, "
                f"{record['images_per_s']:.0f} training images/s, commit {record['commit']}"
            )
            continue
        lines.append(f"Not counted: {run}: {why}")
    return cells, lines


def find_row(recipe: Recipe, dataset: str, rows: list[dict[str, object]]) -> tuple[int | None, list[str]]:
    """The row of the network that a run trained, None if no row has it, and in what the run's recipe differs
    otherwise: "epochs 100 (paper: 200)".
    """
    for place, row in enumerate(rows):
        paper = Recipe.paper(dataset, backbone=row["backbone"], **row["recipe"])
        if network(paper) != network(recipe):
            continue
        free = (*FREE, *NETWORK, *(FREE_IN_PLAIN if paper.method == "plain" else ()))
        theirs = paper.to_dict()
        return place, [
            f"{name} {value} (paper: {theirs[name]})"
            for name, value in recipe.to_dict().items()
            if name not in free and value != theirs[name]
        ]
    return None, []


def network(recipe: Recipe) -> tuple[object, ...]:
    """What makes a recipe's network one of the table's: the plain one has no attention, whatever the fields say."""
    named = NETWORK if recipe.method == "cra-smra" else ("backbone", "method")
    return tuple(getattr(recipe, name) for name in named)


def cell(records: list[dict[str, object]]) -> str:
    """The runs of one row and protocol in a few words, in percent."""
    if not records:
        return "not run"
    tests = [record["result"]["test"] for record in records]
    text = spread([test["accuracy"] for test in tests])
    text += f" ({len(records)} seeds)" if len(records) > 1 else " (one seed)"
    text += f", class mean {100 * mean(test['accuracy_classes'] for test in tests):.1f}"
    best = [record["result"].get("upper_bound_best_test_epoch") for record in records]
    if None not in best:
        gap = mean(best) - mean(test["accuracy"] for test in tests)
        text += f", upper bound {100 * mean(best):.1f}, gap {100 * gap:.1f}"
    return text


def short_cell(records: list[dict[str, object]]) -> str:
    """The runs of one row and protocol as mean and deviation, in percent."""
    return spread([record["result"]["test"]["accuracy"] for record in records]) if records else "not run"


def spread(accuracies: list[float]) -> str:
    """Mean, and the standard deviation where there are several, in percent."""
    deviation = f" ± {100 * stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * mean(accuracies):.1f}{deviation}"


def from_differences(count: int) -> str:
    """What a number follows from that the paper does not print where we can read it."""
    return f"from {count} differences that the text states, all in agreement" if count > 1 else (
        "from one difference that the text states"
    )


def published_cell(row: dict[str, object], dataset: str) -> str:
    """A number of the paper and how it is known."""
    if dataset not in row["top1"]:
        return row["status"]
    above = "above " if row["status"] == "bound" else ""
    return f"{above}{row['top1'][dataset]:.1f}, {row['status']}"
