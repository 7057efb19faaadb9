"""What goes wrong around a training: kills at any moment, broken files, no room, dying workers, odd clocks."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny
from cra_smra import train
from cra_smra.runs import read_checkpoint, read_run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="sends signals and reads /proc"),
    pytest.mark.usefixtures("one_thread"),
]

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["cra_smra.train", "conftest"])
LONG = {"num_classes": 2, "train_per_class": 8, "test_per_class": 4, "batch_size": 4, "out_channels": 8, "epochs": 24}


def killed_at(recipe, run: Path, moment: int) -> None:
    """Train, and die at the so manyth step of writing a file: half of a checkpoint, or before or after a change that
    the file system makes at once. 0 is never.
    """
    torch.set_num_threads(1)
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function):
        def call(*arguments):
            step()
            result = function(*arguments)
            step()
            return result

        return call

    os.replace, os.fsync = around(os.replace), around(os.fsync)
    save = torch.save

    def save_half(state, file) -> None:
        save(state, file)
        if steps + 1 == moment:
            file.truncate(file.tell() // 2)
        step()

    torch.save = save_half
    train(recipe, run, progress=False)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / f"{name}.pt")["model"]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last", "chosen"):
        a, b = weights(one, name), weights(other, name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
    with np.load(one / "predictions.npz") as a, np.load(other / "predictions.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    assert read_run(one)["result"] == read_run(other)["result"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread) -> Path:
    return train(tiny(**LONG), tmp_path_factory.mktemp("faults") / "whole", progress=False)


def test_thirty_kills_in_a_row_change_no_bit(whole, tmp_path):
    """Two of three while a file is written, at a chosen step; the others at a moment of the clock."""
    run, kills, chance = tmp_path / "run", 0, random.Random(0)
    while kills < 30:
        timed = kills % 3 == 2
        child = FORK.Process(target=killed_at, args=(tiny(**LONG), run, 0 if timed else chance.randint(1, 24)))
        child.start()
        if timed:
            child.join(chance.uniform(0.02, 0.6))
            child.kill()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL, f"after {kills} kills it ended with {child.exitcode}"
        kills += 1
    assert not (run / "run.json").is_file() or read_run(run)["status"] == "running"
    train(tiny(**LONG), run, progress=False)
    assert_same_run(run, whole)
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"chosen.pt", "last.pt", "previous.pt"} <= left


def interrupted(tmp_path: Path, moment: int = 60) -> Path:
    """A run that was killed after some epochs."""
    run = tmp_path / "run"
    child = FORK.Process(target=killed_at, args=(tiny(**LONG), run, moment))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL and (run / "checkpoints" / "previous.pt").is_file()
    return run


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: data[:3000] + bytes(2000) + data[5000:],
    ],
    ids=["half", "empty", "zeros", "a hole"],
)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(whole, tmp_path, capsys, spoil):
    run = interrupted(tmp_path)
    last = run / "checkpoints" / "last.pt"
    epochs = len(read_checkpoint(run / "checkpoints" / "previous.pt")["history"])
    last.write_bytes(spoil(last.read_bytes()))
    train(tiny(**LONG), run, progress=False)
    said = capsys.readouterr().err
    assert f"last.pt cannot be read: it is damaged or holds code; going on after epoch {epochs}" in said
    assert_same_run(run, whole)


def test_with_both_checkpoints_damaged_the_run_is_refused_and_left_alone(tmp_path):
    run = interrupted(tmp_path)
    for name in ("last.pt", "previous.pt"):
        (run / "checkpoints" / name).write_bytes(b"PK")
    before = sorted((path, path.read_bytes()) for path in run.rglob("*.*") if path.is_file())
    with pytest.raises(ValueError, match="previous.pt cannot be read"):
        train(tiny(**LONG), run, progress=False)
    assert before == sorted((path, path.read_bytes()) for path in run.rglob("*.*") if path.is_file())


def command(run: Path, *options: str) -> list[str]:
    small = ["--num-classes", "2", "--train-per-class", "8", "--test-per-class", "4", "--image-size", "64"]
    small += ["--batch-size", "4", "--out-channels", "8", "--epochs", "24", "--difficulty", "easy"]
    code = "import torch; torch.set_num_threads(1); from cra_smra.cli import main; main()"
    return [sys.executable, "-c", code, "train", "birds", *small, *options, "--out", str(run)]


def test_no_room_for_a_checkpoint_stops_with_one_line_and_loses_nothing(whole, tmp_path):
    """A limit on the size of files fails in the same place as a full disk, and needs no disk."""
    run = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    found = subprocess.run(command(run), capture_output=True, text=True, preexec_fn=limit, timeout=120)
    lines = [line for line in found.stderr.replace("\r", "\n").splitlines() if line.startswith("cra-smra: ")]
    assert found.returncode == 1 and len(lines) == 1, found.stderr
    assert "Traceback" not in found.stderr
    assert read_run(run)["status"] == "running"
    assert not list(run.rglob("*.part")) and not (run / "checkpoints" / "last.pt").exists()
    train(tiny(**LONG), run, progress=False)
    assert_same_run(run, whole)


def test_sigterm_ends_the_training_with_its_usual_code(whole, tmp_path):
    """For SIGINT see test_train.py."""
    run = tmp_path / "run"
    process = subprocess.Popen(command(run), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "previous.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.replace("\r", "\n").splitlines()[-1].startswith("cra-smra: told to end")
    assert not list(run.rglob("*.part"))
    train(tiny(**LONG), run, progress=False)
    assert_same_run(run, whole)


def test_a_worker_that_dies_ends_the_training_with_one_line(tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command(run, "--workers", "1"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.startswith("cra-smra: ")]
    assert process.returncode == 1 and len(lines) == 1, errors
    assert "worker" in lines[0]


def test_a_clock_that_goes_backwards_changes_nothing(whole, tmp_path, monkeypatch):
    now = [2e9]

    def backwards() -> float:
        now[0] -= 1
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    assert_same_run(train(tiny(**LONG), tmp_path / "run", progress=False), whole)
