"""What a trained network is worth: predictions on a split, kept on disk, and the
numbers drawn from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cra_smra.data import Split
from cra_smra.data.transforms import normalise
from cra_smra.model import fuse
from cra_smra.recipes import Recipe
from cra_smra.runs import read_run, write_whole
from cra_smra.saved import read_trained

if TYPE_CHECKING:
    from accelerate import Accelerator

EVAL_BATCH = 64


@torch.no_grad()
def predict_split(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    statistics: str,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Outputs for every image of a prepared loader, once each and in order, on the CPU.

    Returns ``stage_logits`` (N, stages, K), ``overall_logits`` (N, K) and ``targets``
    (N,), float32 and int64.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    hidden = {} if progress and accelerator.is_main_process else {"disable": True}  # left out, TQDM_DISABLE decides
    was_training = model.training
    model.eval()
    rows: list[tuple[Tensor, ...]] = []
    for images, targets in tqdm(loader, desc="evaluate", leave=False, **hidden):
        output = model(normalise(images, statistics))
        found = accelerator.gather_for_metrics(
            (output.stage_logits, output.overall_logits, targets)
        )
        rows.append(
            tuple(part.float().cpu() if part.is_floating_point() else part.cpu() for part in found)
        )
    model.train(was_training)
    stage_logits, overall_logits, targets = (
        torch.cat(column) for column in zip(*rows, strict=True)
    )
    return {"stage_logits": stage_logits, "overall_logits": overall_logits, "targets": targets}


def metrics(predictions: dict[str, Tensor]) -> dict[str, float | int | list[float]]:
    """Accuracies in [0, 1] from what ``predict_split`` returns.

    ``accuracy`` is top-1 of the mean of the softmax outputs, ``accuracy_logits`` that
    of their summed logits, ``accuracy_stages`` and ``accuracy_overall`` those of the
    single outputs, ``accuracy_classes`` the mean of the accuracies of the classes,
    ``standard_error`` the binomial one of ``accuracy``, ``images`` their number.
    """
    targets = predictions["targets"]
    stages, overall = predictions["stage_logits"], predictions["overall_logits"]
    right = fuse(stages, overall).argmax(dim=1) == targets  # (N,)
    accuracy = right.double().mean().item()
    return {
        "accuracy": accuracy,
        "accuracy_logits": top1(fuse(stages, overall, "logits"), targets),
        "accuracy_stages": [top1(logits, targets) for logits in stages.unbind(dim=1)],
        "accuracy_overall": top1(overall, targets),
        "accuracy_classes": torch.stack(
            [right[targets == k].double().mean() for k in targets.unique()]
        )
        .mean()
        .item(),
        "standard_error": (accuracy * (1 - accuracy) / len(targets)) ** 0.5,
        "images": len(targets),
    }


def top1(scores: Tensor, targets: Tensor) -> float:
    """Share of rows of (N, K) scores whose largest entry is the target."""
    return (scores.argmax(dim=1) == targets).double().mean().item()


def evaluate(
    run: str | Path, split: str = "test", checkpoint: str = "chosen"
) -> dict[str, float | int | list[float]]:
    """Evaluate a run directory on "test" or "val", write the predictions into it and
    return the metrics.

    ``checkpoint`` is "chosen", the epoch that the protocol chose, or "last".
    Predictions go to predictions.npz for the test split, else to predictions_val.npz.
    Raises ValueError when the run or the checkpoint is not there, or when the data set
    is not the one that the run was trained on.
    """
    run = Path(run)
    network, recipe, classes = read_trained(run, checkpoint)
    dataset = recipe.load(split)
    if list(dataset.classes) != classes:
        raise ValueError(f"the classes of {recipe.dataset} are not those that {run} was trained on")
    accelerator = make_accelerator(recipe)
    loader = make_loader(dataset, EVAL_BATCH, recipe.workers)
    model, loader = accelerator.prepare(network.to(memory_format=torch.channels_last), loader)
    predictions = predict_split(model, loader, accelerator, recipe.normalisation)
    if accelerator.is_main_process:
        write_predictions(
            run / ("predictions.npz" if split == "test" else f"predictions_{split}.npz"),
            predictions,
        )
    return metrics(predictions)


WHERE_AND_HOW = ("protocol", "root", "cache", "workers")  # recipe fields that do not make it another experiment


def compare_protocols(clean: str | Path, paper: str | Path) -> dict[str, float | int]:
    """One recipe under both protocols, from two finished run directories: accuracies in
    [0, 1] on the same test images.

    ``clean`` is that of the epoch chosen on held-out images, ``paper`` that of the last
    epoch after training on everything, ``best`` that of the best test epoch, an upper
    bound, since the test images chose it. ``gap`` is ``best`` - ``clean``: what a table
    of best test epochs promises beyond what a clean choice delivers; ``selection`` is
    ``best`` - ``paper``, the part of it that is due to looking. ``standard_error`` is the
    binomial one of ``clean``. Raises ValueError when the runs are not finished, not of
    these protocols, or not of the same recipe.
    """
    records = {}
    for protocol, run in (("clean", clean), ("paper", paper)):
        record = records[protocol] = read_run(run)
        if record["recipe"]["protocol"] != protocol:
            raise ValueError(
                f"{run} was trained by protocol {record['recipe']['protocol']}: "
                "give a run of 'clean', then one of 'paper'"
            )
        if record["status"] != "finished":
            raise ValueError(f"{run} is not finished: give the command that trains it again")
    one, other = (record["recipe"] for record in records.values())
    differing = [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in WHERE_AND_HOW and one.get(name) != other.get(name)
    ]
    if differing:
        raise ValueError(
            f"{clean} and {paper} differ in {', '.join(differing)}: only the protocol may differ"
        )
    results = {name: record["result"] for name, record in records.items()}
    test = results["clean"]["test"]
    last, best = results["paper"]["test"]["accuracy"], results["paper"]["upper_bound_best_test_epoch"]
    return {
        "clean": test["accuracy"],
        "paper": last,
        "best": best,
        "gap": best - test["accuracy"],
        "selection": best - last,
        "standard_error": test["standard_error"],
        "images": test["images"],
        "clean_epoch": results["clean"]["chosen_epoch"],
        "paper_epoch": results["paper"]["chosen_epoch"],
    }


def write_predictions(path: Path, predictions: dict[str, Tensor]) -> None:
    """Write what ``predict_split`` returned as .npz, in full or not at all."""
    arrays = {name: values.numpy() for name, values in predictions.items()}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def make_loader(dataset: Split, batch_size: int, workers: int, **options: object) -> DataLoader:
    """A DataLoader whose processes live on from epoch to epoch, each two batches ahead; with a GPU, batches lie where
    they are copied from without waiting.
    """
    return DataLoader(
        dataset,
        batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )


def make_accelerator(recipe: Recipe) -> Accelerator:
    """accelerate's Accelerator with the recipe's precision; shuffling depends on the
    recipe's seed alone.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration

    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    AcceleratorState._reset_state()  # else a second run in one process could not use another precision
    loading = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed, non_blocking=True)
    return Accelerator(mixed_precision=precision, dataloader_config=loading)
