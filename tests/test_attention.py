"""Overlap and entropy of attention maps, against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from cra_smra.attention import entropy, overlap, top_pixels


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def map_with(*pixels, size=10):
    """A map of ``size`` pixels with its weight on the given ones, in decreasing order."""
    weights = [0.0] * size
    for rank, pixel in enumerate(pixels):
        weights[pixel] = float(len(pixels) - rank)
    return [weight / sum(weights) for weight in weights]


def test_top_pixels_by_hand():
    values = tensor([[0.1, 0.4, 0.0, 0.2, 0.3], [0.5, 0.0, 0.2, 0.2, 0.1]])
    assert top_pixels(values).int().tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert top_pixels(values, 0.6).int().tolist() == [[0, 1, 0, 1, 1], [1, 0, 1, 1, 0]]


@pytest.mark.parametrize(("pixels", "count"), [(196, 39), (100, 20), (49, 10), (9, 2), (4, 1), (2, 1)])
def test_top_pixels_are_a_fifth_and_at_least_one(pixels, count):
    top = top_pixels(torch.rand(2, 3, pixels))
    assert top.dtype == torch.bool and top.shape == (2, 3, pixels)
    assert (top.sum(dim=2) == count).all()


def test_overlap_by_hand():
    # top two of ten pixels: {0, 1}, {1, 2}, {0, 1}: IoU 1/3, 1 and 1/3
    first = [map_with(0, 1), map_with(1, 2), map_with(1, 0)]
    # {0, 1}, {2, 3}, {3, 4}: IoU 0, 0 and 1/3
    second = [map_with(0, 1, 5), map_with(2, 3), map_with(3, 4)]
    assert overlap(tensor([first, second])).tolist() == pytest.approx([5 / 9, 1 / 9])


def test_overlap_of_equal_and_of_disjoint_maps():
    equal = [map_with(3, 7, 1)] * 3
    disjoint = [map_with(0, 1), map_with(2, 3), map_with(4, 5)]
    assert overlap(tensor([equal, disjoint])).tolist() == [1.0, 0.0]


def test_overlap_of_two_stages_at_another_share():
    # top four of ten: {0, 1, 2, 3} and {2, 3, 4, 5}: 2 of 6
    maps = tensor([[map_with(0, 1, 2, 3), map_with(2, 3, 4, 5)]])
    assert overlap(maps, share=0.4).item() == pytest.approx(2 / 6)


def test_overlap_of_random_maps_equals_sets():
    maps = torch.rand(4, 3, 50).softmax(dim=2)
    expected = []
    for image in maps.numpy():
        a, b, c = (set(np.argsort(-row)[:10].tolist()) for row in image)
        expected.append(sum(len(p & q) / len(p | q) for p, q in ((a, b), (a, c), (b, c))) / 3)
    np.testing.assert_allclose(overlap(maps).numpy(), expected, rtol=1e-6)


def test_overlap_does_not_change_when_maps_are_sharpened_or_stages_swapped():
    logits = torch.randn(8, 3, 64, dtype=torch.float64)
    value = overlap(logits.softmax(dim=2))
    assert torch.equal(overlap((5 * logits).softmax(dim=2)), value)
    torch.testing.assert_close(overlap(logits[:, [2, 0, 1]].softmax(dim=2)), value)


def test_entropy_by_hand():
    maps = tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, 0.25, 0.125, 0.125]])
    # ln 4 / ln 4, 0, ln 2 / ln 4, and (1/2 + 2/4 + 3/8 + 3/8) ln 2 / (2 ln 2) = 7/8
    torch.testing.assert_close(entropy(maps), tensor([1.0, 0.0, 0.5, 0.875]))


def test_entropy_keeps_the_leading_shape_and_equals_numpy():
    maps = torch.randn(2, 3, 196, dtype=torch.float64).softmax(dim=2)
    p = maps.numpy()
    expected = -(p * np.log(p)).sum(axis=2) / math.log(196)
    np.testing.assert_allclose(entropy(maps).numpy(), expected, rtol=1e-12)


def test_entropy_falls_as_a_map_is_sharpened():
    logits = torch.randn(5, 196)
    scales = (0.0, 1.0, 3.0, 10.0, 1000.0)
    values = torch.stack([entropy((scale * logits).softmax(dim=1)) for scale in scales])
    assert (values[1:] < values[:-1]).all()
    torch.testing.assert_close(values[0], torch.ones(5))
    assert values[-1].max() < 0.05
