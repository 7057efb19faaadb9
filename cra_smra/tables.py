"""Tables of an ablation, from its result files alone: means and spreads over seeds, how sure differences are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np

from cra_smra.experiments import identity, right_images
from cra_smra.grids import GRIDS, NETWORKS, base_recipe, grid
from cra_smra.recipes import Recipe
from cra_smra.runs import stored_results
from cra_smra.statistics import crossed_interval, mcnemar, mean_and_deviation, t_interval

Results = Sequence[dict[str, object]]


def table(results: Results | str, rows: Sequence[str] = ()) -> list[dict[str, object]]:
    """A row for each of ``rows``, by default those of the grid that the results name, then of any other result.

    ``results`` are result files of one grid, or the name of an experiment that is kept with the package, such as
    "birds/table3". Accuracies and differences lie in [0, 1]; a number that does not exist is None: a deviation of one
    seed, all of a row that was not run. Differences are to the row ``against``, over the seeds that both have:
    ``over_seeds`` by ``t_interval``, ``over_both`` by ``crossed_interval``, each [low, high, p], and ``mcnemar``, the p
    of each seed. No p is corrected for the number of rows. ``standard_error`` is the binomial one of a single run's
    test, ``best`` marks the best held-out accuracy of each network, the first of equals, and ``edge`` says that its
    learning rate is the smallest or largest that was tried.

    Raises ValueError when a row holds runs of different recipes, or one seed twice.
    """
    if isinstance(results, str):
        results, rows = stored_results(results), rows or planned_rows(results)
    longest_first = sorted((result["rows"] for result in results), key=len, reverse=True)
    names = rows or [name for names in longest_first for name in names]
    names = list(dict.fromkeys([*names, *(result["row"] for result in results)]))
    runs = {name: by_seed(name, [result for result in results if result["row"] == name]) for name in names}
    found = [summary(name, list(runs[name].values())) | comparison(name, runs) for name in names]
    for network in {row["network"] for row in found}:
        group = [row for row in found if row["network"] == network and row["held_out"] is not None]
        if group:
            chosen, rates = max(group, key=lambda row: row["held_out"]), [row["rate"] for row in group]
            chosen["best"] = True
            chosen["edge"] = min(rates) < max(rates) and chosen["rate"] in (min(rates), max(rates))
    return found


def planned_rows(experiment: str) -> list[str]:
    """The rows of an experiment called SET/GRID, whether or not it has been run; empty for other names."""
    dataset, _, name = experiment.partition("/")
    return [row.name for row in grid(name, base_recipe(dataset))] if name in GRIDS else []


def by_seed(name: str, results: Results) -> dict[int, dict[str, object]]:
    """A row's results by their seeds, in order."""
    runs: dict[int, dict[str, object]] = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        if result["seed"] in runs:
            raise ValueError(f"the row {name!r} has two results of seed {result['seed']}: keep one of the files")
        runs[result["seed"]] = result
    recipes = [identity(Recipe.from_dict(run["recipe"])) | {"seed": None} for run in runs.values()]
    if any(recipe != recipes[0] for recipe in recipes):
        fields = sorted({key for recipe in recipes for key in recipe.items() ^ recipes[0].items() for key in key[:1]})
        raise ValueError(f"the row {name!r} holds runs that differ in {', '.join(fields)}: keep those of one recipe")
    return runs


def summary(name: str, runs: Results) -> dict[str, object]:
    """What the runs of one row have in common, and the mean of what they have not."""
    done = [run for run in runs if run["status"] == "finished"]
    accuracies = [run["result"]["test"]["accuracy"] for run in done]
    mean, deviation = mean_and_deviation(accuracies) if done else (None, None)
    first = done[0] if done else {}
    recipe = Recipe.from_dict(runs[0]["recipe"]) if runs else None
    return {
        "row": name,
        "network": next((key for key, change in NETWORKS.items() if recipe and fits(recipe, change)), None),
        "rate": recipe and recipe.lr_backbone,
        "seeds": [run["seed"] for run in done],
        "diverged": [run["seed"] for run in runs if run["status"] == "diverged"],
        "accuracies": accuracies,
        "mean": mean,
        "deviation": deviation,
        "standard_error": average([run["result"]["test"]["standard_error"] for run in done]),
        "test_images": first["result"]["test"]["images"] if first else None,
        "held_out": average([run["held_out_accuracy"] for run in done]),
        "held_out_images": first["images"].get("val") if first else None,
        "best": False,
        "edge": False,
        "parameters": first.get("parameters"),
        "flops": first.get("flops"),
        "images_per_s": average([run["images_per_s"] for run in done]),
        "wall_time_s": average([run["wall_time_s"] for run in done]),
        "peak_memory_bytes": max((run["peak_memory_bytes"] or 0 for run in done), default=0) or None,
        "suppressed": average([run["last_epoch"].get("suppressed") for run in done]),
        "overlap": average([run["last_epoch"].get("overlap") for run in done]),
        "entropy": average([run["last_epoch"].get("entropy") for run in done]),
        "diversity_loss": average([run["last_epoch"].get("diversity_loss") for run in done]),
        "commits": sorted({run["commit"] or "unknown" for run in runs}),
        "devices": sorted({f"{run['device']['name']} (threads: {run['device']['threads']})" for run in runs}),
    }


def fits(recipe: Recipe, change: dict[str, object]) -> bool:
    return all(getattr(recipe, field) == value for field, value in change.items())


def average(values: Sequence[float | Sequence[float] | None]) -> float | list[float] | None:
    """The mean over the runs, of each entry where they are lists; None when there is none or one run has none."""
    if not values or any(value is None for value in values):
        return None
    return np.mean(values, axis=0).tolist()


def comparison(name: str, runs: dict[str, dict[int, dict[str, object]]]) -> dict[str, object]:
    """The row ``name`` against the row that its results name."""
    against = next((run["against"] for run in runs[name].values()), None)
    found = compare(list(runs.get(against, {}).values()), list(runs[name].values()))
    return {"against": against} | found


def compare(first: Results, second: Results) -> dict[str, object]:
    """Test the runs of one row, ``second``, against those of another, over the seeds that both have finished.

    Raises ValueError when they were tested on different images.
    """
    pairs = {}
    for run in second:
        partner = next((other for other in first if other["seed"] == run["seed"]), None)
        if partner and {run["status"], partner["status"]} == {"finished"}:
            pairs[run["seed"]] = (right_images(partner), right_images(run))
            if run["dataset"] != partner["dataset"] or len(pairs[run["seed"]][0]) != len(pairs[run["seed"]][1]):
                raise ValueError(f"{run['row']!r} and {partner['row']!r} were tested on different images: not a pair")
    if not pairs:
        return {"paired_seeds": [], "difference": None, "over_seeds": None, "over_both": None, "mcnemar": []}
    differences = np.array([b.astype(int) - a for a, b in pairs.values()])  # (S, N)
    over_seeds = t_interval(differences.mean(axis=1).tolist())
    return {
        "paired_seeds": list(pairs),
        "difference": over_seeds.mean,
        "over_seeds": list(over_seeds[1:]),
        "over_both": list(crossed_interval(differences)[1:]),
        "mcnemar": [mcnemar(a, b).p for a, b in pairs.values()],
    }


def percent(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"


def accuracy(row: dict[str, object]) -> str:
    """Mean and deviation over the seeds, in percent."""
    if row["mean"] is None:
        return "diverged" if row["diverged"] else "not run"
    spread = "(one seed)" if row["deviation"] is None else f"± {percent(row['deviation'])}"
    return f"{percent(row['mean'])} {spread}"


def seeds(row: dict[str, object]) -> str:
    lost = f", {len(row['diverged'])} diverged" if row["diverged"] else ""
    return f"{len(row['seeds'])}{lost}"


def interval(estimate: list[float | None] | None) -> str:
    """An interval in points, with its p."""
    if estimate is None or estimate[0] is None:
        return ""
    low, high, p = estimate
    return f"{percent(low, '+')} to {percent(high, '+')}, p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}"


def against(row: dict[str, object]) -> str:
    if row["against"] is None or row["difference"] is not None:
        return row["against"] or ""
    return f"{row['against']}: no seed in common"


def scaled(key: str, unit: float, digits: int) -> Callable[[dict[str, object]], str]:
    return lambda row: "" if row[key] is None else f"{row[key] / unit:.{digits}f}"


def listed(key: str) -> Callable[[dict[str, object]], str]:
    """One value, or one for each stage, with two digits."""
    return lambda row: "" if row[key] is None else ", ".join(f"{value:.2f}" for value in np.atleast_1d(row[key]))


def best(row: dict[str, object]) -> str:
    return f"best{', at the edge of what was tried' if row['edge'] else ''}" if row["best"] else ""


Columns = dict[str, Callable[[dict[str, object]], str]]
ACCURACY: Columns = {
    "row": lambda row: row["row"],
    "seeds": seeds,
    "accuracy, %": accuracy,
    "standard error of one run": lambda row: percent(row["standard_error"]),
    "against": against,
    "difference": lambda row: percent(row["difference"], "+"),
    "95 % over seeds": lambda row: interval(row["over_seeds"]),
    "95 % over seeds and images": lambda row: "one seed: " * (len(row["paired_seeds"]) == 1)
    + interval(row["over_both"]),
}
COST: Columns = {
    "row": lambda row: row["row"],
    "parameters, M": scaled("parameters", 1e6, 2),
    "GFLOP, one image": scaled("flops", 1e9, 2),
    "training images/s": scaled("images_per_s", 1, 0),
    "seconds of a run": scaled("wall_time_s", 1, 0),
    "peak GPU memory, GB": lambda row: scaled("peak_memory_bytes", 1e9, 2)(row) or "not measured" * bool(row["seeds"]),
}
ATTENTION: Columns = {
    "row": lambda row: row["row"],
    "suppressed, stages 3 to 5": listed("suppressed"),
    "overlap": listed("overlap"),
    "entropy, stages 3 to 5": listed("entropy"),
    "L_div": listed("diversity_loss"),
}
HELD_OUT: Columns = {
    "row": lambda row: row["row"],
    "seeds": seeds,
    "held-out images": scaled("held_out_images", 1, 0),
    "held-out accuracy, %": lambda row: percent(row["held_out"]) or accuracy(row),
    "": best,
}


def markdown(rows: Sequence[dict[str, object]], columns: Columns = ACCURACY) -> str:
    """A table in Markdown: ACCURACY, COST, ATTENTION or HELD_OUT, which is for the search of the rates, where no test
    image counts. Differences are in points.
    """
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(row) for cell in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sources(rows: Sequence[dict[str, object]]) -> str:
    """One sentence on the runs behind a table: how many, of which commits, on which devices."""
    number = sum(len(row["seeds"]) + len(row["diverged"]) for row in rows)
    commits = sorted({commit[:7] + "-dirty" * commit.endswith("-dirty") for row in rows for commit in row["commits"]})
    devices = sorted({device for row in rows for device in row["devices"]})
    if not number:
        return "Nothing has been run yet."
    return f"Runs: {number}; commits: {', '.join(commits)}; devices: {', '.join(devices)}."


def comma_separated(rows: Sequence[dict[str, object]]) -> str:
    """The rows as CSV, unrounded; lists are joined with spaces, what does not exist is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        )
    return text.getvalue()
