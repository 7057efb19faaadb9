"""The figures of ablations: every seed's accuracy, by row or along a setting.

The data come from ``tables.table``.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cra_smra.plots import COLOURS, DASHES, INK, MARKERS, STAGES, style

Rows = Sequence[dict[str, object]]


def accuracy_dots(rows: Rows) -> Figure:
    """A line for each row that was run: a dot for each seed, a bar at their mean. Rows without runs are marked so."""
    with style():
        figure, axes = plt.subplots(figsize=(4.8, 0.42 * len(rows) + 0.9))
        for place, row in enumerate(rows):
            values = 100 * np.array(row["accuracies"])
            if not len(values):
                axes.text(0.02, place, "not run", transform=axes.get_yaxis_transform(), va="center", fontsize=11)
                continue
            beside = place + np.linspace(-0.18, 0.18, len(values))  # else equal accuracies hide each other
            axes.plot(values, beside, "o", color=COLOURS[0], markersize=5)
            axes.plot([values.mean()] * 2, [place - 0.34, place + 0.34], color=INK, linewidth=2)
        axes.set_yticks(range(len(rows)), [row["row"] for row in rows], fontsize=11)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("accuracy on the test images, %", fontsize=12)
        axes.tick_params(axis="x", labelsize=11)
    return figure


def setting_sweep(rows: Rows, setting: str) -> Figure:
    """Along a setting, whose value is the last word of each row's name: the accuracy of every seed with their mean,
    and by stage the share of channels that CRAM suppresses. Values stand side by side at equal distances.
    """
    run = [row for row in rows if row["accuracies"]]
    at = np.arange(len(run))
    with style():
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(4.8, 4.6), sharex=True)
        for place, row in zip(at, run, strict=True):
            values = 100 * np.array(row["accuracies"])
            top.plot([place] * len(values), values, "o", color=COLOURS[0], markersize=4)
        top.plot(at, [100 * row["mean"] for row in run], color=INK, linewidth=1.6)
        for index, stage in enumerate(STAGES):
            look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": DASHES[index], "label": stage}
            bottom.plot(at, [100 * row["suppressed"][index] for row in run], markersize=5, **look)
        top.set_title("accuracy on the test images, %", fontsize=11, loc="left")
        bottom.set_title("suppressed channels, %", fontsize=11, loc="left")
        bottom.set_ylim(-4, 104)
        bottom.set_xticks(at, [row["row"].split()[-1] for row in run])
        bottom.set_xlabel(setting, fontsize=12)
        for axes in (top, bottom):
            axes.tick_params(labelsize=11)
        figure.legend(*bottom.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=11)
    return figure
