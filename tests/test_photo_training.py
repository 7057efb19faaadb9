"""Training on photographs: small made sets, from the recipe to the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import refused
from cra_smra import Recipe, evaluate, train
from cra_smra.data.groceries import read_groceries
from cra_smra.data.make import MADE, make
from cra_smra.runs import read_checkpoint, read_run

FAST = {"image_size": 64, "backbone": "resnet10", "weights": None, "out_channels": 32, "epochs": 2, "batch_size": 4,
        "workers": 0}


@pytest.mark.parametrize("name", MADE)
def test_every_set_comes_resized_and_cropped(tmp_path, name):
    root = make(name, tmp_path, num_classes=3, train_per_class=4, test_per_class=2, size=72)
    recipe = Recipe(dataset=name, root=str(root), **FAST)
    train_set, val, test = (recipe.load(split) for split in ("train", "val", "test"))
    assert len(test) == 6 and len(val) >= 1 and len(train_set) >= 3
    everything = replace(recipe, protocol="paper").load("train")
    assert len(everything) >= len(train_set)
    for dataset in (train_set, val, test):
        image, label = dataset[0]
        assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and label == dataset.targets[0]
    assert torch.equal(test[1][0], test[1][0])  # nothing random in a test image
    assert test.classes == train_set.classes


def test_a_recipe_without_a_root_says_what_is_missing():
    refused("CUB-200-2011 needs a root", Recipe.paper("cub").load, "train")


def test_no_test_image_influences_training_or_selection_in_protocol_clean(tmp_path):
    results = []
    for which in ("whole", "poisoned"):
        root = make("groceries", tmp_path / which, num_classes=3, train_per_class=6, test_per_class=3, size=64)
        if which == "poisoned":
            listing = read_groceries(root, "test")
            for path in listing.paths:
                pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(listing.folder / path)
        run = train(Recipe(dataset="groceries", root=str(root), **FAST), tmp_path / f"run-{which}", progress=False)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s", "waiting")} for row in rows]
        predictions = np.load(run / "predictions.npz")["overall_logits"]
        results.append((kept, read_run(run)["result"]["chosen_epoch"], read_checkpoint(run / "checkpoints/chosen.pt"),
                        predictions))
    (rows, chosen, state, seen), (rows2, chosen2, state2, seen2) = results
    assert rows == rows2 and chosen == chosen2 and "test_accuracy" not in rows[0]
    assert all(torch.equal(value, state2["model"][name]) for name, value in state["model"].items())
    assert not np.allclose(seen, seen2)  # the poison did reach the test


def test_two_processes_predict_every_test_image_once(tmp_path):
    root = make("folder", tmp_path, num_classes=3, train_per_class=4, test_per_class=23, size=64)
    run = train(Recipe(dataset="folder", root=str(root), **FAST | {"epochs": 1}), tmp_path / "run", progress=False)
    alone = evaluate(run)
    one = dict(np.load(run / "predictions.npz"))
    (run / "predictions.npz").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(Path(sys.executable).parent / "cra-smra"), "eval", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    two = dict(np.load(run / "predictions.npz"))
    assert len(two["targets"]) == 69 == alone["images"] and (two["targets"] == one["targets"]).all()
    for name in ("stage_logits", "overall_logits"):
        assert two[name] == pytest.approx(one[name], abs=1e-4)
