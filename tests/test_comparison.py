"""The paper's numbers beside ours, on made results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import refused
from cra_smra import Recipe, runs
from cra_smra.comparison import paper_beside_ours, paper_numbers, published, published_table
from cra_smra.data.make import MADE
from cra_smra.recipes import PAPER_DATASETS

PROVENANCE = {"commit": "0123abc", "device": {"name": "a GPU"}, "wall_time_s": 7200, "images_per_s": 512.3}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A function that stores a run of CUB among the results, as run.json says it, and returns its path."""
    for file in ("paper.json", "published.json", "throughput.json"):
        (tmp_path / file).write_text((runs.RESULTS / file).read_text())
    for module in ("runs", "comparison"):
        monkeypatch.setattr(f"cra_smra.{module}.RESULTS", tmp_path)

    def write(accuracy: float, *, status: str = "finished", images: int = 5794, best: float | None = None,
              epoch: int = 150, **recipe):
        run = Recipe.paper("cub", **recipe)
        test = {"accuracy": accuracy, "accuracy_classes": accuracy - 0.001, "images": images}
        result = {"chosen_epoch": epoch, "test": test}
        if best is not None:
            result["upper_bound_best_test_epoch"] = best
        record = {"status": status, "recipe": run.to_dict(), "seed": run.seed, "result": result} | PROVENANCE
        (tmp_path / "cub").mkdir(exist_ok=True)
        path = tmp_path / "cub" / f"{len(list((tmp_path / 'cub').iterdir()))}.json"
        path.write_text(json.dumps(record))
        return path

    return write


def row(name: str, dataset: str = "cub") -> list[str]:
    """The cells of one row of the table."""
    lines = paper_beside_ours(dataset).splitlines()
    found = [cells for line in lines if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] == name]
    assert len(found) == 1
    return found[0][1:]


FULL = "ResNet-50 + CRAM + SMRAM"


@pytest.mark.parametrize("dataset", PAPER_DATASETS)
def test_what_was_not_run_is_shown_as_not_run_beside_the_paper_s_number(store, dataset):
    text = paper_beside_ours(dataset)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(paper_numbers()["rows"]) == 6 and text.count("not run") == 12
    assert f"{MADE[dataset][0].counts['test']:,} test images" in text and "doi 10.1007/s11063-025-11757-7" in text
    assert row("ResNet-50 + CBAM", dataset)[0] == "unknown"
    assert row("ResNet-101 + CRAM + SMRAM", dataset)[0].startswith("above ")
    assert ("every image comes from imagenet" in text.lower()) == (dataset == "dogs")
    assert ("mean of the classes' accuracies" in text) == (dataset == "aircraft")
    assert ("22 of the test images" in text and "4 % of the labels" in text) == (dataset == "cub")


def test_standard_errors_are_those_of_the_binomial():
    """By hand: sqrt(0.894 * 0.106 / 5794) = 0.404 points, and so on."""
    for dataset, error in {"cub": "0.40", "aircraft": "0.44", "cars": "0.25", "dogs": "0.35"}.items():
        assert f"is {error} points" in paper_beside_ours(dataset)


def test_one_run_is_shown_with_its_class_mean_and_its_provenance(store):
    store(0.8812)
    assert row(FULL) == ["89.4, inferred", "88.1 (one seed), class mean 88.0", "not run"]
    text = paper_beside_ours("cub")
    line = "Run: resnet50, cra-smra, clean, seed 0: epoch 150, 2.0 h on a GPU, 512 training images/s, commit 0123abc"
    assert line in text and text.count("not run") == 11 and "Not counted" not in text


def test_several_seeds_give_mean_and_deviation(store):
    """By hand: the deviation of 88, 89 and 90 with n - 1 is 1."""
    for seed, accuracy in enumerate((0.88, 0.89, 0.90)):
        store(accuracy, seed=seed, root=f"somewhere/{seed}", workers=seed, precision="bf16")
    assert row(FULL)[1:] == ["89.0 ± 1.0 (3 seeds), class mean 88.9", "not run"]


def test_protocol_paper_shows_the_upper_bound_with_its_gap(store):
    store(0.88, protocol="paper", best=0.886, epoch=200)
    store(0.89, protocol="paper", best=0.894, epoch=200, seed=1)
    assert row(FULL)[1:] == ["not run", "88.5 ± 0.7 (2 seeds), class mean 88.4, upper bound 89.0, gap 0.5"]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("ResNet-50, plain", {"method": "plain", "lr_backbone": 0.002, "lr_heads": 0.01}),
        ("ResNet-50 + CBAM", {"cram": "cbam", "smram": False}),
        ("ResNet-50 + CRAM", {"smram": False}),
        ("ResNet-101 + CRAM + SMRAM", {"backbone": "resnet101"}),
        ("DenseNet-161 + CRAM + SMRAM", {"backbone": "densenet161"}),
    ],
)
def test_every_run_goes_to_its_own_row(store, name, recipe):
    store(0.5, **recipe)
    assert row(name)[1] == "50.0 (one seed), class mean 49.9"
    assert paper_beside_ours("cub").count("not run") == 11


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"epochs": 100}, "its recipe is another one: epochs 100 (paper: 200)"),
        ({"image_size": 224, "weights": None},
         "its recipe is another one: image_size 224 (paper: 448), weights None (paper: IMAGENET1K_V1)"),
        ({"lr_backbone": 0.001}, "its recipe is another one: lr_backbone 0.001 (paper: 0.0002)"),
        ({"backbone": "resnet18"}, "the table has no row for cram=cram, smram=True on this backbone"),
        ({"cram": None}, "the table has no row for cram=None, smram=True on this backbone"),
        ({"status": "running"}, "it is not finished"),
        ({"images": 80}, "it was tested on 80 images, not on the official ones"),
    ],
)
def test_what_does_not_belong_is_named_and_not_counted(store, changes, why):
    store(0.99, **changes)
    text = paper_beside_ours("cub")
    assert text.count("not run") == 12 and "99" not in text.split("Not counted")[0]
    assert text.splitlines()[-1].startswith("Not counted: resnet") and text.endswith(f": {why}")


def test_a_seed_counts_once_and_plain_runs_share_their_rates(store):
    for accuracy in (0.88, 0.90):
        store(accuracy)
    assert row(FULL)[1] == "88.0 (one seed), class mean 87.9"
    assert paper_beside_ours("cub").endswith("a run of this row with this seed is there already")
    store(0.8, method="plain", lr_heads=0.01)
    store(0.7, method="plain", lr_heads=0.02, seed=1)
    assert row("ResNet-50, plain")[1] == "80.0 (one seed), class mean 79.9"
    assert "its lr_heads is not that of the first run of this row" in paper_beside_ours("cub")


def published_rows() -> dict[tuple[str, str], list[str]]:
    """The rows of the table of published numbers, by method and backbone."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in published_table().splitlines()]
    assert len({len(line) for line in lines}) == 1
    return {(line[0], line[1]): line[2:] for line in lines[2:]}


def test_every_published_number_stands_with_what_it_needs_to_be_compared(store):
    rows = published_rows()
    assert len(rows) == len(published()) + 3 + 4
    assert rows["FBSD", "ResNet-50"] == ["448", "ImageNet-1k", "best test epoch", "89.3", "92.7", "94.4", ""]
    for method in published():
        assert {"size", "pretraining", "selection", "read", "link", "title"} <= method.keys()
        assert method["top1"] and all(50 < value < 100 for value in method["top1"].values())
        assert method["link"].startswith("https://")
    assert rows["the paper", "DenseNet-161"][2:4] == ["not stated", "above 90.0, bound"]
    assert [row[3:] for key, row in rows.items() if key[0].startswith("ours")] == [["not run"] * 4] * 4


def test_our_runs_enter_the_table_of_published_numbers(store):
    for seed, accuracy in enumerate((0.88, 0.89, 0.90)):
        store(accuracy, seed=seed)
    store(0.86, method="plain", lr_heads=0.01)
    store(0.95, protocol="paper", best=0.96)
    rows = published_rows()
    assert rows["ours, CRA-SMRA", "ResNet-50"][2:] == ["held-out images", "89.0 ± 1.0", "not run", "not run", "not run"]
    assert rows["ours, plain", "ResNet-50"][3] == "86.0"
    assert "95.0" not in published_table().split("ours, plain")[1]


def test_the_page_is_what_the_results_make():
    tool = Path(__file__).resolve().parents[1] / "book" / "_tools" / "published.py"
    found = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_an_unknown_set_is_refused():
    refused("cub, aircraft, cars, dogs, got 'birds'", paper_beside_ours, "birds")
