"""The figures of the book, each a function of data that returns a matplotlib figure.

All of them are drawn on an opaque sheet of their own, so that they read the same on a light and on a dark page.
Series differ in lightness, dash and marker as well as in hue, so that they survive a print in grey.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
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


def loss_routes(
    apart: tuple[Sequence[float], Mapping[str, Sequence[float]]],
    sharper: tuple[Sequence[float], Mapping[str, Sequence[float]]],
) -> Figure:
    """Two ways to lower L_div: measures against the maps' distance, and against their logits' scale."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(5.2, 3.2), sharey=True)
        for axes, (x, measures) in zip(panels, (apart, sharper), strict=True):
            for index, (name, values) in enumerate(measures.items()):
                line = {"color": COLOURS[index], "linestyle": DASHES[index], "marker": MARKERS[index]}
                label = {"L_div": "$L_{div}$"}.get(name, name)
                axes.plot(x, values, linewidth=2, markersize=4, label=label, **line)
        panels[0].set(title="moving apart", xlabel="distance, pixels", ylim=(-0.03, 1.03))
        panels[1].set(title="sharpening alone", xlabel="scale of the logits", xscale="log")
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=11)
    return figure


def map_columns(columns: Mapping[str, Tensor]) -> Figure:
    """Named sets of the stages' maps (stages, P), one column each; every map is scaled to its own maximum.

    P must be a square number.
    """
    stages, pixels = next(iter(columns.values())).shape
    side = round(pixels**0.5)
    with style():
        size = (1.55 * len(columns), 1.55 * stages)
        figure, grid = plt.subplots(stages, len(columns), figsize=size, squeeze=False)
        for column, (name, maps) in enumerate(columns.items()):
            grid[0, column].set_title(name, fontsize=11)
            for stage in range(stages):
                axes = grid[stage, column]
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(True)
                axes.imshow(maps[stage].reshape(side, side).float().cpu(), cmap="Greys", vmin=0)
                if column == 0:
                    axes.set_ylabel(STAGES[stage], fontsize=11)
    return figure


def cost_bars(costs: Mapping[str, float], unit: str) -> Figure:
    """Named costs as horizontal bars, the first at the top, each with its number."""
    with style():
        figure, axes = plt.subplots(figsize=(5.2, 0.5 * len(costs) + 0.9))
        names = list(costs)[::-1]
        bars = axes.barh(names, [costs[name] for name in names], color=COLOURS[0], height=0.6)
        axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=11)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", labelsize=11)
        axes.set(xlabel=unit, xlim=(0, 1.15 * max(costs.values())))
    return figure


def suppressed_by_delta(deltas: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Figure:
    """The share of suppressed channels, in [0, 1], against the threshold delta, a line for each set of gates."""
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 3.6))
        for index, (name, values) in enumerate(shares.items()):
            line = {"color": COLOURS[index], "linestyle": DASHES[index % 4], "linewidth": 2.2}
            axes.plot(deltas, [100 * value for value in values], label=name, **line)
        bound = 1 / math.e
        axes.axvspan(min(deltas), bound, color="#e6e2d6", zorder=0)
        upright = {"rotation": 90, "va": "center", "fontsize": 11}
        axes.text((min(deltas) + bound) / 2, 50, "all, below 1/e", ha="center", **upright)
        axes.axvline(0.9, color=INK, linewidth=0.9)
        axes.text(0.89, 4, "paper: 0.9", ha="right", fontsize=11)
        axes.set(xlim=(min(deltas), max(deltas)), ylim=(0, 104))
        axes.set_xlabel("threshold δ", fontsize=12)
        axes.set_ylabel("suppressed channels, %", fontsize=12)
        axes.tick_params(labelsize=11)
        figure.legend(loc="outside upper center", fontsize=11)
    return figure


def suppressed_by_range(
    even: tuple[Sequence[float], Sequence[float]],
    measured: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    bound: float,
) -> Figure:
    """The share of suppressed channels, in [0, 1], against the range of the gates in one image.

    ``even`` holds ranges and shares of evenly spread gates, ``measured`` those of a network's stages. Below
    ``bound`` all channels are suppressed.
    """
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 3.6))
        axes.axvspan(min(even[0]), bound, color="#e6e2d6", zorder=0)
        percent = [100 * share for share in even[1]]
        axes.plot(even[0], percent, color=INK, linewidth=1.2, label="evenly spread")
        for index, (name, (ranges, shares)) in enumerate(measured.items()):
            look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": DASHES[index]}
            axes.plot(ranges, [100 * share for share in shares], label=name, markersize=7, **look)
        upright = {"rotation": 90, "va": "center", "fontsize": 11}
        axes.text(bound * 0.93, 50, f"all: range below {bound:.3f}", ha="right", **upright)
        axes.set(xscale="log", xlim=(min(even[0]), max(even[0])), ylim=(0, 104))
        axes.set_xticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
        axes.minorticks_off()
        axes.set_xlabel("range of the gates, $I_{max} - I_{min}$", fontsize=12)
        axes.set_ylabel("suppressed channels, %", fontsize=12)
        axes.tick_params(labelsize=11)
        figure.legend(loc="outside upper center", ncols=2, fontsize=11)
    return figure


def marked_birds(rows: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Named rows of images (N, 3, S, S) with masks of parts (N, P, S, S) bool; a circle round each part."""
    size = len(rows), len(next(iter(rows.values()))[0])
    with style():
        figure, grid = plt.subplots(*size, figsize=(1.8 * size[1], 2.05 * size[0]), squeeze=False)
        for line, (name, (images, masks)) in zip(grid, rows.items(), strict=True):
            line[0].set_title(name, fontsize=11, loc="left")
            for axes, image, parts in zip(line, images, masks, strict=True):
                bare(axes).imshow(as_picture(image))
                for part in parts:
                    y, x = part.nonzero(as_tuple=True)
                    if len(x) < 8:  # hidden
                        continue
                    centre, radius = (x.float().mean(), y.float().mean()), 5 + 1.3 * (len(x) / math.pi) ** 0.5
                    for colour, width in (("white", 3.4), (INK, 1.6)):
                        axes.add_patch(Circle(centre, radius, fill=False, edgecolor=colour, linewidth=width))
    return figure


def distance_shares(panels: Mapping[str, Mapping[str, Tensor]], bins: int = 30) -> Figure:
    """One panel for each kind of distance: histograms of its named sets of distances, in % of each set."""
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(5.2, 3.1), sharey=True, squeeze=False)
        for place, (title, sets) in zip(axes.flat, panels.items(), strict=True):
            values = torch.cat([distances.flatten() for distances in sets.values()])
            edges = torch.linspace(values.min().item(), values.max().item(), bins + 1).numpy()
            for index, (name, distances) in enumerate(sets.items()):
                counts, _ = torch.histogram(distances.flatten().double(), torch.from_numpy(edges).double())
                look = {"color": COLOURS[index], "linestyle": DASHES[index], "linewidth": 2}
                place.stairs((100 * counts / counts.sum()).numpy(), edges, label=name, **look)
            place.set_title(title, fontsize=11)
            place.set_xlabel("distance", fontsize=11)
        axes[0, 0].set_ylabel("share of the pairs, %", fontsize=11)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def selection_gain(looks: Sequence[int], gains: Mapping[str, Sequence[float]], claimed: float) -> Figure:
    """The expected gain of the best of so many accuracies, in points, with a claimed gain as a level line."""
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 3.4))
        for index, (name, values) in enumerate(gains.items()):
            look = {"color": COLOURS[index], "linestyle": DASHES[index], "marker": MARKERS[index]}
            axes.plot(looks, values, label=name, linewidth=2, markersize=6, **look)
        axes.axhline(claimed, color=INK, linewidth=1)
        axes.text(looks[0], claimed + 0.02, f"{claimed:.1f} points", va="bottom", fontsize=11)
        axes.set(xscale="log", ylim=(0, None))
        axes.set_xticks(list(looks), [str(count) for count in looks])
        axes.minorticks_off()
        axes.set_xlabel("accuracies to choose from", fontsize=11)
        axes.set_ylabel("expected gain, points", fontsize=11)
        axes.tick_params(labelsize=11)
        axes.legend(fontsize=11)
    return figure


def fields_of_view(image: Tensor, views: Mapping[str, tuple[int, int, tuple[float, float]]]) -> Figure:
    """An image (3, S, S) for each named view: a cell's stride and its receptive field, in pixels, round (x, y).

    The cell is filled, the field is outlined; what lies outside the field is dimmed.
    """
    side = image.shape[-1]
    with style():
        figure, grid = plt.subplots(1, len(views), figsize=(1.9 * len(views), 2.3), squeeze=False)
        for axes, (name, (stride, field, (x, y))) in zip(grid.flat, views.items(), strict=True):
            shown = as_picture(image).float() / (255 if image.dtype == torch.uint8 else 1)
            at = torch.arange(side) + 0.5
            inside = ((at - x).abs() <= field / 2) & ((at - y).abs() <= field / 2)[:, None]  # (S, S)
            shown = torch.where(inside[..., None], shown, 0.55 + 0.3 * shown)
            bare(axes).imshow(shown.clamp(0, 1), extent=(0, side, side, 0))
            for width, fill in ((field, "none"), (stride, COLOURS[5])):
                corner = (x - width / 2, y - width / 2)
                axes.add_patch(Rectangle(corner, width, width, facecolor=fill, edgecolor=INK, linewidth=1.6))
            axes.set(xlim=(0, side), ylim=(side, 0))
            axes.set_title(name, fontsize=11)
    return figure


def annotated_pictures(
    images: Sequence[Tensor],
    titles: Sequence[str] = (),
    boxes: Tensor | None = None,
    parts: Tensor | None = None,
    columns: int = 4,
) -> Figure:
    """Images (3, H, W) of any size in rows of ``columns``, with a title over each, their boxes and their parts.

    ``boxes`` (N, 4) are left, top, width, height in pixels, ``parts`` (N, P, 3) x, y, and 1 where a part is visible,
    as in a ``Listing``.
    """
    with style():
        rows = -(-len(images) // columns)
        figure, grid = plt.subplots(rows, columns, figsize=(1.45 * columns, 1.75 * rows), squeeze=False)
        for place, axes in enumerate(grid.flat):
            bare(axes)
            if place >= len(images):
                continue
            axes.imshow(as_picture(images[place]).numpy())
            if boxes is not None:
                left, top, width, height = boxes[place].tolist()
                for colour, thickness in (("white", 2.6), (INK, 1.2)):
                    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, lw=thickness))
            if parts is not None:
                x, y, seen = parts[place].T.numpy()
                axes.scatter(x[seen == 1], y[seen == 1], s=16, color=COLOURS[1], edgecolors=INK, linewidths=0.7)
            if place < len(titles):
                axes.set_title(textwrap.fill(titles[place], 18), fontsize=8)
    return figure
