"""The run directory: what a training leaves behind, written whole or not at all, and read with care."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn
from torch.optim import Optimizer

from cra_smra.recipes import Recipe

RESULTS = Path(__file__).parent / "results"
HOW = ("root", "cache", "workers")  # fields of a recipe that say where and how, and change no number


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is either there in full or not at all, whenever the
    process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # it is there still when the disk was full


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON, in full or not at all."""
    text = json.dumps(value, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_run(run: str | Path) -> dict[str, object]:
    """The contents of a run directory's run.json. Raises ValueError with one line when
    there is none.
    """
    path = Path(run) / "run.json"
    if not path.is_file():
        raise ValueError(f"{run} is not a run directory: it holds no run.json")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def stored_results(experiment: str) -> list[dict[str, object]]:
    """The run.json files that are kept with the package in results/``experiment``/, in
    the order of their names; empty when nothing has been run yet.
    """
    paths = sorted((RESULTS / experiment).glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def read_checkpoint(path: Path) -> dict[str, object]:
    """A checkpoint, read without running any code that it may hold. Raises ValueError
    when it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: train the run first")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(
            f"checkpoint {path} cannot be read: it is damaged or holds code"
        ) from error


def provenance(device: torch.device) -> dict[str, object]:
    """Where and with what a run happens: commit, versions, device."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (
        OSError,
        subprocess.CalledProcessError,
    ):  # installed from a wheel, or no git on this machine
        commit = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    packages = ("cra_smra", "torch", "torchvision", "accelerate", "numpy")
    return {
        "commit": commit,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
    }


def resume_point(run: Path, recipe: Recipe) -> dict[str, object] | None:
    """The last whole epoch of an interrupted run in ``run``, or None when nothing has
    been trained there yet. Where its checkpoint is damaged, the epoch before it, and a
    line on standard error says so.
    """
    if not (run / "run.json").is_file():
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise ValueError(f"{run} exists and is not a run directory: choose another name")
        return None
    stored, given = read_run(run)["recipe"], recipe.to_dict()
    changed = [
        f"{name} {stored.get(name)!r}, now {given[name]!r}"
        for name in given
        if name not in HOW and stored.get(name) != given[name]
    ]
    if changed:
        raise ValueError(
            f"{run} holds a run of another recipe ({'; '.join(changed)}): choose another folder"
        )
    last, previous = (run / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    if not last.is_file():  # it was killed while the two changed their names
        return read_checkpoint(previous) if previous.is_file() else None
    try:
        return read_checkpoint(last)
    except ValueError as error:
        if not previous.is_file():
            raise
        state = read_checkpoint(previous)
        print(f"cra-smra: {error}; going on after epoch {len(state['history'])}, which is whole", file=sys.stderr)
        return state


def save_epoch(
    run: Path,
    network: nn.Module,
    optimizer: Optimizer,
    history: list[dict[str, object]],
    best: bool,
) -> None:
    """Write the metrics and the checkpoints; last.pt comes last, since it is what a
    resume starts from. The one before is kept as previous.pt.
    """
    weights = network.state_dict()
    if best:
        write_whole(
            run / "checkpoints" / "chosen.pt", lambda file: torch.save({"model": weights}, file)
        )
    lines = "".join(json.dumps(row) + "\n" for row in history)
    write_whole(run / "metrics.jsonl", lambda file: file.write(lines.encode()))
    state = {"model": weights, "optimizer": optimizer.state_dict(), "history": history}
    new, last = run / "checkpoints" / "new.pt", run / "checkpoints" / "last.pt"
    write_whole(new, lambda file: torch.save(state, file))
    if last.is_file():
        os.replace(last, last.with_name("previous.pt"))
    os.replace(new, last)
