"""The figures of attention: maps over an image, what they cover, and how that changes along a sweep.

The data come from ``attention.attention_maps``, ``measured_attention.measure`` and ``over_seeds``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cra_smra.plots import COLOURS, DASHES, INK, MARKERS, STAGES, as_picture, bare, style


def attention_rows(image: Tensor, rows: Mapping[str, Sequence[Tensor]], title: str = "") -> Figure:
    """The arrangement of the paper's figures 4, 5 and 6: an image (3, H, W), uint8 or float in [0, 1], and beside it,
    a named row each, the maps (h, w) of stages 3, 4 and 5 laid over it.

    The rows are networks, values of a setting, or kinds of map of one network. Each map is enlarged smoothly and scaled
    to its own maximum, so brightness does not compare between maps; the caption should say so. A map that is zero
    everywhere is marked "empty".
    """
    stages = len(next(iter(rows.values())))
    picture = as_picture(image)
    with style():
        size = (1.2 * (stages + 1) + 0.4, 1.24 * len(rows) + (0.6 if title else 0.3))
        figure, grid = plt.subplots(len(rows), stages + 1, figsize=size, squeeze=False)
        if title:
            figure.suptitle(title, fontsize=11)
        for stage in range(stages):
            grid[0, stage + 1].set_title(STAGES[stage], fontsize=11)
        for line, (name, maps) in zip(grid, rows.items(), strict=True):
            bare(line[0]).imshow(picture.numpy())
            line[0].set_ylabel(name, fontsize=11)
            for axes, found in zip(line[1:], maps, strict=True):
                lay_over(bare(axes), picture, found)
    return figure


def lay_over(axes: Axes, picture: Tensor, found: Tensor) -> None:
    """A map (h, w), scaled to its own maximum, over a picture (H, W, 3) in grey."""
    heat = found.detach().float().cpu()[None, None].clamp_min(0)
    heat = F.interpolate(heat, size=picture.shape[:2], mode="bilinear")[0, 0]  # (H, W)
    heat = heat / heat.amax().clamp_min(torch.finfo(heat.dtype).tiny)  # in [0, 1]
    axes.imshow(picture.float().mean(dim=2).numpy(), cmap="gray", alpha=0.55)
    axes.imshow(heat.numpy(), cmap="magma", vmin=0, vmax=1, alpha=0.6)
    if not heat.any():
        axes.text(0.5, 0.5, "empty", transform=axes.transAxes, ha="center", va="center", fontsize=11, color="white")


def part_shares(attention: Mapping[str, object], kind: str = "grad_cam", measure: str = "mass") -> Figure:
    """For every part, what share of the maps of each stage lies on it, beside what a flat map would have there.

    ``attention`` comes from ``over_seeds`` or ``measure``, ``kind`` is one of ``attention.MAPS``, ``measure`` is
    "mass", "top" or "peak". Lines are t intervals over seeds, where there are several.
    """
    names = attention["regions"][: attention["regions"].index("object")]
    stages = attention["maps"][kind]["stages"]
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 0.36 * len(names) + 1.3))
        rows = np.arange(len(names))
        flat = [100 * _spread(stages[-1]["uniform"][name])[0] for name in names]
        axes.barh(rows, flat, height=0.8, color="#d8d3c4", label="flat map")
        for index, stage in enumerate(stages):
            middle, low, high = 100 * np.transpose([_spread(stage[measure][name]) for name in names])
            look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 6, "linestyle": "none"}
            place = rows + 0.22 * (index - 1)
            axes.errorbar(middle, place, xerr=[middle - low, high - middle], label=STAGES[index], **look)
        axes.set_yticks(rows, names, fontsize=11)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{_WHAT[measure]}, %", fontsize=12)
        axes.tick_params(axis="x", labelsize=11)
        figure.legend(loc="outside upper center", ncols=2, fontsize=11)
    return figure


_WHAT = {"mass": "mass on the part", "top": "top fifth on the part", "peak": "largest cell on the part"}


def attention_sweep(results: Mapping[float, Mapping[str, object]], setting: str, kind: str = "grad_cam") -> Figure:
    """How the maps change along a setting: overlap of the stages; entropy, and mass on the object, of each stage.

    ``results`` maps the setting's values, which stand side by side at equal distances, to what ``over_seeds`` or
    ``measure`` returned; lines across the points are t intervals over seeds, where there are several. Grey is the
    share that a flat map would have on the object.
    """
    values = sorted(results)
    found = [results[value]["maps"][kind] for value in values]
    with style():
        figure, panels = plt.subplots(3, 1, figsize=(4.8, 6.4), sharex=True)
        at = np.arange(len(values))
        _line(panels[0], at, [row["overlap"] for row in found], color=INK, marker="s")
        for index, stage in enumerate(STAGES):
            rows = [row["stages"][index] for row in found]
            look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": DASHES[index], "label": stage}
            beside = at + 0.08 * (index - 1)  # else the intervals hide each other
            _line(panels[1], beside, [row["entropy"] for row in rows], **look)
            _line(panels[2], beside, [row["mass"]["object"] for row in rows], **look)
        flat = [100 * _spread(row["stages"][-1]["uniform"]["object"])[0] for row in found]
        panels[2].plot(at, flat, color="#9a9484", linewidth=1.6, label="flat map")
        titles = ("overlap of the stages", "entropy, flat = 100", "mass on the object")
        for axes, name in zip(panels, titles, strict=True):
            axes.set_title(f"{name}, %", fontsize=11, loc="left")
            axes.set_ylim(bottom=0)
            axes.tick_params(labelsize=11)
        panels[1].set_ylim(0, 105)
        panels[-1].set_xticks(at, [f"{value:g}" for value in values])
        panels[-1].set_xlabel(setting, fontsize=12)
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=11)
    return figure


def _line(axes: Axes, x: Sequence[float], values: Sequence[object], **look: object) -> None:
    """Values in percent against x, with their intervals."""
    middle, low, high = 100 * np.transpose([_spread(value) for value in values])
    axes.errorbar(x, middle, yerr=[middle - low, high - middle], markersize=5, **look)


def _spread(value: float | None | Mapping[str, float | None]) -> tuple[float, float, float]:
    """Mean, low and high of a value over seeds; three times the value of a single result; NaN where it has none."""
    if not isinstance(value, Mapping):
        value = {"mean": value, "low": None, "high": None}
    mean = float("nan") if value["mean"] is None else value["mean"]
    return mean, mean if value["low"] is None else value["low"], mean if value["high"] is None else value["high"]
