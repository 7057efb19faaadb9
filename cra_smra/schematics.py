"""Drawings of the modules and of the network, each a function that returns a matplotlib figure.

Boxes with round corners are operations, boxes with square corners are tensors, numbers in circles are
equations. The drawings are narrow and tall, so that they can be read on a screen of 400 pixels. What differs
in colour differs in the line as well: X_e is solid, X_s dotted, what is there only in training dashed.
"""

from __future__ import annotations

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

# Where the columns of the network stand: the backbone, the heads, and the lines that collect from all stages.
SPINE, HEADS = 0.76, 3.26
MAPS, FEATURES, OUTPUTS = 1.54, 2.64, 3.9


def sheet(height: float) -> tuple[Figure, Axes]:
    """An empty sheet of the common width; one unit of its axes is one inch."""
    with style():
        figure = plt.figure(figsize=(WIDTH, height), layout="none")
        axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, size: float = LARGE, **options) -> None:
    """Text centred at a point, unless ``options`` say otherwise."""
    look = {"size": size, "color": INK, "ha": "center", "va": "center", "zorder": 4}
    axes.text(x, y, text, **(look | options))


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    shape: str = "",
    line: dict = PLAIN,
) -> None:
    """An operation: a box with round corners around (x, y); a shape goes below its name."""
    look = {"facecolor": FILL, "edgecolor": line["color"], "linewidth": line["linewidth"], "zorder": 3}
    look |= {"linestyle": line.get("linestyle", "-"), "boxstyle": "round,pad=0,rounding_size=0.1"}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **look))
    label(axes, x, y, text, shape)


def tensor(axes: Axes, x: float, y: float, width: float, text: str, shape: str, line: dict = PLAIN) -> None:
    """A tensor: a box with square corners around (x, y), its shape below its symbol."""
    look = {"facecolor": PAPER, "edgecolor": line["color"], "linewidth": line["linewidth"], "zorder": 3}
    look |= {"linestyle": line.get("linestyle", "-")}
    axes.add_patch(Rectangle((x - width / 2, y - 0.23), width, 0.46, **look))
    label(axes, x, y, text, shape)


def label(axes: Axes, x: float, y: float, text: str, shape: str) -> None:
    """The text of a box, above a shape if there is one."""
    write(axes, x, y + 0.1 * bool(shape), text)
    if shape:
        write(axes, x, y - 0.12, shape, SMALL)


def number(axes: Axes, x: float, y: float, text: str) -> None:
    """The number of an equation, or a range of them, in a circle drawn out to fit."""
    half = 0.1 * (len(text) - 1) / 2  # of the straight part
    for end in (x - half, x + half):
        axes.add_patch(Circle((end, y), 0.135, facecolor=INK, edgecolor="none", zorder=5))
    axes.add_patch(Rectangle((x - half, y - 0.135), 2 * half, 0.27, color=INK, linewidth=0, zorder=5))
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
        corners = [end, back + 0.065 * across, back - 0.065 * across]
        axes.add_patch(Polygon(corners, color=line["color"], zorder=2.5))
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


def draw_gate(axes: Axes, left: float, middle: float, right: float) -> None:
    """CRAM's channel gate, from X at the top to I, and the lines that take X to both sides."""
    tensor(axes, middle, 6.6, 1.2, "$X$", "C × H × W")
    route(axes, (middle, 6.37), (middle, 6.14), head=False)
    route(axes, (left, 6.14), (right, 6.14), head=False)
    for x, name, turn in ((middle - 0.4, "AP", 0.25), (middle + 0.4, "MP", -0.25)):
        junction(axes, x, 6.14)
        route(axes, (x, 6.14), (x, 5.9))
        box(axes, x, 5.74, 0.6, 0.32, name)
        route(axes, (x, 5.58), (x, 5.34))
        route(axes, (x, 4.82), (x, 4.5), (x + turn, 4.5))
    box(axes, middle, 5.08, 1.5, 0.52, "MLP, shared\nC → C/r → C")
    number(axes, middle + 0.75, 5.34, "2")
    node(axes, middle, 4.5, "+")
    route(axes, (middle, 4.35), (middle, 4.12))
    box(axes, middle, 3.96, 1.1, 0.32, "sigmoid")
    number(axes, middle + 0.55, 4.12, "1")
    route(axes, (middle, 3.8), (middle, 3.58))
    tensor(axes, middle, 3.35, 1.1, "$I$", "C × 1 × 1")


def cram_schematic() -> Figure:
    """CRAM: X comes in at the top, X_e (solid) and X_s (dotted) go out at the bottom."""
    figure, axes = sheet(6.9)
    left, middle, right = 0.66, 2.1, 3.48
    draw_gate(axes, left, middle, right)
    # X_e, on the left
    route(axes, (left, 6.14), (left, 3.5))
    route(axes, (middle - 0.55, 3.35), (left + 0.15, 3.35))
    node(axes, left, 3.35, "×")
    route(axes, (left, 3.2), (left, 2.68))
    box(axes, left, 2.52, 1.1, 0.32, "Conv_layer")
    number(axes, left + 0.6, 2.73, "3")
    route(axes, (left, 2.36), (left, 0.9), line=ENHANCED)
    tensor(axes, left, 0.67, 1.1, "$X_e$", "$C_a$ × H × W", line=ENHANCED)
    write(axes, left, 0.21, "classifier,\nSMRAM", SMALL)
    # X_s, on the right
    route(axes, (middle, 3.12), (middle, 2.66))
    for y in (2.94, 3.0):  # a double stroke: no gradient passes
        route(axes, (middle - 0.1, y - 0.04), (middle + 0.1, y + 0.04), head=False)
    write(axes, middle + 0.16, 2.97, "no gradient", SMALL, ha="left")
    box(axes, middle, 2.42, 1.3, 0.48, "softmax\nover channels")
    number(axes, middle + 0.7, 2.7, "4")
    route(axes, (middle, 2.18), (middle, 1.94))
    box(axes, middle, 1.52, 1.4, 0.84, "$1 - ω$  where\n$I^*_k / I^*_{max} > δ$,\nelse 1")
    number(axes, middle + 0.7, 1.94, "5")
    route(axes, (right, 6.14), (right, 1.67))
    route(axes, (middle + 0.7, 1.52), (right - 0.15, 1.52))
    write(axes, 3.02, 1.67, "$S$")
    node(axes, right, 1.52, "×")
    number(axes, right + 0.3, 1.52, "6")
    route(axes, (right, 1.37), (right, 0.9), line=SUPPRESSED)
    tensor(axes, right, 0.67, 1.1, "$X_s$", "C × H × W", line=SUPPRESSED)
    write(axes, right, 0.28, "next stage", SMALL)
    return figure


def smram_schematic() -> Figure:
    """SMRAM at 448 pixels: three enhanced maps at the top, their attention maps, L_div at the bottom."""
    figure, axes = sheet(7.0)
    columns, middle = (0.76, 2.1, 3.44), 2.1
    maps = example_maps()
    for stage, (x, pixels) in enumerate(zip(columns, (56, 28, 14), strict=True)):
        name = stage + 3
        tensor(axes, x, 6.7, 1.24, f"$X_e^{name}$", f"$C_a$ × {pixels} × {pixels}", line=ENHANCED)
        route(axes, (x, 6.47), (x, 6.24), line=ENHANCED)
        route(axes, (x, 5.9), (x, 5.68))
        box(axes, x, 5.43, 1.1, 0.5, f"$φ^{name}$, 1 × 1\nBN")
        route(axes, (x, 5.18), (x, 4.95))
        route(axes, (x, 4.61), (x, 4.38))
        picture(axes, x, 3.98, maps[stage], maps.max())
        route(axes, (x, 3.58), (x, 3.22))
        write(axes, x + 0.26, 3.42, f"$A^{name}$")
    box(axes, middle, 6.07, 3.98, 0.34, "average pool to 14 × 14")
    box(axes, middle, 4.78, 3.98, 0.34, "softmax over the 196 pixels")
    number(axes, 4.0, 4.95, "7")
    box(axes, middle, 3.05, 3.98, 0.34, "CCMP: maximum over the stages")
    number(axes, 4.0, 3.22, "8")
    route(axes, (middle, 2.88), (middle, 2.65))
    picture(axes, middle, 2.25, maps.max(axis=0), maps.max())
    route(axes, (middle, 1.85), (middle, 1.6))
    box(axes, middle, 1.43, 2.4, 0.34, "$h$ = sum of pixels / 3")
    number(axes, middle + 1.2, 1.6, "8")
    route(axes, (middle, 1.26), (middle, 1.0))
    box(axes, middle, 0.83, 2.4, 0.34, "$L_{div} = 1 - h$")
    number(axes, middle + 1.2, 1.0, "9")
    write(axes, middle, 0.36, "equal maps: 2/3\nno shared pixel: 0", SMALL)
    return figure


def draw_stage(axes: Axes, stage: int, y: float, shape: str) -> None:
    """One stage of the network: the backbone's stage, CRAM, and to the right its classifier."""
    above = {"line": PLAIN if stage == 3 else SUPPRESSED}
    route(axes, (SPINE, y + 1.26 - 0.08 * (stage == 3)), (SPINE, y + 0.94), **above)
    box(axes, SPINE, y + 0.7, 1.26, 0.48, f"stage {stage}", shape)
    route(axes, (SPINE, y + 0.46), (SPINE, y + 0.18))
    box(axes, SPINE, y, 0.84, 0.36, "CRAM")
    number(axes, SPINE - 0.48, y + 0.2, "1–6")
    route(axes, (SPINE + 0.42, y), (1.79, y), line=ENHANCED)
    write(axes, 1.35, y + 0.2, f"$X_e^{stage}$")
    box(axes, 2.06, y, 0.54, 0.36, "pool")
    route(axes, (2.33, y), (HEADS - 0.33, y))
    write(axes, 2.49, y + 0.2, f"$f^{stage}$")
    box(axes, HEADS, y, 0.66, 0.36, f"$cls_{stage}$")
    route(axes, (HEADS + 0.33, y), (OUTPUTS, y), head=False)
    for x, colour in ((MAPS, X_E), (FEATURES, INK), (OUTPUTS, INK)):
        junction(axes, x, y, colour)


def draw_ends(axes: Axes) -> None:
    """The two ends of the network: the loss, only there in training, and the prediction."""
    route(axes, (OUTPUTS, 2.36), (OUTPUTS, 1.16))
    junction(axes, OUTPUTS, 1.7)
    route(axes, (OUTPUTS, 1.7), (1.3, 1.7), (1.3, 1.16), line=TRAINING)
    number(axes, 2.0, 1.7, "10")
    write(axes, 2.62, 1.87, "$L_{cls}$")
    route(axes, (0.74, 2.18), (0.74, 1.16), line=TRAINING)
    write(axes, 1.01, 1.7, "$L_{div}$")
    box(axes, 0.98, 0.94, 1.3, 0.44, "loss $L$", line=TRAINING)
    number(axes, 0.36, 1.16, "11")
    box(axes, 3.2, 0.94, 1.6, 0.44, "mean of the\n4 softmax")
    route(axes, (3.2, 0.72), (3.2, 0.46))
    write(axes, 3.2, 0.32, "class")
    route(axes, (0.33, 0.44), (1.63, 0.44), line=TRAINING, head=False)
    write(axes, 0.98, 0.27, "only in training", SMALL)


def network_schematic() -> Figure:
    """CRASMRA on ResNet-50 at 448 pixels: backbone and CRAM down the left, classifiers on the right.

    Dashed is what is there only in training.
    """
    figure, axes = sheet(8.4)
    write(axes, SPINE, 8.26, "image")
    route(axes, (SPINE, 8.14), (SPINE, 7.9))
    box(axes, SPINE, 7.74, 1.2, 0.32, "stem, stage 2")
    rows = (6.4, 4.96, 3.52)  # of the three CRAMs
    shapes = ("512 × 56 × 56", "1024 × 28 × 28", "2048 × 14 × 14")
    for stage, (y, shape) in enumerate(zip(rows, shapes, strict=True), start=3):
        draw_stage(axes, stage, y, shape)
    for y in rows[:2]:
        write(axes, SPINE + 0.18, y - 0.31, "$X_s$")
    route(axes, (SPINE, rows[2] - 0.18), (SPINE, rows[2] - 0.5), line=SUPPRESSED)
    write(axes, SPINE, rows[2] - 0.62, "unused", SMALL)
    route(axes, (MAPS, rows[0]), (MAPS, 2.36), (1.27, 2.36), line=TRAINING)
    box(axes, 0.79, 2.36, 0.96, 0.36, "SMRAM", line=TRAINING)
    number(axes, 0.27, 2.58, "7–9")
    route(axes, (FEATURES, rows[0]), (FEATURES, 2.36), (HEADS - 0.33, 2.36))
    write(axes, FEATURES - 0.1, 2.36, "concat", ha="right")
    box(axes, HEADS, 2.36, 0.66, 0.36, "$cls_{all}$")
    route(axes, (HEADS + 0.33, 2.36), (OUTPUTS, 2.36), head=False)
    route(axes, (OUTPUTS, rows[0]), (OUTPUTS, 2.36), head=False)
    junction(axes, OUTPUTS, 2.36)
    draw_ends(axes)
    return figure
