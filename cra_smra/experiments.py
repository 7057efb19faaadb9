"""Ablations run: each row with each seed once, kept as a small result file that holds all that the tables need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cra_smra.grids import GRIDS, Row, spelt
from cra_smra.model import fuse
from cra_smra.recipes import Recipe
from cra_smra.runs import read_run, write_json
from cra_smra.train import train

HERE = {"root": None, "cache": None}  # fields of a recipe that say where images lie, which changes no result
# Fields that stand in the name of a run, where they are not the paper's.
NAMED = (
    *("omega", "omega_warmup", "delta", "gamma", "reduction", "neck", "shared_phi", "smram_norm"),
    *("pooling", "head", "cosine", "crop"),
)


class Cell(NamedTuple):
    """A row trained with one seed; ``recipe`` has that seed."""

    row: Row
    recipe: Recipe


def cells(rows: Sequence[Row], seeds: int) -> list[Cell]:
    """Every row with every seed, seed by seed, so that an interrupted ablation has all rows of its first seeds."""
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    return [
        Cell(row, replace(row.recipe, seed=row.recipe.seed + number)) for number in range(seeds) for row in rows
    ]


def portable(recipe: Recipe) -> Recipe:
    """The recipe without what belongs to one machine: folders, also that of a file of weights, which its name stands
    for.
    """
    return replace(recipe, **HERE, weights=recipe.weights and Path(recipe.weights).name)


def identity(recipe: Recipe) -> dict[str, object]:
    """The fields of the portable recipe that differ from Recipe's defaults. So a field that is new in a later version,
    at its default, makes no other cell.
    """
    values = portable(recipe).to_dict()
    return {field.name: values[field.name] for field in fields(recipe) if values[field.name] != field.default}


def cell_name(recipe: Recipe) -> str:
    """A readable name that follows from the recipe alone, so that two grids share the cells that they have in common:
    modules, learning rate, other readings, seed and eight digits of a hash of all fields.
    """
    modules = "-".join(filter(None, (recipe.cram, "smram" if recipe.smram else None))) or "heads"
    parts = ["plain" if recipe.method == "plain" else modules, f"rate{recipe.lr_backbone:g}"]
    parts += [f"{field}-{spelt(value)}" for field, value in identity(recipe).items() if field in NAMED]
    digest = hashlib.sha256(json.dumps(identity(recipe), sort_keys=True).encode()).hexdigest()
    return "-".join([*parts, f"seed{recipe.seed}", digest[:8]])


def run_cell(cell: Cell, rows: Sequence[Row], out: Path, results: Path, *, progress: bool = False) -> dict[str, object]:
    """The result of one cell: read if it is there, else trained in a folder of ``out`` and written into ``results``.

    An interrupted training goes on; one that is finished is not repeated. A training whose loss is no longer finite is
    a result too, of status "diverged" and without accuracies. Raises ValueError when a file of that name holds another
    recipe.
    """
    name = cell_name(cell.recipe)
    result = stored_cell(cell, rows, results)
    if result is None:
        result = heading(cell.row, rows) | train_cell(cell.recipe, out / name, progress)
        for checkpoint in ("last.pt", "previous.pt"):  # most of its size, for resuming only
            (out / name / "checkpoints" / checkpoint).unlink(missing_ok=True)
    if not (results / f"{name}.json").is_file():
        write_json(results / f"{name}.json", result)
    return result


def stored_cell(cell: Cell, rows: Sequence[Row], results: Path) -> dict[str, object] | None:
    """The result of one cell in the folder ``results`` or in another grid's folder beside it; None if there is none."""
    name = f"{cell_name(cell.recipe)}.json"
    folders = (results, *(results.parent / grid for grid in GRIDS))  # others there are no grids, such as attention
    place = next((folder / name for folder in folders if (folder / name).is_file()), None)
    return None if place is None else read_result(place, cell.recipe) | heading(cell.row, rows)


def heading(row: Row, rows: Sequence[Row]) -> dict[str, object]:
    """What a result file says of its place in a table, so that tables can be made from result files alone."""
    return {"row": row.name, "against": row.against, "rows": [row.name for row in rows]}


def read_result(path: Path, recipe: Recipe) -> dict[str, object]:
    """A result file; raises ValueError unless it holds a finished run of ``recipe``."""
    try:
        result = json.loads(path.read_text())
        same = identity(Recipe.from_dict(result["recipe"])) == identity(recipe)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a run: remove it, and it is made again") from error
    if not same:
        raise ValueError(f"{path} holds another recipe than its name says: remove it, and it is made again")
    return result


def train_cell(recipe: Recipe, run: Path, progress: bool) -> dict[str, object]:
    """Train, or go on, and return what there is to keep of the run."""
    there = (run / "run.json").is_file() and read_run(run)["status"] == "finished"
    measured = torch.cuda.is_available() and not there
    if measured:
        torch.cuda.reset_peak_memory_stats()
    try:
        train(recipe, run, progress=progress)
    except FloatingPointError as error:
        return machine_free(read_run(run)) | {"status": "diverged", "reason": str(error)}
    return describe(run, torch.cuda.max_memory_allocated() if measured else None)


def machine_free(record: dict[str, object]) -> dict[str, object]:
    """A run.json for keeping: without folders of one machine, and without the list of classes, which may be long."""
    dataset = {key: value for key, value in record["dataset"].items() if key != "classes"}
    return record | {"recipe": portable(Recipe.from_dict(record["recipe"])).to_dict(), "dataset": dataset}


def describe(run: Path, peak: int | None = None) -> dict[str, object]:
    """What a finished run directory says, small enough to keep: run.json, the held-out accuracy of the chosen epoch,
    the last epoch's attention, operations and memory, and which test images were right.

    ``peak``, the largest memory of the GPU in bytes, is None where there is no GPU or the run was there already.
    ``flops`` are those of one image's forward pass in evaluation mode, a multiplication and an addition counted as two.
    ``right`` is one bit for each test image, packed, in hexadecimal digits; ``right_images`` reads it.
    """
    record = read_run(run)
    recipe = Recipe.from_dict(record["recipe"])
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with np.load(run / "predictions.npz") as arrays:
        stages, overall, targets = (
            torch.from_numpy(arrays[name]) for name in ("stage_logits", "overall_logits", "targets")
        )
    right = (fuse(stages, overall).argmax(dim=1) == targets).numpy()  # (N,)
    kept = ("train_accuracy", "suppressed")
    if "overlap" in history[-1]:  # there is SMRAM
        kept += ("overlap", "entropy", "diversity_loss")
    return machine_free(record) | {
        "held_out_accuracy": history[record["result"]["chosen_epoch"] - 1].get("val_accuracy"),
        "last_epoch": {name: history[-1][name] for name in kept if name in history[-1]},
        "flops": count_flops(recipe, len(record["dataset"]["classes"])),
        "peak_memory_bytes": peak,
        "right": np.packbits(right).tobytes().hex(),
    }


def count_flops(recipe: Recipe, num_classes: int) -> int:
    """Floating-point operations of one image's forward pass in evaluation mode."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():  # shapes without values: nothing is computed
        network = replace(recipe, weights=None).build(num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, recipe.image_size, recipe.image_size))
    return counter.get_total_flops()


def right_images(result: dict[str, object]) -> np.ndarray:
    """Which test images a result's run had right: (N,) bool."""
    packed = np.frombuffer(bytes.fromhex(result["right"]), dtype=np.uint8)
    return np.unpackbits(packed, count=result["result"]["test"]["images"]).astype(bool)
