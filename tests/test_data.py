"""The door load_dataset, its protocols, and the transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cra_smra import load_dataset
from cra_smra.data import hold_out
from cra_smra.data.transforms import flip_and_shift, normalise, resize_and_crop

SMALL = {"num_classes": 3, "size": 64, "difficulty": "easy"}


def rows(dataset) -> set[bytes]:
    return {dataset[i][0].numpy().tobytes() for i in range(len(dataset))}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_hold_out_parts_every_class_once(labels, seed):
    targets = torch.tensor([label for label in labels for _ in range(2)])  # at least two of each
    kept, held = hold_out(targets, 0.1, seed)
    assert sorted(kept + held) == list(range(len(targets)))
    for label in set(labels):
        count = (targets == label).sum().item()
        assert (targets[held] == label).sum().item() == max(1, round(0.1 * count))
        assert (targets[kept] == label).any()
    assert (kept, held) == hold_out(targets, 0.1, seed)


def test_a_class_with_one_image_cannot_be_held_out():
    with pytest.raises(ValueError, match="class 1 has 1 training image"):
        hold_out(torch.tensor([0, 0, 1]))


def test_clean_holds_out_a_tenth_and_paper_nothing():
    train, val = (load_dataset("birds", split=split, per_class=10, **SMALL) for split in ("train", "val"))
    everything = load_dataset("birds", split="train", protocol="paper", per_class=10, **SMALL)
    assert (len(train), len(val), len(everything)) == (27, 3, 30)
    assert val.targets.bincount().tolist() == [1, 1, 1]
    assert rows(train) | rows(val) == rows(everything)
    assert not rows(train) & rows(val)


def test_the_test_images_are_the_same_in_both_protocols_and_seen_in_no_other_split():
    clean = load_dataset("birds", split="test", per_class=4, **SMALL)
    paper = load_dataset("birds", split="test", protocol="paper", per_class=4, **SMALL)
    assert rows(clean) == rows(paper)
    assert not rows(clean) & rows(load_dataset("birds", protocol="paper", per_class=10, **SMALL))


def test_items_are_uint8_images_with_the_label_of_their_class():
    dataset = load_dataset("birds", per_class=4, **SMALL)
    image, label = dataset[len(dataset) - 1]
    assert image.dtype == torch.uint8 and image.shape == (3, 64, 64)
    assert label == dataset.targets[-1].item() == 2
    assert dataset.class_to_idx[dataset.classes[2]] == 2


def test_boxes_and_parts_belong_to_the_images_of_the_split():
    val = load_dataset("birds", split="val", per_class=10, **SMALL)
    assert val.boxes.shape == (3, 4) and val.part_locations.shape[0] == 3
    for i in range(3):
        alone = next(j for j in range(30) if torch.equal(val.base[j][0], val[i][0]))
        assert torch.equal(val.boxes[i], val.base.boxes[alone])
        assert torch.equal(val.part_locations[i], val.base.part_locations[alone])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bird",), "dataset must be one of birds"),
        (("birds", None, "dev"), "'train', 'val' or 'test', got 'dev'"),
        (("birds", None, "train", "mine"), "clean, paper, got 'mine'"),
        (("birds", None, "val", "paper"), "has no split 'val'"),
    ],
)
def test_unknown_names_are_answered_with_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(*arguments)
    assert "\n" not in str(caught.value)


def test_normalise_by_hand():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(image).flatten(), expected, rtol=1e-6)
    np.testing.assert_allclose(normalise(image, "half").flatten(), [-1, -0.6, 1], rtol=1e-6)


def test_normalise_refuses_floats_and_unknown_statistics():
    with pytest.raises(ValueError, match="uint8"):
        normalise(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="imagenet, half, lite, got 'cub'"):
        normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "cub")


def test_flip_and_shift_moves_pixels_by_at_most_a_twelfth():
    torch.manual_seed(0)
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    image[:, 40, 20] = 255
    found = set()
    for _ in range(300):
        moved = flip_and_shift(96)(image)
        assert moved.shape == image.shape and moved.dtype == torch.uint8
        row, column = (moved[0] == 255).nonzero()[0].tolist()
        found.add((row - 40, min((column - 20, column - (95 - 20)), key=abs), column > 48))
    assert max(abs(down) for down, _, _ in found) == 8 and max(abs(right) for _, right, _ in found) == 8
    assert {flipped for _, _, flipped in found} == {False, True}


def test_resize_and_crop_takes_the_paper_s_share_of_the_image():
    # A ramp over the columns: after resizing to 550 and cropping 448, the ends lie 51 of 550 pixels inside.
    ramp = torch.linspace(0, 255, 1100).round().to(torch.uint8).expand(3, 400, 1100)
    cut = resize_and_crop(448, train=False)(ramp)
    assert cut.shape == (3, 448, 448)
    ends = cut[0, 200, [0, -1]].tolist()
    assert ends == pytest.approx([255 * 51 / 550, 255 * 499 / 550], abs=1.5)
    torch.manual_seed(0)
    centre = {tuple(sorted(resize_and_crop(448, True, "centre")(ramp)[0, 0, [0, -1]].tolist())) for _ in range(20)}
    assert centre == {tuple(ends)}  # flipped or not, never moved
    anywhere = {min(resize_and_crop(448, True)(ramp)[0, 0, [0, -1]].tolist()) for _ in range(200)}
    assert min(anywhere) < 5 and max(anywhere) > 255 * 97 / 550


def test_an_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="'random' or 'centre', got 'corner'"):
        resize_and_crop(448, True, "corner")
