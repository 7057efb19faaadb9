from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cra_smra.data import birds
from cra_smra.data.birds import (
    ATTRIBUTES,
    NOISE_SIZE,
    PARTS,
    Birds,
    noise,
    portraits,
    render,
    species,
    species_names,
)

EACH = pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
SMALL = {"num_classes": 4, "per_class": 6, "size": 64}


@lru_cache(maxsize=1)
def small() -> Birds:
    return Birds("train", **SMALL)


def parts_apart(a, b) -> int:
    """Written from the definition: the parts that carry an attribute in which two codes differ."""
    owners = [part for part, _ in ATTRIBUTES.values()]
    return len({part for part, x, y in zip(owners, a, b, strict=True) if x != y})


# species


@EACH
@pytest.mark.parametrize("seed", [0, 3])
def test_the_nearest_species_differ_in_as_many_parts_as_the_difficulty_says(difficulty, seed):
    codes = species(200, difficulty, seed).tolist()
    apart = np.array([[parts_apart(a, b) for b in codes] for a in codes])
    np.fill_diagonal(apart, 99)
    assert apart.min() == {"easy": 3, "medium": 2, "hard": 1}[difficulty]
    assert (apart.min(1) == apart.min()).mean() > 0.95  # not one close pair: nearly all have a neighbour that near
    assert species(20, difficulty, seed).tolist() == codes[:20]


@EACH
def test_codes_are_of_known_values_and_all_species_wear_the_same_colours(difficulty):
    codes = species(200, difficulty)
    assert (codes >= 0).all() and (codes < torch.tensor([len(v) for _, v in ATTRIBUTES.values()])).all()
    assert {part for part, _ in ATTRIBUTES.values()} == set(PARTS)
    assert codes[:, :4].sort(1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert codes[:, 4:8].sort(1).values.unique(dim=0).tolist() == [[0, 1, 2, 3]]


@EACH
def test_two_hundred_names_are_unique_and_true(difficulty):
    codes = species(200, difficulty)
    names = species_names(codes)
    assert len(set(names)) == 200
    assert all(len(name.split()) <= 5 and name.isascii() for name in names)
    worn = dict(zip(ATTRIBUTES, codes.T, strict=True))
    for name, crown, throat, tail in zip(names, worn["crown"], worn["throat"], worn["tail"], strict=True):
        assert ("Crimson-crowned" not in name) or crown == 0
        assert ("Black-throated" not in name) or throat == 1
        assert ("Fork-tailed" not in name) or tail == 1


def test_distinguishing_parts_name_what_differs():
    ds = Birds(num_classes=40, per_class=1)
    for a in (0, 7, 39):
        for b in (3, 20):
            assert len(ds.distinguishing_parts(a, b)) == parts_apart(ds.codes[a].tolist(), ds.codes[b].tolist())
        near = ds.neighbours(a)
        assert near and a not in near
        assert all(parts_apart(ds.codes[a].tolist(), ds.codes[b].tolist()) == 2 for b in near)
        assert set(ds.distinguishing_parts(a)) == {p for b in near for p in ds.distinguishing_parts(a, b)}
    assert ds.distinguishing_parts(5, 5) == ()


# images


def test_an_image_depends_on_seed_split_class_and_number_only():
    ds = small()
    many = Birds("train", num_classes=6, per_class=9, size=64)
    for label in range(4):
        ours, theirs = ds.images[label * 6 : label * 6 + 6].int(), many.images[label * 9 : label * 9 + 6].int()
        assert (ours - theirs).abs().max() <= 1  # batches of other sizes may round another way
    first = birds.render(ds.codes[[2]], noise("train", 2, 3), 64).image[0]
    assert ((first * 255).round() - ds.images[2 * 6 + 3]).abs().max() <= 1
    assert torch.equal(Birds("train", **SMALL).images, ds.images)
    assert not torch.equal(Birds("train", **SMALL, seed=1).images, ds.images)


def test_another_size_shows_the_same_scene():
    ds = small()
    large = Birds("train", **(SMALL | {"size": 128}))
    shrunk = F.avg_pool2d(large.images.float(), 2)
    assert (shrunk - ds.images).abs().mean() < 3
    both = (ds.part_locations[..., 2] > 0) & (large.part_locations[..., 2] > 0)
    assert both.float().mean() > 0.7
    moved = (ds.part_locations - large.part_locations / 2)[both][:, :2].norm(dim=1)
    assert moved.median() < 0.5 and moved.quantile(0.99) < 3


def test_no_image_is_in_two_splits():
    sets = [Birds(split, **SMALL) for split in ("train", "val", "test")]
    rows = {tuple(F.avg_pool2d(i.float(), 16).flatten().int().tolist()) for ds in sets for i in ds.images}
    assert len(rows) == 3 * 24
    assert len({ds.fingerprint for ds in sets}) == 3
    draws = torch.cat([noise(split, torch.arange(5).repeat_interleave(40), torch.arange(40).repeat(5))
                       for split in ("train", "val", "test")])
    assert draws.unique(dim=0).shape == (600, NOISE_SIZE)
    assert abs(draws.mean() - 0.5) < 0.005 and abs(draws.std() - 12**-0.5) < 0.005
    assert draws.min() >= 0 and draws.max() < 1
    assert (torch.corrcoef(draws.T) - torch.eye(NOISE_SIZE)).abs().max() < 0.25


def test_items_labels_and_transform():
    ds = Birds("val", **SMALL, transform=lambda image: image.float() / 255)
    image, label = ds[13]
    assert image.dtype == torch.float32 and image.shape == (3, 64, 64) and label == 2
    assert len(ds) == 24 and ds.images.dtype == torch.uint8 and ds.targets.tolist() == sorted(ds.targets.tolist())
    assert [ds.class_to_idx[name] for name in ds.classes] == [0, 1, 2, 3]
    assert sum(1 for _ in ds) == 24  # IndexError ends a plain loop


@EACH
def test_fingerprint_changes_with_what_changes_pixels(difficulty):
    base = Birds(**SMALL, difficulty=difficulty).fingerprint
    assert base == Birds(**SMALL, difficulty=difficulty).fingerprint
    for change in ({"seed": 1}, {"size": 65}, {"per_class": 7}, {"num_classes": 5}):
        assert Birds(**(SMALL | change), difficulty=difficulty).fingerprint != base


def test_one_attribute_changes_pixels_only_inside_its_part():
    size, count = 128, 6
    codes, draw = species(count, "easy", 2), noise("val", torch.arange(count), torch.arange(count))
    before = render(codes, draw, size)
    for column, (name, (part, values)) in enumerate(ATTRIBUTES.items()):
        other = codes.clone()
        other[:, column] = (codes[:, column] + 1) % len(values)
        after = render(other, draw, size)
        changed = (after.image - before.image).abs().amax(1) > 2 / 255  # (B, S, S)
        k = PARTS.index(part)
        inside = torch.maximum(before.parts[:, k], after.parts[:, k]) > 0.02
        near = F.max_pool2d(inside[:, None].float(), 5, 1, 2)[:, 0] > 0  # a border of two pixels
        assert not (changed & ~near).any(), name
        assert changed.flatten(1).sum(1).median() > 0.0015 * size**2, name  # and it does change something


def test_flip_mirrors_the_scene_its_parts_and_its_box():
    codes, draw = species(8), noise("train", torch.arange(8), torch.zeros(8, dtype=torch.long))
    other = draw.clone()
    other[:, 0] = 1 - draw[:, 0]
    one, two = (render(codes, u, 64) for u in (draw, other))
    assert (one.image - two.image.flip(-1)).abs().max() < 1e-3
    assert (one.parts - two.parts.flip(-1)).abs().max() < 1e-3
    (_, box, at), (_, mirrored_box, mirrored_at) = birds._measure(one), birds._measure(two)
    seen = at[..., 2] > 0
    assert torch.allclose(64 - mirrored_at[..., 0][seen], at[..., 0][seen], atol=0.3)
    assert torch.allclose(mirrored_at[..., 1][seen], at[..., 1][seen], atol=0.3)
    assert torch.allclose(64 - mirrored_box[:, 0] - mirrored_box[:, 2], box[:, 0], atol=1.01)


def test_parts_masks_locations_and_boxes_agree():
    ds = Birds("test", num_classes=10, per_class=8, size=96)
    masks, at, boxes = ds.masks(range(len(ds))), ds.part_locations, ds.boxes
    assert masks.shape == (80, len(PARTS), 96, 96) and masks.dtype == torch.bool
    assert masks.sum(1).max() == 1  # no pixel belongs to two parts
    for i in range(len(ds)):
        rows, columns = masks[i].any(0).nonzero().T
        for p in range(len(PARTS)):
            y, x = masks[i, p].nonzero().T
            if at[i, p, 2]:
                assert abs(x.float().mean() + 0.5 - at[i, p, 0]) < 0.01, PARTS[p]
                assert abs(y.float().mean() + 0.5 - at[i, p, 1]) < 0.01, PARTS[p]
                assert boxes[i, 0] <= at[i, p, 0] <= boxes[i, 0] + boxes[i, 2]
                assert boxes[i, 1] <= at[i, p, 1] <= boxes[i, 1] + boxes[i, 3]
            else:
                assert at[i, p].tolist() == [0, 0, 0]
        assert boxes[i, 0] <= columns.min() and columns.max() < boxes[i, 0] + boxes[i, 2]
        assert boxes[i, 1] <= rows.min() and rows.max() < boxes[i, 1] + boxes[i, 3]
    visible = at[..., 2].mean(0)
    assert visible.min() > 0.6 and visible.mean() < 0.999  # most parts show, some are covered
    assert masks.sum((2, 3)).float().median(0).values.min() >= 12  # and can be made out
    assert torch.equal(ds.masks([5, -1]), masks[[5, 79]]) and ds.masks([]).shape == (0, len(PARTS), 96, 96)


def test_a_part_mostly_covered_does_not_count_as_visible():
    parts = torch.zeros(1, len(PARTS), 8, 8)
    parts[0, 0, :3, 0], parts[0, 1, :5, 1] = 1, 1  # of ten pixels each, three and five are left
    whole = torch.full((1, len(PARTS)), 10.0)
    at = birds._measure(birds.Scene(torch.zeros(1, 3, 8, 8), parts, parts.sum(1), whole))[2][0]
    assert at[:3].tolist() == [[0, 0, 0], [1.5, 2.5, 1], [0, 0, 0]]


def test_the_drawing_is_the_one_its_version_names():
    image = render(species(2), noise("train", torch.tensor([0, 1]), torch.tensor([0, 1])), 64).image
    quarters = F.adaptive_avg_pool2d(image, 2).flatten(1) * 255
    known = [[184, 200, 161, 173, 157, 173, 127, 145, 151, 162, 116, 134],
             [140, 139, 120, 118, 148, 152, 126, 122, 117, 122, 95, 91]]
    assert (quarters - torch.tensor(known)).abs().max() < 1, "a new drawing: raise drawing.VERSION, renew these numbers"


def test_the_parts_lie_where_a_bird_has_them():
    neutral = torch.full((1, NOISE_SIZE), 0.5)
    scene = render(species(2)[:1], neutral, 128, scenery=False)
    at = dict(zip(PARTS, birds._measure(scene)[2][0], strict=True))
    assert all(spot[2] == 1 for spot in at.values())
    x, y = ({part: float(spot[k]) for part, spot in at.items()} for k in (0, 1))
    assert x["tail"] < x["wing"] < x["breast"] and x["nape"] < x["eye"] < x["beak"]  # it faces right
    assert y["crown"] < y["eye"] < y["throat"] < y["breast"] < y["leg"] and y["back"] < y["belly"]
    assert scene.image.shape == (1, 3, 128, 128) and 0 <= scene.image.min() and scene.image.max() <= 1


def test_portraits_are_on_plain_paper_and_all_different():
    faces = portraits(12, 64, "hard")
    assert faces.shape == (12, 3, 64, 64) and 0 <= faces.min() and faces.max() <= 1
    assert faces[:, :, :4].flatten(2).std(-1).max() < 1e-3  # the margin above the bird
    difference = (faces[:, None] - faces[None]).abs().amax(2).flatten(2).amax(-1)
    assert (difference + torch.eye(12) > 0.1).all()


# what colours give away


def histogram(images: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) uint8 -> (N, 64): the share of pixels in each of 4 x 4 x 4 boxes of RGB."""
    level = (images.long() // 64).flatten(2)
    box = level[:, 0] * 16 + level[:, 1] * 4 + level[:, 2]
    return torch.zeros(len(images), 64).scatter_add_(1, box, torch.ones_like(box, dtype=torch.float)) / box.shape[1]


def linear_accuracy(train, targets, test, test_targets) -> float:
    """Multinomial logistic regression on standardised features, fitted to the end."""
    mean, std = train.mean(0), train.std(0) + 1e-4
    train, test = (train - mean) / std, (test - mean) / std
    weight = torch.zeros(train.shape[1] + 1, 20, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = F.cross_entropy(train @ weight[1:] + weight[0], targets) + 1e-3 * weight[1:].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return ((test @ weight[1:] + weight[0]).argmax(1) == test_targets).float().mean().item()


@EACH
def test_colour_histograms_say_next_to_nothing_about_the_species(difficulty):
    train, test = (Birds(split, per_class=n, size=48, difficulty=difficulty) for split, n in
                   (("train", 100), ("test", 50)))
    accuracy = linear_accuracy(histogram(train.images), train.targets, histogram(test.images), test.targets)
    assert accuracy < 0.15, f"{accuracy:.3f} where chance is 0.05"


def test_the_linear_classifier_would_find_a_colour_that_gives_a_species_away():
    train, test = (Birds(split, per_class=30, size=32) for split in ("train", "test"))
    for ds in (train, test):
        for image, k in zip(ds.images, ds.targets.tolist(), strict=True):  # eight pixels of a colour of its own
            image[:, :2, :4] = torch.tensor([k % 4 * 64, k // 4 % 4 * 64, k // 16 * 64 + 128])[:, None, None]
    assert linear_accuracy(histogram(train.images), train.targets, histogram(test.images), test.targets) > 0.4


@pytest.mark.parametrize(("options", "message"), [
    ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
    ({"difficulty": "extreme"}, "difficulty must be one of easy, medium, hard, got 'extreme'"),
    ({"num_classes": 1}, "num_classes must be from 2 to 200, got 1"),
    ({"num_classes": 201}, "num_classes must be from 2 to 200, got 201"),
    ({"per_class": 0}, "per_class must be at least 1, got 0"),
    ({"size": 31}, "size must be at least 32 pixels, got 31"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
])
def test_bad_values_are_answered_with_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        Birds(**options)
    assert "\n" not in str(caught.value)
