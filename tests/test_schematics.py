from itertools import combinations

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb

from cra_smra import schematics

NARROW = 400  # pixels: the screen on which the drawings must be readable
DRAWINGS = {
    "cram": (schematics.cram_schematic, {"1", "2", "3", "4", "5", "6"}),
    "smram": (schematics.smram_schematic, {"7", "8", "9"}),
    "network": (schematics.network_schematic, {"1–6", "7–9", "10", "11"}),
}


@pytest.fixture(scope="module", params=DRAWINGS)
def drawing(request):
    """A drawing, scaled to a narrow screen, with its texts' boxes in pixels."""
    draw, numbers = DRAWINGS[request.param]
    figure = draw()
    figure.set_dpi(NARROW / figure.get_figwidth())
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    yield figure, {text: text.get_window_extent() for text in texts}, numbers
    plt.close(figure)


def equation_numbers(texts):
    return {text.get_text() for text in texts if text.get_weight() == "bold"}


def test_every_equation_is_there(drawing):
    _, boxes, numbers = drawing
    assert equation_numbers(boxes) == numbers


def test_no_two_texts_overlap(drawing):
    _, boxes, _ = drawing
    clashes = [
        (a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])
    ]
    assert clashes == []


def test_no_number_hides_a_text(drawing):
    figure, boxes, _ = drawing
    discs = [
        patch.get_window_extent()
        for patch in figure.axes[0].patches
        if to_rgb(patch.get_facecolor()) == to_rgb(schematics.INK) and patch.get_zorder() == 5
    ]
    assert discs
    hidden = [
        text.get_text()
        for text, box in boxes.items()
        if text.get_weight() != "bold" and any(disc.overlaps(box) for disc in discs)
    ]
    assert hidden == []


def test_all_texts_are_inside(drawing):
    figure, boxes, _ = drawing
    sheet = figure.bbox
    outside = [
        text.get_text()
        for text, box in boxes.items()
        if box.x0 < sheet.x0 or box.y0 < sheet.y0 or box.x1 > sheet.x1 or box.y1 > sheet.y1
    ]
    assert outside == []


def test_texts_fit_their_boxes(drawing):
    """A text whose middle lies in a box lies in it as a whole."""
    figure, texts, _ = drawing
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if patch.get_zorder() == 3]
    too_large = []
    for text, extent in texts.items():
        if text.get_weight() == "bold":
            continue
        middle = ((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)
        for box in boxes:
            if box.contains(*middle) and not (box.x0 <= extent.x0 and extent.x1 <= box.x1):
                too_large.append(text.get_text())
    assert too_large == []


def test_readable_on_a_narrow_screen(drawing):
    figure, boxes, _ = drawing
    pixels = [text.get_fontsize() * figure.dpi / 72 for text in boxes]
    assert min(pixels) >= 12


def test_outputs_of_cram_differ_in_their_lines():
    assert "linestyle" not in schematics.ENHANCED
    dashes = [str(line["linestyle"]) for line in (schematics.SUPPRESSED, schematics.TRAINING)]
    assert len(set(dashes)) == 2


def test_every_drawing_is_listed():
    names = {name for name in dir(schematics) if name.endswith("_schematic")}
    assert names == {draw.__name__ for draw, _ in DRAWINGS.values()}
