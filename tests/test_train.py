from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from conftest import tiny
from cra_smra import CRAM, load_dataset, train
from cra_smra.evaluate import make_accelerator, make_loader
from cra_smra.runs import read_run, resume_point
from cra_smra.train import chosen, cosine_factor, parameter_groups, train_epoch


def weights(run, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)["model"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_cosine_runs_from_one_to_zero_and_swings_back():
    assert cosine_factor(0, 100) == 1
    assert cosine_factor(50, 100) == pytest.approx(0.5)
    assert cosine_factor(25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert cosine_factor(100, 100) == pytest.approx(0)
    assert cosine_factor(400, 200) == pytest.approx(1)  # FBSD's rate is back at its start after 400 steps


def test_every_parameter_is_trained_once_and_at_its_own_rate():
    recipe = tiny(lr_backbone=1.0, lr_cram=2.0, lr_heads=3.0)
    model = recipe.build(4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {}
    for group in parameter_groups(model, recipe):
        for parameter in group["params"]:
            assert names[id(parameter)] not in rates
            rates[names[id(parameter)]] = group["lr"]
    assert rates.keys() == set(names.values())
    expected = {"backbone": 1.0, "smram": 1.0, "cram": 2.0, "heads": 3.0, "overall_head": 3.0}
    assert all(rate == expected[name.split(".")[0]] for name, rate in rates.items())
    plain = tiny(method="plain", lr_backbone=1.0, lr_heads=3.0)
    assert [group["lr"] for group in parameter_groups(plain.build(4), plain)] == [1.0, 3.0]


def test_only_what_has_a_learning_rate_moves(tmp_path):
    recipe = tiny(epochs=1, lr_backbone=0.0, lr_cram=0.0, lr_heads=0.01)
    torch.manual_seed(recipe.seed)
    start = dict(recipe.build(4).named_parameters())
    end = weights(train(recipe, tmp_path / "run", progress=False))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and all(name.startswith(("heads", "overall_head")) for name in moved)


def test_the_run_directory_tells_everything(trained):
    record = read_run(trained)
    assert record["status"] == "finished"
    assert record["recipe"] == tiny().to_dict()
    assert record["images"] == {"train": 44, "val": 4}
    assert record["dataset"]["fingerprint"] == load_dataset(
        "birds", num_classes=4, per_class=12, size=64, difficulty="easy"
    ).fingerprint
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"]
    assert record["device"]["type"] == "cpu"
    assert record["wall_time_s"] > 0 and record["images_per_s"] > 0
    history = rows(trained)
    assert all(0 < row["waiting"] < 1 for row in history)
    assert record["waiting"] == pytest.approx(sum(row["waiting"] for row in history) / 3)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for row in history:
        assert len(row["suppressed"]) == 3 and all(0 <= share <= 1 for share in row["suppressed"])
        assert 0 <= row["diversity_loss"] <= 2 / 3 and 0 <= row["overlap"] <= 1
        assert len(row["entropy"]) == 3 and all(0 <= value <= 1 for value in row["entropy"])
        total = 2 * sum(row["loss_stages"]) + row["loss_overall"] + row["diversity_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-4)
        assert "test_accuracy" not in row  # protocol clean looks at the test images once, at the end
    best = max(row["val_accuracy"] for row in history)
    assert history[record["result"]["chosen_epoch"] - 1]["val_accuracy"] == best


def test_training_learns(tmp_path):
    run = train(tiny(epochs=8, train_per_class=24, method="plain"), tmp_path / "run", progress=False)
    assert rows(run)[-1]["train_accuracy"] > 0.5 > 0.25  # chance is 0.25


def test_the_protocol_chooses_the_epoch():
    history = [{"epoch": 1, "val_accuracy": 0.5}, {"epoch": 2, "val_accuracy": 0.7}, {"epoch": 3, "val_accuracy": 0.7}]
    assert chosen(history, tiny()) == 2  # the first of the best
    assert chosen(history, tiny(protocol="paper")) == 3


def test_omega_grows_and_no_epoch_is_chosen_before_it_is_there(tmp_path):
    history = [{"epoch": k + 1, "val_accuracy": value} for k, value in enumerate((0.9, 0.7, 0.8))]
    assert [chosen(history[:n], tiny(omega_warmup=1)) for n in (1, 2, 3)] == [0, 2, 3]
    used = []

    def note(module, *call):
        if isinstance(module, CRAM) and module.training:
            used.append(module.omega)

    recipe = tiny(omega_warmup=1, epochs=2, omega=0.8)
    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        run = train(recipe, tmp_path / "run", progress=False)
    finally:
        hook.remove()
    steps = 44 // recipe.batch_size  # 48 training images, 4 held out
    assert used[::3] == pytest.approx([0.8 * i / steps for i in range(steps)] + [0.8] * steps)  # three CRAMs a step
    assert read_run(run)["result"]["chosen_epoch"] == 2
    with pytest.raises(ValueError, match="omega_warmup must be from 0 to epochs - 1 = 2, got 3"):
        tiny(omega_warmup=3)


def test_protocol_paper_reports_the_last_epoch_and_shows_the_best_as_a_bound(tmp_path):
    run = train(tiny(protocol="paper", epochs=2), tmp_path / "run", progress=False)
    record, history = read_run(run), rows(run)
    assert record["images"] == {"train": 48, "test": 24}
    assert record["result"]["chosen_epoch"] == 2
    assert record["result"]["test"]["accuracy"] == history[-1]["test_accuracy"]
    assert record["result"]["upper_bound_best_test_epoch"] == max(row["test_accuracy"] for row in history)


def start_run(run, *options: str) -> subprocess.Popen:
    small = ["--num-classes", "4", "--train-per-class", "12", "--test-per-class", "6", "--image-size", "64"]
    small += ["--batch-size", "8", "--out-channels", "32", "--epochs", "3", "--difficulty", "easy"]
    code = "import torch; torch.set_num_threads(2); from cra_smra.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "birds", *small, *options, "--out", str(run)]
    # What a shell starts in the background ignores SIGINT, and so would its children.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, preexec_fn=listen)


def wait_for_epoch(run, epoch: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "checkpoints" / "last.pt").is_file() and len(rows(run)) >= epoch:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} was not reached: {process.communicate()}")


@pytest.mark.parametrize(("kill", "workers"), [(signal.SIGKILL, "2"), (signal.SIGINT, "0")])
def test_a_killed_run_ends_with_the_same_weights(trained, tmp_path, kill, workers):
    run = tmp_path / "run"
    process = start_run(run, "--workers", workers)
    wait_for_epoch(run, 1, process)
    os.kill(process.pid, kill)
    process.wait(60)
    assert process.returncode != 0 and read_run(run)["status"] == "running"
    if kill == signal.SIGINT:
        _, errors = process.communicate()
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith("cra-smra: interrupted")
    again = start_run(run)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "accuracy, mean of softmax" in output
    assert re.search(r" training images/s, \d+% of the time waiting for images$", output.splitlines()[-1])
    assert same(weights(run), weights(trained))
    assert same(weights(run, "chosen"), weights(trained, "chosen"))
    timing = ("seconds", "images_per_s", "waiting")
    strip = [{key: value for key, value in row.items() if key not in timing} for row in rows(run)]
    assert strip == [{key: value for key, value in row.items() if key not in timing} for row in rows(trained)]
    assert read_run(run)["result"] == read_run(trained)["result"]


def test_where_the_images_come_from_does_not_make_another_run(trained):
    moved = tiny(root="elsewhere", cache="elsewhere/cache", workers=3)
    assert len(resume_point(trained, moved)["history"]) == 3
    with pytest.raises(ValueError, match=r"another recipe \(batch_size 8, now 4\)"):
        resume_point(trained, replace(moved, batch_size=4))


def test_the_share_of_waiting_counts_every_image_and_nothing_else(monkeypatch):
    clock = [0.0]

    def pass_time(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(sys.modules["cra_smra.train"], "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    recipe = tiny(method="plain")
    split = recipe.load("train")  # 44 images, 5 steps of 8
    split.transform = lambda image: (pass_time(1.0), image)[1]
    network = recipe.build(4)
    network.register_forward_pre_hook(lambda *_: pass_time(24.0))
    accelerator = make_accelerator(recipe)
    optimizer = torch.optim.SGD(parameter_groups(network, recipe), momentum=0.9)
    loader = make_loader(split, recipe.batch_size, 0, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    with tqdm(disable=True) as bar:
        row = train_epoch(0, model, loader, optimizer, recipe, accelerator, bar)
    assert row["waiting"] == 5 * 8 / (5 * 8 + 5 * 24)
    assert row["images_per_s"] == 5 * 8 / (5 * 8 + 5 * 24)


def test_another_seed_gives_other_weights(trained, tmp_path):
    run = train(tiny(seed=1), tmp_path / "run", progress=False)
    assert not torch.equal(weights(run)["heads.0.4.weight"], weights(trained)["heads.0.4.weight"])


def test_a_finished_run_is_left_alone(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert train(tiny(), trained, progress=False) == trained
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*")}


def test_a_folder_with_something_else_in_it_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=r"another recipe \(omega 0.5, now 0.25\)"):
        train(tiny(omega=0.25), trained, progress=False)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is not a run directory"):
        train(tiny(), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_no_checkpoint_of_it(tmp_path):
    with pytest.raises(FloatingPointError, match="the loss is (nan|inf) at epoch 1, step") as caught:
        train(tiny(lr_backbone=1e12, lr_cram=1e12, lr_heads=1e12), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at most the 44 training images, got 64 \(4 more are held out"):
        train(tiny(batch_size=64), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
