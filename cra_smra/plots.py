"""The figures of the book, each a function of data that returns a matplotlib figure.

All of them are drawn on an opaque sheet of their own, so that they read the same on a light and on a dark page.
Series differ in lightness, dash and marker as well as in hue, so that they survive a print in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

PAPER = "#fbfaf6"
INK = "#2b2b2b"
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
STAGES = ("stage 3", "stage 4", "stage 5")


def style() -> AbstractContextManager[None]:
    """The look shared by all figures, as a context."""
    return plt.rc_context(
        {
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.dpi": 110,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddad2",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def as_picture(image: Tensor) -> Tensor:
    """An image (3, H, W), uint8 or float in [0, 1], as matplotlib takes it: (H, W, 3) on the CPU."""
    return image.permute(1, 2, 0).cpu()


def bare(axes: Axes) -> Axes:
    """Axes without ticks, grid and frame, for a picture."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def picture_grid(images: Tensor, titles: Sequence[str] = (), columns: int = 5) -> Figure:
    """Images (N, 3, H, W), uint8 or float in [0, 1], in rows of ``columns``, with a title over each."""
    with style():
        rows = -(-len(images) // columns)
        height = 1.55 if titles else 1.3
        figure, grid = plt.subplots(rows, columns, figsize=(1.4 * columns, height * rows), squeeze=False)
        for place, axes in enumerate(grid.flat):
            bare(axes)
            if place < len(images):
                axes.imshow(as_picture(images[place]))
            if place < len(titles):
                axes.set_title(titles[place].replace(" ", "\n", 1), fontsize=8)
    return figure


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], watched: str = "val") -> Figure:
    """Accuracy on the training and on the ``watched`` images by epoch, one colour for each named run.

    A history is the list of rows of a run's metrics.jsonl.
    """
    with style():
        figure, axes = plt.subplots(figsize=(6.2, 3.4))
        for index, (name, rows) in enumerate(histories.items()):
            epochs = [row["epoch"] for row in rows]
            line = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4}
            axes.plot(epochs, [100 * row[f"{watched}_accuracy"] for row in rows], label=f"{name}, {watched}", **line)
            train = [100 * row["train_accuracy"] for row in rows]
            axes.plot(epochs, train, linestyle=":", alpha=0.8, label=f"{name}, while training", **line)
        axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 100))
        axes.legend()
    return figure


def attention_log(rows: Sequence[Mapping[str, object]]) -> Figure:
    """What the attention did by epoch, from metrics.jsonl: suppressed share, L_div beside overlap, entropy."""
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8.4, 2.8), sharex=True)
        epochs = [row["epoch"] for row in rows]
        for index, stage in enumerate(STAGES):
            line = {
                "color": COLOURS[index],
                "linestyle": DASHES[index],
                "marker": MARKERS[index],
                "markersize": 3,
                "label": stage,
            }
            left.plot(epochs, [100 * row["suppressed"][index] for row in rows], **line)
            right.plot(epochs, [row["entropy"][index] for row in rows], **line)
        middle.plot(epochs, [row["diversity_loss"] for row in rows], color=COLOURS[0], label="L_div, training")
        middle.plot(epochs, [row["overlap"] for row in rows], color=COLOURS[1], linestyle="--", label="overlap")
        left.set(title="suppressed channels, %", ylim=(0, 105), xlabel="epoch")
        middle.set(title="difference of the maps", ylim=(0, 0.7), xlabel="epoch")
        right.set(title="entropy, 1 = flat", ylim=(0, 1.05), xlabel="epoch")
        left.legend(fontsize=8)
        middle.legend(fontsize=8)
    return figure


def stage_maps(images: Tensor, maps: Tensor, titles: Sequence[str] = ()) -> Figure:
    """Images (N, 3, H, W) in the first row, below them the stages' maps (N, stages, P) laid over the images.

    P must be a square number. Each map is scaled to its own maximum; the caption should say so.
    """
    side = round(maps.shape[-1] ** 0.5)
    count, stages = maps.shape[:2]
    with style():
        figure, grid = plt.subplots(stages + 1, count, figsize=(1.35 * count, 1.35 * (stages + 1)), squeeze=False)
        for column in range(count):
            picture = as_picture(images[column])
            bare(grid[0, column]).imshow(picture)
            if column < len(titles):
                grid[0, column].set_title(titles[column].replace(" ", "\n", 1), fontsize=8)
            for stage in range(stages):
                heat = maps[column, stage].reshape(1, 1, side, side).float().cpu()
                heat = F.interpolate(heat, size=picture.shape[:2], mode="bilinear")[0, 0]
                axes = bare(grid[stage + 1, column])
                axes.imshow(picture.float().mean(dim=2), cmap="gray", alpha=0.55)
                axes.imshow(heat / heat.amax().clamp_min(torch.finfo(heat.dtype).tiny), cmap="magma", alpha=0.6)
                if column == 0:
                    axes.set_ylabel(STAGES[stage])
    return figure


def lines(series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> Figure:
    """Named series of equal length against their index, told apart by colour and dash."""
    with style():
        figure, axes = plt.subplots(figsize=(6.2, 2.8))
        for index, (name, values) in enumerate(series.items()):
            axes.plot(values, color=COLOURS[index], linestyle=DASHES[index % 4], label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend()
    return figure
