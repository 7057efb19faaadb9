"""Figures whose marks are read back from the axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from cra_smra.plots import annotated_pictures

BOXES = torch.tensor([[2.0, 3.0, 10.0, 5.0], [0.0, 0.0, 7.0, 8.0], [1.0, 1.0, 2.0, 2.0]])
PARTS = torch.tensor([[[4.0, 5.0, 1.0], [9.0, 9.0, 0.0]], [[1.0, 2.0, 1.0], [3.0, 4.0, 1.0]], [[0.0, 0.0, 0.0]] * 2])


@pytest.fixture
def figure():
    images = [torch.zeros(3, height, 20, dtype=torch.uint8) for height in (12, 15, 9)]
    yield (drawn := annotated_pictures(images, ["a", "a name of six words that wraps", "c"], BOXES, PARTS, columns=2))
    plt.close(drawn)


def test_boxes_and_visible_parts_stand_where_the_listing_says(figure):
    assert len(figure.axes) == 4 and not figure.axes[3].images
    for axes, box, parts in zip(figure.axes, BOXES, PARTS, strict=False):
        for patch in axes.patches:
            assert (*patch.get_xy(), patch.get_width(), patch.get_height()) == tuple(box.tolist())
        assert len(axes.patches) == 2  # light below dark: seen on any picture
        places = axes.collections[0].get_offsets().tolist()
        assert places == [part[:2].tolist() for part in parts if part[2]]


def test_long_titles_wrap_and_sizes_may_differ(figure):
    assert [axes.images[0].get_array().shape for axes in figure.axes[:3]] == [(12, 20, 3), (15, 20, 3), (9, 20, 3)]
    lines = figure.axes[1].get_title().split("\n")
    assert len(lines) > 1 and max(map(len, lines)) <= 18


def test_neither_boxes_nor_parts_are_needed():
    figure = annotated_pictures([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    assert not figure.axes[0].patches and not figure.axes[0].collections
    plt.close(figure)
