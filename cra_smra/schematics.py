"""Drawings of the modules and of the network, each a function that returns a matplotlib figure.

Boxes with round corners are operations, boxes with square corners are tensors, numbers in circles are equations.
One unit of the axes is one inch. The drawings are narrow and tall, so that they can be read on a screen of 400 pixels;
what differs in colour differs in the line as well: X_e is solid, X_s dotted, what is there only in training dashed.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

from cra_smra.plots import COLOURS, INK, PAPER, style

WIDTH = 4.2  # inches
LARGE, SMALL = 11, 9.5  # points: text, and the shapes and equation numbers
FILL = "#ece8dc"
X_E, X_S = COLOURS[0], COLOURS[5]
PLAIN = {"color": INK, "linewidth": 1.2}
ENHANCED = {"color": X_E, "linewidth": 2.4}
SUPPRESSED = {"color": X_S, "linewidth": 2.6, "linestyle": (0, (1, 1.1))}
TRAINING = {"color": INK, "linewidth": 1.4, "linestyle": (0, (4, 2.2))}


def sheet(height: float) -> tuple[Figure, Axes]:
    """An empty sheet of the common width, its axes in inches."""
    with style():
        figure = plt.figure(figsize=(WIDTH, height), layout="none")
        axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, size: float = LARGE, **options) -> None:
    """Text centred at a point, unless ``options`` say otherwise."""
    axes.text(x, y, text, **({"size": size, "color": INK, "ha": "center", "va": "center", "zorder": 4} | options))


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, *, shape: str = "", line: dict = PLAIN
) -> None:
    """A box around (x, y): an operation, or with ``shape`` a tensor, the shape written below its symbol."""
    edge = {"facecolor": PAPER if shape else FILL, "edgecolor": line["color"], "zorder": 3}
    edge |= {key: line[key] for key in ("linewidth", "linestyle") if key in line}
    corner = (x - width / 2, y - height / 2)
    if shape:
        axes.add_patch(Rectangle(corner, width, height, **edge))
        write(axes, x, y + 0.1, text)
        write(axes, x, y - 0.12, shape, SMALL)
    else:
        axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.1", **edge))
        write(axes, x, y, text)


def number(axes: Axes, x: float, y: float, text: str) -> None:
    """The number of an equation, or a range of them, in a circle drawn out to fit."""
    half = 0.1 * (len(text) - 1) / 2  # of the straight part
    for end in (x - half, x + half):
        axes.add_patch(Circle((end, y), 0.135, facecolor=INK, edgecolor="none", zorder=5))
    axes.add_patch(Rectangle((x - half, y - 0.135), 2 * half, 0.27, facecolor=INK, edgecolor="none", zorder=5))
    write(axes, x, y - 0.005, text, SMALL, color=PAPER, weight="bold", zorder=6)


def node(axes: Axes, x: float, y: float, sign: str) -> None:
    """An operation on two tensors: a circle with its sign."""
    axes.add_patch(Circle((x, y), 0.15, facecolor=FILL, edgecolor=INK, linewidth=1.2, zorder=3))
    write(axes, x, y, sign, LARGE + 3, va="center_baseline")


def route(axes: Axes, *points: tuple[float, float], line: dict = PLAIN, head: bool = True) -> None:
    """A line through the points, with an arrowhead at the last."""
    path = np.array(points, dtype=float)
    end = path[-1].copy()
    if head:
        along = (path[-1] - path[-2]) / np.linalg.norm(path[-1] - path[-2])
        across = np.array([-along[1], along[0]])
        back = end - 0.13 * along
        axes.add_patch(Polygon([end, back + 0.065 * across, back - 0.065 * across], color=line["color"], zorder=2.5))
        path[-1] = back
    axes.plot(*path.T, solid_joinstyle="miter", zorder=2, **line)


def junction(axes: Axes, x: float, y: float, colour: str = INK) -> None:
    """A dot where a line branches."""
    axes.add_patch(Circle((x, y), 0.045, color=colour, zorder=2.6))


def picture(axes: Axes, x: float, y: float, values: np.ndarray, top: float) -> None:
    """A small map (rows, columns), white at 0 and dark at ``top``."""
    half = 0.4
    axes.imshow(
        values,
        extent=(x - half, x + half, y - half, y + half),
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=top,
        zorder=3,
    )
    axes.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, edgecolor=INK, zorder=3.5))


def example_maps() -> np.ndarray:
    """Three made-up attention maps (3, 7, 7), each summing to 1, that look at different places."""
    row, column = np.mgrid[:7, :7]
    centres = ((1.3, 1.5), (3.2, 4.8), (5.2, 2.0))
    maps = np.stack([np.exp(-((row - r) ** 2 + (column - c) ** 2) / 2.5) for r, c in centres])
    return maps / maps.sum(axis=(1, 2), keepdims=True)


def cram_schematic() -> Figure:
    """CRAM: X comes in at the top, X_e (solid) and X_s (dotted) go out at the bottom."""
    figure, axes = sheet(6.5)
    left, middle, right = 0.72, 2.1, 3.48
    box(axes, middle, 6.2, 1.2, 0.46, "$X$", shape="C × H × W")
    route(axes, (middle, 5.97), (middle, 5.74), head=False)
    route(axes, (left, 5.74), (right, 5.74), head=False)
    for x in (middle - 0.4, middle + 0.4):
        route(axes, (x, 5.74), (x, 5.52))
        junction(axes, x, 5.74)
        route(axes, (x, 5.2), (x, 4.94))
    box(axes, middle - 0.4, 5.36, 0.6, 0.32, "AP")
    box(axes, middle + 0.4, 5.36, 0.6, 0.32, "MP")
    box(axes, middle, 4.68, 1.5, 0.52, "MLP, shared\n$C → C/r → C$")
    number(axes, middle + 0.75, 4.94, "2")
    for x in (middle - 0.4, middle + 0.4):
        route(axes, (x, 4.42), (x, 4.1), (x + (0.25 if x < middle else -0.25), 4.1))
    node(axes, middle, 4.1, "+")
    route(axes, (middle, 3.95), (middle, 3.72))
    box(axes, middle, 3.56, 1.1, 0.32, "sigmoid")
    number(axes, middle + 0.55, 3.72, "1")
    route(axes, (middle, 3.4), (middle, 3.2))
    box(axes, middle, 2.97, 1.1, 0.46, "$I$", shape="C × 1 × 1")
    # X_e, on the left
    route(axes, (left, 5.74), (left, 3.12))
    route(axes, (middle - 0.55, 2.97), (left + 0.15, 2.97))
    node(axes, left, 2.97, "×")
    route(axes, (left, 2.82), (left, 1.66))
    box(axes, left, 1.5, 1.1, 0.32, "Conv_layer")
    number(axes, left + 0.55, 1.66, "3")
    route(axes, (left, 1.34), (left, 0.88), line=ENHANCED)
    box(axes, left, 0.65, 1.1, 0.46, "$X_e$", shape="$C_a$ × H × W", line=ENHANCED)
    write(axes, left, 0.2, "classifier,\nSMRAM", SMALL)
    # X_s, on the right
    route(axes, (middle, 2.74), (middle, 2.44))
    write(axes, middle - 0.12, 2.61, "no gradient", SMALL, ha="right")
    route(axes, (middle - 0.08, 2.61), (middle + 0.08, 2.67), head=False)
    route(axes, (middle - 0.08, 2.55), (middle + 0.08, 2.61), head=False)
    box(axes, middle, 2.2, 1.3, 0.48, "softmax\nover channels")
    number(axes, middle + 0.65, 2.44, "4")
    route(axes, (middle, 1.96), (middle, 1.74))
    box(axes, middle, 1.32, 1.4, 0.84, "$1 - ω$  where\n$I^*_k / I^*_{max} > δ$,\nelse 1")
    number(axes, middle + 0.7, 1.74, "5")
    route(axes, (right, 5.74), (right, 1.47))
    route(axes, (middle + 0.7, 1.32), (right - 0.15, 1.32))
    write(axes, 2.99, 1.48, "$S$")
    node(axes, right, 1.32, "×")
    number(axes, right + 0.3, 1.32, "6")
    route(axes, (right, 1.17), (right, 0.88), line=SUPPRESSED)
    box(axes, right, 0.65, 1.1, 0.46, "$X_s$", shape="C × H × W", line=SUPPRESSED)
    write(axes, right, 0.25, "next stage", SMALL)
    return figure


def smram_schematic() -> Figure:
    """SMRAM: the enhanced maps of three stages at the top, three attention maps, their maximum, L_div at the bottom."""
    figure, axes = sheet(7.6)
    columns, middle = (0.76, 2.1, 3.44), 2.1
    maps = example_maps()
    for stage, x in enumerate(columns):
        pixels = (56, 28, 14)[stage]
        box(axes, x, 7.3, 1.24, 0.46, f"$X_e^{stage + 3}$", shape=f"$C_a$ × {pixels} × {pixels}", line=ENHANCED)
        route(axes, (x, 7.07), (x, 6.84), line=ENHANCED)
        route(axes, (x, 6.5), (x, 6.28))
        box(axes, x, 6.04, 1.1, 0.46, f"$φ^{stage + 3}$, 1 × 1\nBN")
        route(axes, (x, 5.81), (x, 5.58))
        route(axes, (x, 5.24), (x, 5.02))
        picture(axes, x, 4.62, maps[stage], maps.max())
        write(axes, x, 4.0, f"$A^{stage + 3}$")
        route(axes, (x, 3.88), (x, 3.62))
    box(axes, middle, 6.67, 3.98, 0.34, "average pool to 14 × 14")
    box(axes, middle, 5.41, 3.98, 0.34, "softmax over the 196 pixels")
    number(axes, 4.0, 5.6, "7")
    box(axes, middle, 3.45, 3.98, 0.34, "CCMP: maximum over the stages")
    number(axes, 4.0, 3.64, "8")
    route(axes, (middle, 3.28), (middle, 3.06))
    picture(axes, middle, 2.66, maps.max(axis=0), maps.max())
    route(axes, (middle, 2.26), (middle, 2.0))
    box(axes, middle, 1.82, 2.4, 0.36, "$h$ = sum of pixels / 3")
    number(axes, middle + 1.2, 2.0, "8")
    route(axes, (middle, 1.64), (middle, 1.36))
    box(axes, middle, 1.18, 2.4, 0.36, "$L_{div} = 1 - h$")
    number(axes, middle + 1.2, 1.36, "9")
    write(axes, middle, 0.68, "0: no shared pixel", SMALL)
    write(axes, middle, 0.44, "2/3: equal maps", SMALL)
    return figure


def network_schematic() -> Figure:
    """CRASMRA: the backbone with CRAM down the left, classifiers on the right; dashed what is only there in training."""
    figure, axes = sheet(8.2)
    spine, x_e_bus, pool, f_bus, head, out_bus = 0.76, 1.52, 2.04, 2.56, 3.16, 3.86
    write(axes, spine, 8.02, "image")
    route(axes, (spine, 7.9), (spine, 7.66))
    box(axes, spine, 7.5, 1.2, 0.32, "stem, stage 2")
    rows = (6.36, 4.86, 3.36)  # of the three CRAMs
    for stage, y in enumerate(rows, start=3):
        above = {"line": PLAIN if stage == 3 else SUPPRESSED}
        route(axes, (spine, y + (0.98 if stage == 3 else 1.32)), (spine, y + 0.78), **above)
        box(axes, spine, y + 0.62, 1.2, 0.32, f"stage {stage}")
        route(axes, (spine, y + 0.46), (spine, y + 0.18))
        box(axes, spine, y, 0.8, 0.36, "CRAM")
        number(axes, spine - 0.4, y + 0.16, "1–6")
        route(axes, (spine + 0.4, y), (pool - 0.27, y), line=ENHANCED)
        write(axes, x_e_bus - 0.08, y + 0.2, f"$X_e^{stage}$")
        box(axes, pool, y, 0.54, 0.36, "pool")
        route(axes, (pool + 0.27, y), (head - 0.3, y))
        write(axes, f_bus, y + 0.2, f"$f^{stage}$")
        box(axes, head, y, 0.6, 0.36, f"$cls_{stage}$")
        route(axes, (head + 0.3, y), (out_bus, y), head=False)
        junction(axes, x_e_bus, y)
        junction(axes, f_bus, y)
        junction(axes, out_bus, y)
    return figure
