"""Cells: run once, shared, resumed, and kept whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import refused, tiny
from cra_smra import Recipe, train
from cra_smra.cli import main
from cra_smra.experiments import cell_name, cells, count_flops, right_images, run_cell, stored_cell
from cra_smra.grids import base_recipe, grid
from cra_smra.runs import read_run
from cra_smra.tables import HELD_OUT, markdown, table

SMALL = "--num-classes 3 --train-per-class 8 --test-per-class 7 --image-size 64 --batch-size 4 --out-channels 32"
SMALL = [*SMALL.split(), "--epochs", "2", "--difficulty", "easy"]
BASE = replace(
    base_recipe("birds"),
    **{"num_classes": 3, "train_per_class": 8, "test_per_class": 7, "image_size": 64, "batch_size": 4},
    **{"out_channels": 32, "epochs": 2, "difficulty": "easy"},
)
ROWS = grid("table3", BASE)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, one_thread):
    """Table 3 with one seed, small; tests only read it."""
    out = tmp_path_factory.mktemp("ablate") / "out"
    main(["ablate", "table3", *SMALL, "--seeds", "1", "--out", str(out)])
    return out


def results(out: Path, name: str = "table3") -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "results" / name).iterdir()}


def numbers(out: Path) -> dict[str, object]:
    """All of a table's results but what depends on the clock."""
    timed = ("wall_time_s", "images_per_s", "waiting")
    return {name: {k: v for k, v in result.items() if k not in timed} for name, result in results(out).items()}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_cells_are_run_seed_by_seed():
    order = [(cell.row.name, cell.recipe.seed) for cell in cells(ROWS[:2], 2)]
    assert order == [("plain backbone", 0), ("heads", 0), ("plain backbone", 1), ("heads", 1)]
    later = [replace(BASE, seed=5)]
    assert [cell.recipe.seed for cell in cells(grid("table4", later[0]), 2)][::7] == [5, 6]
    refused("seeds must be at least 1, got 0", cells, ROWS, 0)


def test_a_cell_s_name_follows_from_every_field_of_the_recipe_but_the_folders():
    other = {"dataset": "cub", "root": "elsewhere", "cache": "elsewhere", "weights": "else/w.pth", "crop": "centre"}
    other |= {"protocol": "paper", "difficulty": "hard", "normalisation": "half", "method": "plain", "cram": "cbam"}
    other |= {"backbone": "resnet18", "neck": "fbsd", "pooling": "mean", "head": "linear", "cosine": "swinging"}
    other |= {"smram_norm": "map", "precision": "no"}
    names = {cell_name(BASE)}
    for field in fields(Recipe):
        value = getattr(BASE, field.name)
        if field.name in other:
            value = other[field.name]
        else:
            value = not value if isinstance(value, bool) else value + 1
        name = cell_name(replace(BASE, **{field.name: value}))
        assert (name in names) == (field.name in ("root", "cache")), field.name
        names.add(name)
    assert cell_name(replace(BASE, weights="here/w.pth")) == cell_name(replace(BASE, weights="there/w.pth"))


def test_names_of_cells_stay_as_they_are_since_results_are_kept_under_them():
    # A new field of Recipe must not change them, if its default is what was done before.
    assert cell_name(Recipe(dataset="birds", delta=0.7, seed=3)) == "cram-smram-rate0.0002-delta-0.7-seed3-ecadc088"
    assert cell_name(Recipe(method="plain", lr_backbone=0.02)).startswith("plain-rate0.02-seed0-")
    assert cell_name(Recipe(cram=None, smram=False)).startswith("heads-rate0.0002-seed0-")


def test_every_cell_is_there_and_says_what_was_run(ablated):
    found = results(ablated)
    assert set(found) == {cell_name(row.recipe) for row in ROWS}
    for row in ROWS:
        result, run = found[cell_name(row.recipe)], ablated / cell_name(row.recipe)
        record = read_run(run)
        assert (result["row"], result["against"]) == (row.name, row.against)
        assert result["rows"] == [row.name for row in ROWS]
        assert Recipe.from_dict(result["recipe"]) == row.recipe
        for key in ("status", "seed", "commit", "versions", "device", "wall_time_s", "parameters", "result"):
            assert result[key] == record[key], key
        assert result["dataset"] == {key: record["dataset"][key] for key in ("name", "fingerprint")}
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert result["held_out_accuracy"] == max(epoch["val_accuracy"] for epoch in history)
        assert result["peak_memory_bytes"] is None or torch.cuda.is_available()
        assert ("suppressed" in result["last_epoch"]) == (row.recipe.cram == "cram" and row.recipe.method != "plain")
        modules = row.recipe.smram and row.recipe.method != "plain"
        assert {"overlap", "entropy", "diversity_loss"}.isdisjoint(result["last_epoch"]) != modules
        assert str(ablated) not in json.dumps(result)


def test_the_images_that_were_right_come_back_bit_by_bit(ablated):
    for name, result in results(ablated).items():
        with np.load(ablated / name / "predictions.npz") as arrays:
            logits = np.concatenate([arrays["stage_logits"], arrays["overall_logits"][:, None]], axis=1)  # (N, 4, K)
            targets = arrays["targets"]
        e = np.exp(logits - logits.max(axis=2, keepdims=True))
        expected = (e / e.sum(axis=2, keepdims=True)).mean(axis=1).argmax(axis=1) == targets
        right = right_images(result)
        assert right.dtype == bool and (right == expected).all()
        assert right.mean() == result["result"]["test"]["accuracy"]
        assert len(right) == 21 and len(result["right"]) == 6  # 21 bits in 3 bytes


def test_a_finished_ablation_is_left_alone_and_its_runs_are_small(ablated, capsys):
    before = times(ablated)
    assert {path.name for path in before if path.suffix == ".pt"} == {"chosen.pt"}
    main(["ablate", "table3", *SMALL, "--seeds", "1", "--out", str(ablated)])
    printed = capsys.readouterr().out
    assert printed == (ablated / "tables" / "table3.md").read_text() and "| heads + CRAM + SMRAM | 1 |" in printed
    after = times(ablated)
    assert after.keys() == before.keys()
    assert {path.parent.name for path in after if after[path] != before[path]} <= {"tables", "out"}
    run = ablated / cell_name(ROWS[1].recipe)
    assert train(ROWS[1].recipe, run, progress=False) == run  # without last.pt it is still finished
    assert times(run) == {path: time for path, time in before.items() if run in path.parents}


def test_tables_are_written_in_three_forms(ablated):
    stored = json.loads((ablated / "tables" / "table3.json").read_text())
    assert stored == table(list(results(ablated).values()))
    lines = (ablated / "tables" / "table3.csv").read_text().splitlines()
    assert lines[0].startswith("row,") and len(lines) == 7


def test_two_grids_share_a_cell_though_the_run_is_gone(ablated, tmp_path):
    rows = grid("table4", BASE)
    nine = next(row for row in rows if row.name == "delta 0.9")
    [cell] = [cell for cell in cells(rows, 1) if cell.row == nine]
    found = run_cell(cell, rows, tmp_path, ablated / "results" / "table4")
    assert list(tmp_path.iterdir()) == []  # nothing was trained
    original = results(ablated)[cell_name(BASE)]
    assert found == results(ablated, "table4")[cell_name(BASE)]
    assert found["row"] == "delta 0.9" and len(found["rows"]) == 7 and original["row"] == "heads + CRAM + SMRAM"
    place = ("row", "rows", "against")
    assert {k: v for k, v in found.items() if k not in place} == {k: v for k, v in original.items() if k not in place}


def test_a_file_of_the_same_name_that_is_no_grid_s_is_left_alone(ablated, tmp_path):
    """Measured attention lies beside the grids, under the names of the same runs."""
    cell = cells(ROWS, 1)[3]
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / f"{cell_name(cell.recipe)}.json").write_text('{"attention": {}}')
    assert stored_cell(cell, ROWS, tmp_path / "table3") is None
    found = run_cell(cell, ROWS, ablated, tmp_path / "table3")
    assert found == results(ablated)[cell_name(cell.recipe)]


def test_a_result_that_was_lost_is_made_again_from_the_finished_run(ablated, tmp_path):
    cell = cells(ROWS, 1)[3]
    before = times(ablated / cell_name(cell.recipe))
    found = run_cell(cell, ROWS, ablated, tmp_path / "results" / "table3")
    assert found == results(ablated)[cell_name(cell.recipe)] and times(ablated / cell_name(cell.recipe)) == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:100], "is not the result of a run"),
        (lambda text: "[]", "is not the result of a run"),
        (lambda text: text.replace('"delta": 0.9', '"delta": 0.8'), "holds another recipe than its name says"),
    ],
)
def test_a_result_that_is_not_the_cell_s_is_refused(ablated, tmp_path, spoil, message):
    cell = cells(ROWS, 1)[4]
    name = f"{cell_name(cell.recipe)}.json"
    (tmp_path / "table3").mkdir()
    (tmp_path / "table3" / name).write_text(spoil((ablated / "results" / "table3" / name).read_text()))
    text = refused(message, run_cell, cell, ROWS, tmp_path / "runs", tmp_path / "table3")
    assert "remove it, and it is made again" in text and not (tmp_path / "runs").exists()


def start(out: Path) -> subprocess.Popen:
    code = "import torch; torch.set_num_threads(1); from cra_smra.cli import main; main()"
    command = [sys.executable, "-c", code, "ablate", "table3", *SMALL, "--seeds", "1", "--out", str(out)]
    # What a shell starts in the background ignores SIGINT, and so would its children.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, preexec_fn=listen)


def stop(process: subprocess.Popen, out: Path, kind: signal.Signals, pause: float) -> str:
    """Stop the process ``pause`` seconds after its next result; returns what it said."""
    before, deadline = set(out.rglob("results/*/*.json")), time.monotonic() + 600  # a busy machine may need minutes
    while set(out.rglob("results/*/*.json")) == before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    time.sleep(pause)
    os.kill(process.pid, kind)
    return process.communicate(timeout=600)[1]


def test_an_ablation_stopped_at_any_moment_ends_with_the_same_table(ablated, tmp_path):
    out, random_moment = tmp_path / "out", random.Random(os.urandom(8)).uniform(0, 0.3)
    process = start(out)
    errors = stop(process, out, signal.SIGINT, 0.1)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("cra-smra: interrupted; a training goes on after its last whole epoch")
    process = start(out)
    stop(process, out, signal.SIGKILL, random_moment)
    assert process.returncode == -signal.SIGKILL, f"after {random_moment} s it was finished"
    for path in out.rglob("results/*/*.json"):
        json.loads(path.read_text())  # what is there is whole
    assert 2 <= len(results(out)) < 6
    main(["ablate", "table3", *SMALL, "--seeds", "1", "--out", str(out)])
    assert numbers(out) == numbers(ablated), f"killed after {random_moment} s"
    assert (out / "tables" / "table3.md").read_text().split("\n\n")[0] == (
        (ablated / "tables" / "table3.md").read_text().split("\n\n")[0]
    )


def test_a_loss_that_is_not_finite_is_a_result_and_the_other_cells_go_on(tmp_path):
    rows = grid("rates", replace(BASE, epochs=1), rates=[1e-3, 1e12])[2:4]  # the heads
    folders = rows, tmp_path / "runs", tmp_path / "results" / "rates"
    good, lost = [run_cell(cell, *folders) for cell in cells(rows, 1)]
    assert good["status"] == "finished"
    assert lost["status"] == "diverged" and "the loss is" in lost["reason"] and "right" not in lost
    before = times(tmp_path)
    assert [run_cell(cell, *folders) for cell in cells(rows, 1)] == [good, lost] and times(tmp_path) == before
    lines = markdown(table([good, lost]), HELD_OUT).splitlines()
    assert lines[2].endswith("| best |") and "| 0, 1 diverged | " in lines[3] and lines[3].endswith("| diverged |  |")


def test_show_trains_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["ablate", "table4", "--show"])
    printed = capsys.readouterr().out
    assert printed.count("not run") == 7 and printed.endswith("Nothing has been run yet.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["table3", "--seeds", "0"], 1, "seeds must be at least 1, got 0"),
        (["rates", "--protocol", "paper"], 1, "protocol must be 'clean', got 'paper'"),
        (["table3", "--base", "folder", "--root", "nowhere"], 1, "there is no folder nowhere"),
        (["table3", "--dataset", "cub"], 1, "dataset cannot be given: --base chooses the data set"),
        (["ledger", "--cram", "cbam"], 1, "cram cannot be given"),
        (["table4", "--delta", "0.8"], 1, "delta cannot be given"),
        (["table3", "--base", "cats"], 2, "cats"),
        (["table7"], 2, "table7"),
    ],
)
def test_a_mistake_is_answered_and_leaves_nothing(tmp_path, capsys, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["ablate", *arguments])
    errors = capsys.readouterr().err
    assert caught.value.code == code and words in errors
    assert list(tmp_path.iterdir()) == []


def test_operations_of_the_plain_network_as_its_layers_have_them():
    recipe = tiny(method="plain")
    network, found = recipe.build(4).eval(), 0

    def count(layer, inputs, output):
        nonlocal found
        found += 2 * output.numel() * layer.weight[0].numel()  # a product and a sum for each weight of each output

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(torch.zeros(1, 3, 64, 64))
    assert count_flops(recipe, 4) == found


def test_operations_are_those_of_prediction():
    assert count_flops(tiny(smram=True), 4) == count_flops(tiny(smram=False), 4)  # SMRAM is not there
    assert count_flops(tiny(cram=None), 4) < count_flops(tiny(), 4)
    conv = count_flops(replace(tiny(), image_size=128), 4) / count_flops(tiny(), 4)
    assert 3.8 < conv < 4  # four times the pixels; the classifiers see none of it
