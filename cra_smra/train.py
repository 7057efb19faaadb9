"""The training loop: two learning rates, cosine decay, checkpoints, and a resume that
changes nothing.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from cra_smra.attention import entropy, overlap
from cra_smra.cram import CRAM
from cra_smra.data.transforms import normalise
from cra_smra.evaluate import (
    EVAL_BATCH,
    make_accelerator,
    make_loader,
    metrics,
    predict_split,
    write_predictions,
)
from cra_smra.losses import total_loss
from cra_smra.model import CRASMRA, PlainNetwork, fuse
from cra_smra.recipes import Recipe
from cra_smra.runs import (
    provenance,
    read_checkpoint,
    read_run,
    resume_point,
    save_epoch,
    write_json,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

SWING = 200  # steps; FBSD's released code steps a cosine with T_max = 200 once per iteration
PROBE = 64  # images on which the attention is inspected after every epoch


def cosine_factor(step: int, period: int) -> float:
    """What the learning rates are multiplied by at ``step``, counted from 0: (1 +
    cos(pi * step / period)) / 2.
    """
    return 0.5 * (1 + math.cos(math.pi * step / period))


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """The network's parameters with their learning rates: backbone and SMRAM, CRAM,
    classifiers.
    """
    rates = {"backbone": recipe.lr_backbone, "smram": recipe.lr_backbone, "cram": recipe.lr_cram}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(name.split(".")[0], []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate}
        for part, parameters in groups.items()
        for rate in [rates.get(part, recipe.lr_heads)]
    ]


def inspect(model: CRASMRA | PlainNetwork, images: Tensor) -> dict[str, float | list[float]]:
    """What the attention does on normalised images: suppressed share per stage, overlap
    and entropy of the maps.
    """
    if isinstance(model, PlainNetwork):
        return {}
    model.eval()
    found = model.inspect(images)
    log: dict[str, float | list[float]] = {}
    if found.suppressed is not None:
        log["suppressed"] = found.suppressed.tolist()
    if found.attention is not None:
        maps = found.attention.float()
        log["overlap"] = overlap(maps).mean().item()
        log["entropy"] = entropy(maps).mean(dim=0).tolist()
    return log


def train_epoch(
    epoch: int,
    model: nn.Module,
    loader: DataLoader,
    optimizer: Optimizer,
    recipe: Recipe,
    accelerator: Accelerator,
    bar: tqdm,
) -> dict[str, float | list[float]]:
    """One pass over the training images; returns the means of the losses, the accuracy
    while training, images per second, and the share of the time that was spent waiting
    for images, the first batch included.
    """
    # Everything random in an epoch follows from seed and epoch, so resuming needs no state of any generator.
    seed = recipe.seed * 1_000_003 + epoch
    torch.manual_seed(seed)
    loader.dataset.seed_draws(seed)
    loader.set_epoch(epoch)
    model.train()
    bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
    began = time.perf_counter()
    steps = len(loader)
    period = recipe.epochs * steps if recipe.cosine == "run" else SWING
    rows: list[
        Tensor
    ] = []  # loss, joint loss, L_div, share right, stage losses: stays on the device
    waited, asked = 0.0, began
    for index, (images, targets) in enumerate(loader):
        waited += time.perf_counter() - asked
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * cosine_factor(epoch * steps + index, period)
        if recipe.omega_warmup:
            set_omega(model, recipe.omega * min(1, (epoch + index / steps) / recipe.omega_warmup))
        output = model(
            normalise(images, recipe.normalisation).contiguous(memory_format=torch.channels_last)
        )
        loss, parts = total_loss(output, targets, recipe.alpha, recipe.beta, recipe.gamma)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        right = fuse(output.stage_logits, output.overall_logits).argmax(dim=1) == targets
        scalars = torch.stack([loss.detach(), parts.overall, parts.diversity, right.float().mean()])
        rows.append(torch.cat([scalars, parts.stages]).float())
        # Looking at the loss one step late leaves a GPU a step of work in its queue meanwhile.
        if index > 0:
            bar.set_postfix(
                loss=f"{finite(rows[index - 1][0].item(), epoch, index - 1):.3f}", refresh=False
            )
        bar.update()
        asked = time.perf_counter()
    finite(rows[-1][0].item(), epoch, steps - 1)
    means = accelerator.reduce(torch.stack(rows).mean(dim=0), "mean").tolist()
    seconds = time.perf_counter() - began
    return {
        "loss": means[0],
        "loss_stages": means[4:],
        "loss_overall": means[1],
        "diversity_loss": means[2],
        "train_accuracy": means[3],
        "images_per_s": steps * recipe.batch_size * accelerator.num_processes / seconds,
        "waiting": waited / seconds,
    }


def set_omega(model: nn.Module, omega: float) -> None:
    """Give every CRAM of the network this omega."""
    for module in model.modules():
        if isinstance(module, CRAM):
            module.omega = omega


def finite(loss: float, epoch: int, step: int) -> float:
    """The loss itself; raises FloatingPointError when it is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at epoch {epoch + 1}, step {step + 1}: a finite number is needed; "
            "lower the learning rates, or look for broken images. The last whole epoch is kept."
        )
    return loss


def train(recipe: Recipe, run: str | Path, *, progress: bool = True) -> Path:
    """Train a network as the recipe says, into the directory ``run``, and return that
    directory.

    Writes run.json (recipe, commit, versions, device, data set, times, result),
    metrics.jsonl (a line per epoch), checkpoints/last.pt and chosen.pt, and at the end
    predictions.npz for the test images. When ``run`` holds an interrupted run of the
    same recipe, training goes on after its last whole epoch, and on a CPU ends with the
    same weights, bit for bit, as if it had never stopped; a finished run is left as it
    is.

    Protocol "clean": after every epoch the held-out images are predicted, the best
    epoch is chosen, and the test images are predicted once, at the end. Protocol
    "paper": the last epoch is chosen; the test images are predicted after every epoch,
    so that the best of them can be shown as what it is, an upper bound.

    Raises ValueError when ``run`` holds something else, FloatingPointError when the
    loss is not finite.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    run = Path(run)
    state = resume_point(run, recipe)
    if (run / "run.json").is_file() and read_run(run)["status"] == "finished":  # last.pt may be gone
        return run
    accelerator = make_accelerator(recipe)
    watched = "val" if recipe.protocol == "clean" else "test"
    train_set, watched_set = recipe.load("train"), recipe.load(watched)
    # A list of test images that cannot be read must show now, not after days of training.
    test_set = watched_set if watched == "test" else recipe.load("test")
    if len(train_set) < recipe.batch_size:
        raise ValueError(
            f"batch_size must be at most the {len(train_set)} training images, got {recipe.batch_size}"
            + f" ({len(watched_set)} more are held out to choose the epoch)" * (watched == "val")
        )
    if state is not None and read_run(run)["dataset"]["fingerprint"] != train_set.fingerprint:
        raise ValueError(f"{run} was trained on other data of the same name: choose another folder")

    torch.manual_seed(recipe.seed)
    network = recipe.build(len(train_set.classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        parameter_groups(network, recipe),
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    history: list[dict[str, object]] = []  # a row per epoch
    if state is not None:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    loader = make_loader(
        train_set, recipe.batch_size, recipe.workers, shuffle=True, drop_last=True
    )
    watched_loader = make_loader(watched_set, EVAL_BATCH, recipe.workers)
    probe = torch.stack(
        [watched_set[i][0] for i in range(0, len(watched_set), -(-len(watched_set) // PROBE))]
    )
    probe = normalise(probe.to(accelerator.device), recipe.normalisation)
    model, optimizer, loader, watched_loader = accelerator.prepare(
        network, optimizer, loader, watched_loader
    )

    record = {
        "status": "running",
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "dataset": {
            "name": recipe.dataset,
            "fingerprint": train_set.fingerprint,
            "classes": list(train_set.classes),
        },
        "images": {"train": len(train_set), watched: len(watched_set)},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **provenance(accelerator.device),
    }
    if accelerator.is_main_process:
        write_json(run / "run.json", record)

    first = len(history)
    hidden = {} if progress and accelerator.is_main_process else {"disable": True}
    with tqdm(
        total=recipe.epochs * len(loader),
        initial=first * len(loader),
        mininterval=1,
        **hidden,
    ) as bar:
        for epoch in range(first, recipe.epochs):
            began = time.perf_counter()
            row = {"epoch": epoch + 1} | train_epoch(
                epoch, model, loader, optimizer, recipe, accelerator, bar
            )
            found = metrics(predict_split(model, watched_loader, accelerator, recipe.normalisation, progress))
            row |= {
                f"{watched}_accuracy": found["accuracy"],
                f"{watched}_accuracy_stages": found["accuracy_stages"],
            }
            row |= inspect(network, probe)
            row["seconds"] = time.perf_counter() - began
            history.append(row)
            if accelerator.is_main_process:
                save_epoch(run, network, optimizer, history, chosen(history, recipe) == epoch + 1)
            accelerator.wait_for_everyone()

    network.load_state_dict(read_checkpoint(run / "checkpoints" / "chosen.pt")["model"])
    set_omega(network, recipe.omega)
    test_loader = accelerator.prepare(
        make_loader(test_set, EVAL_BATCH, recipe.workers)
    )
    predictions = predict_split(model, test_loader, accelerator, recipe.normalisation, progress)
    if accelerator.is_main_process:
        write_predictions(run / "predictions.npz", predictions)
        result = {"chosen_epoch": chosen(history, recipe), "test": metrics(predictions)}
        if recipe.protocol == "paper":
            result["upper_bound_best_test_epoch"] = max(row["test_accuracy"] for row in history)
        waits = [row["waiting"] for row in history if "waiting" in row]  # not in rows of older versions
        record |= {
            "status": "finished",
            "wall_time_s": sum(row["seconds"] for row in history),
            "images_per_s": sum(row["images_per_s"] for row in history) / len(history),
            "waiting": sum(waits) / len(waits) if waits else None,
            "result": result,
        }
        write_json(run / "run.json", record)
    accelerator.wait_for_everyone()
    return run


def chosen(history: list[dict[str, object]], recipe: Recipe) -> int:
    """The epoch that the protocol reports, from 1: the last, or the first of the best
    on the held-out images; 0 as long as omega grows.
    """
    if recipe.protocol == "paper":
        return len(history)
    if len(history) <= recipe.omega_warmup:
        return 0
    return max(history[recipe.omega_warmup :], key=lambda row: (row["val_accuracy"], -row["epoch"]))["epoch"]
