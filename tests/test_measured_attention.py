"""Maps against regions: hand-made maps whose answer is known, then networks, runs and seeds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from conftest import refused
from cra_smra import Recipe, measured_attention, train
from cra_smra.attention import attention_maps, overlap, top_pixels
from cra_smra.attention_tables import by_row, rows_table, table
from cra_smra.cli import main
from cra_smra.coverage import (
    boxes_as_masks,
    coverage,
    discs,
    mass,
    region_names,
    regions,
    shared_top,
    top_cells,
    top_fifth,
)
from cra_smra.data import Split, load_dataset
from cra_smra.data.birds import PARTS, Birds
from cra_smra.data.make import make
from cra_smra.data.transforms import normalise, resize_and_crop
from cra_smra.experiments import machine_free
from cra_smra.explain import explain
from cra_smra.grids import Row
from cra_smra.measured_attention import (
    examples,
    measure,
    measure_maps,
    measure_run,
    over_seeds,
    spread_places,
    unpacked,
)
from cra_smra.model import PlainNetwork
from cra_smra.plots_attention import attention_rows, attention_sweep, part_shares
from cra_smra.saved import read_trained


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quadrant(row, column, size=8):
    """A mask (1, 1, size, size) of one quarter of the image."""
    mask, half = torch.zeros(1, 1, size, size), size // 2
    mask[0, 0, row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
    return mask


def values(tree):
    """All numbers of a result, by their path."""
    if isinstance(tree, dict):
        return {(key, *rest): value for key, part in tree.items() for rest, value in values(part).items()}
    if isinstance(tree, list):
        return values(dict(enumerate(tree)))
    return {(): tree}


def assert_close(found, expected):
    """Two results are the same but for the order of sums."""
    found, expected = values(found), values(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), path


# --- cells


def test_mass_by_hand():
    maps = torch.tensor([[[1.0, -4.0], [0.0, 3.0]], [[2.0, 2.0], [2.0, 2.0]]])
    assert mass(maps).tolist() == [[0.25, 0, 0, 0.75], [0.25] * 4]
    for nothing in (torch.zeros(1, 2, 2), -torch.ones(1, 2, 2)):
        assert mass(nothing).isnan().all()


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        ([4, 1, 3, 2], 2, [1, 0, 1, 0]),
        ([4, 3, 3, 1], 2, [1, 0.5, 0.5, 0]),  # two share the last place
        ([4, 0, 0, 0], 2, [1, 1 / 3, 1 / 3, 1 / 3]),  # as in a Grad-CAM with a single cell above 0
        ([2, 2, 2, 2], 1, [0.25] * 4),
        ([5, 5, 5, 1], 2, [2 / 3, 2 / 3, 2 / 3, 0]),
        ([1, 2, 3, 4], 4, [1, 1, 1, 1]),
    ],
)
def test_top_cells_by_hand(values, count, expected):
    assert top_cells(torch.tensor([values], dtype=torch.float), count)[0].tolist() == pytest.approx(expected)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_top_cells_fill_their_places_and_treat_equals_alike(values, data):
    count = data.draw(st.integers(1, len(values)))
    row = torch.tensor([values], dtype=torch.float)
    found = top_cells(row, count)[0]
    assert found.sum().item() == pytest.approx(count, rel=1e-5) and 0 <= found.min() and found.max() <= 1 + 1e-6
    for value in set(values):
        assert len(found[row[0] == value].unique()) == 1
    assert (found[row[0].argsort()].diff() >= 0).all()  # a larger value never counts for less


def test_the_top_fifth_without_ties_is_that_of_the_log():
    for side in (3, 4, 7, 14):
        maps = torch.rand(5, side, side)
        assert torch.equal(top_fifth(maps).flatten(1), top_pixels(maps.flatten(1)).float())


# --- coverage


def test_coverage_by_hand():
    maps = torch.tensor([[[1.0, 0.0], [1.0, 2.0]]])
    right = coverage(maps, quadrant(1, 1))  # the quarter below right: mass 2/4, the largest cell, a quarter
    assert [value.item() for value in right] == pytest.approx([0.5, 1, 1, 0.25])
    left = coverage(maps, quadrant(1, 0))
    assert [value.item() for value in left] == pytest.approx([0.25, 0, 0, 0.25])


def test_a_cell_counts_for_the_share_that_the_region_fills():
    mask = torch.zeros(1, 2, 6, 6)
    mask[0, 0, :3, :1] = 1  # a third of the first of 2 x 2 cells
    mask[0, 1, 2:4, 2:4] = 1  # one of nine pixels of every cell
    maps = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])
    found = coverage(maps, mask)
    assert found.mass[0].tolist() == pytest.approx([0.75 / 3, 1 / 9])
    assert found.peak[0].tolist() == pytest.approx([1 / 3, 1 / 9])
    assert found.uniform[0].tolist() == pytest.approx([3 / 36, 4 / 36])


def test_top_of_a_larger_map_by_hand():
    maps = torch.zeros(1, 4, 5)  # 20 cells: the top fifth are 4
    maps[0, 0, :3], maps[0, 3, 4] = torch.tensor([9.0, 8.0, 7.0]), 1.0
    mask = torch.zeros(1, 1, 4, 5)
    mask[0, 0, 0] = 1
    found = coverage(maps, mask)
    assert found.top.item() == pytest.approx(3 / 4) and found.mass.item() == pytest.approx(24 / 25)


@pytest.mark.parametrize("grid", [(3, 3), (12, 12), (5, 7)])
def test_a_flat_map_has_on_every_region_what_uniform_says(grid):
    found = coverage(torch.full((2, *grid), 0.3), torch.rand(2, 4, 45, 63))
    for value in found:
        torch.testing.assert_close(value, found.uniform)


def test_shares_of_regions_that_divide_the_image_sum_to_1():
    labels = torch.randint(0, 5, (3, 24, 24))
    masks = torch.stack([labels == region for region in range(5)], dim=1)
    for value in coverage(torch.rand(3, 6, 6), masks):
        torch.testing.assert_close(value.sum(dim=1), torch.ones(3))


def test_enlarging_a_map_by_blocks_changes_nothing_and_scaling_it_neither():
    maps, masks = torch.rand(3, 5, 5), torch.rand(3, 2, 60, 60)  # a fifth of 25 cells and of 225: 5 and 45
    blocks = maps.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    for other in (blocks, 7 * maps):
        for a, b in zip(coverage(maps, masks), coverage(other, masks), strict=True):
            torch.testing.assert_close(a, b)


def test_turning_map_and_mask_together_changes_nothing():
    maps, masks = torch.rand(3, 4, 6), torch.rand(3, 2, 16, 24)
    for a, b in zip(coverage(maps, masks), coverage(maps.flip(2), masks.flip(3)), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(coverage(maps, masks), coverage(maps.mT, masks.mT), strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_map_has_no_shares():
    found = coverage(torch.zeros(1, 3, 3), torch.rand(1, 2, 9, 9))
    assert all(value.isnan().all() for value in found)


# --- overlap


def test_shared_top_on_one_grid_is_the_overlap_of_the_log():
    maps = torch.rand(6, 3, 49)
    torch.testing.assert_close(shared_top(list(maps.unflatten(2, (7, 7)).unbind(1))), overlap(maps))


def test_shared_top_of_equal_disjoint_and_unrelated_maps():
    small = torch.rand(4, 5, 5)
    large = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    torch.testing.assert_close(shared_top([large, small, small]), torch.ones(4))
    first, last = torch.arange(100.0).view(1, 10, 10), torch.arange(100.0).flip(0).view(1, 10, 10)
    assert shared_top([first, last]).item() == 0
    assert shared_top([torch.rand(20, 60, 60), torch.rand(20, 60, 60)]).mean().item() == pytest.approx(1 / 9, abs=0.01)
    assert shared_top([first, torch.zeros(1, 5, 5)]).isnan()
    flat = torch.ones(1, 10, 10)  # every cell belongs to the top fifth by a fifth
    assert shared_top([flat, flat]).item() == pytest.approx(1)
    assert shared_top([flat, first]).item() == pytest.approx(20 * 0.2 / (20 + 80 * 0.2))


def test_shared_top_of_different_grids_by_hand():
    fine, coarse = torch.zeros(1, 4, 4), torch.zeros(1, 2, 2)
    fine[0, 0, :2], fine[0, 3, 3] = torch.tensor([3.0, 2.0]), 1.0  # the top three of 16 cells
    coarse[0, 0, 0] = 1.0  # the top one of 4 lies on four fine cells, of which two are among the three
    assert shared_top([fine, coarse]).item() == pytest.approx(2 / 5)


# --- regions


def test_discs_by_hand():
    points = torch.tensor([[2.5, 1.5, 1.0], [0.5, 0.5, 0.0], [-9.0, 1.0, 1.0]])
    found = discs(points, 1.0, 4, 6)
    assert found.shape == (3, 4, 6)
    assert sorted(map(tuple, found[0].nonzero().tolist())) == [(0, 2), (1, 1), (1, 2), (1, 3), (2, 2)]
    assert not found[1].any() and not found[2].any()  # not visible; outside
    assert discs(torch.tensor([[50.0, 50.0, 1.0]]), 30, 100, 100).sum().item() == pytest.approx(np.pi * 900, rel=0.01)


def test_boxes_by_hand():
    found = boxes_as_masks(torch.tensor([[1.0, 0.0, 2.0, 3.0], [4.0, 2.0, 9.0, 9.0]]), 4, 6)
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[0, :3, 1:3] = expected[1, 2:, 4:] = True
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def birds():
    base = Birds("test", num_classes=6, per_class=3, size=64, difficulty="easy")
    return Split(base, range(2, len(base)), None)


def test_regions_of_a_bird_are_its_parts(birds):
    names = region_names(birds)
    assert names == (*PARTS, "object", "background", "distinguishing")
    for index in (0, 7):
        place = birds.indices[index]
        image, masks = regions(birds, index)
        assert torch.equal(image, birds[index][0]) and masks.shape == (len(names), 64, 64)
        assert torch.equal(masks[: len(PARTS)] > 0.5, birds.base.masks([place])[0])
        whole, background, telling = masks[len(PARTS) :]
        torch.testing.assert_close(whole + background, torch.ones(64, 64))
        assert (masks[: len(PARTS)].sum(dim=0) <= whole + 1e-4).all()
        assert whole.sum() > 1.02 * masks[: len(PARTS)].sum()  # some of the plumage belongs to no part
        told = birds.base.distinguishing_parts(birds[index][1])
        assert 0 < len(told) < len(PARTS)
        torch.testing.assert_close(telling, sum(masks[PARTS.index(part)] for part in told))
        left, top, width, height = birds.boxes[index].int().tolist()
        seen = (whole > 0.5).nonzero()
        assert [*seen.amin(0), *seen.amax(0)] == [top, left, top + height - 1, left + width - 1]


@pytest.fixture(scope="module")
def cub(tmp_path_factory):
    root = tmp_path_factory.mktemp("cub")
    make("cub", root, num_classes=3, train_per_class=2, test_per_class=2)
    return root


def test_regions_of_a_photograph_follow_it_through_resizing_and_cropping(cub):
    size, large = 64, round(64 * 550 / 448)
    dataset = load_dataset("cub", cub, "test", transform=resize_and_crop(size, train=False))
    names = region_names(dataset)
    assert names == (*dataset.base.part_names, "object", "background")
    checked = 0
    for index in range(len(dataset)):
        image, masks = regions(dataset, index)
        assert torch.equal(image, dataset[index][0]) and type(image) is type(masks) is torch.Tensor
        assert masks.shape == (len(names), size, size)
        height, width = dataset.base[dataset.indices[index]][0].shape[1:]
        scale, offset = np.array([large / width, large / height]), (large - size) // 2
        box = dataset.boxes[index].numpy()
        low = (box[:2] * scale - offset).clip(0, size)
        high = ((box[:2] + box[2:]) * scale - offset).clip(0, size)
        seen = (masks[names.index("object")] > 0.5).nonzero()  # (n, 2): y, x
        np.testing.assert_allclose(seen.amin(0).flip(0), low, atol=1.5)
        np.testing.assert_allclose(seen.amax(0).flip(0) + 1, high, atol=1.5)
        for part, (x, y, visible) in zip(masks, dataset.part_locations[index].tolist(), strict=False):
            centre = np.array([x, y]) * scale - offset
            radius = 0.1 * box[2:].max() * scale.max()
            if visible and (centre > radius + 1).all() and (centre < size - radius - 1).all():
                found = part.nonzero().float().mean(0).flip(0) + 0.5
                np.testing.assert_allclose(found, centre, atol=1)
                checked += 1
            elif not visible:
                assert not part.any()
    assert checked > 20


def test_sets_without_boxes_are_refused(tmp_path):
    make("folder", tmp_path, num_classes=2, train_per_class=2, test_per_class=1)
    dataset = load_dataset("folder", tmp_path, "test")
    refused("neither boxes nor parts", region_names, dataset)


def test_a_run_trained_from_a_cache_is_measured_and_explained_on_the_original_images(cub, tmp_path):
    recipe = Recipe(
        dataset="cub",
        root=str(cub),
        cache=str(tmp_path / "cache"),
        protocol="paper",
        backbone="resnet10",
        weights=None,
        image_size=64,
        out_channels=16,
        epochs=1,
        batch_size=4,
        workers=0,
    )
    refused("without a cache", region_names, recipe.load("test"))
    run = train(recipe, tmp_path / "run", progress=False)
    found = measure_run(run, progress=False)["attention"]
    dataset = load_dataset("cub", cub, "test", transform=resize_and_crop(64, train=False))
    assert_close(found, measure(read_trained(run)[0], dataset, progress=False))
    facts = explain(run, dataset.base.path(3)).facts
    logits = torch.from_numpy(np.load(run / "predictions.npz")["overall_logits"][3])
    said = {row["class"]: row["probability"] for row in facts["classifiers"]["joint"]}
    assert said == pytest.approx(dict(zip(dataset.classes, logits.softmax(dim=0).tolist(), strict=True)), abs=1e-3)
    assert facts["preprocessing"]["resize"] == [79, 79] and facts["preprocessing"]["crop"] == [64, 64]


# --- networks


@pytest.fixture(scope="module")
def loaded(trained):
    """The tiny trained network and its 24 test images."""
    built, recipe, _ = read_trained(trained)
    return built, recipe.load("test")


@pytest.fixture(scope="module")
def measured(loaded):
    return measure(*loaded, images=8, progress=False)


def test_a_measurement_has_every_map_stage_and_region(measured):
    text = json.dumps(measured, allow_nan=False)
    assert json.loads(text) == measured
    measured = json.loads(text)
    assert measured["images"] == 8 and measured["regions"][:2] == ["back", "beak"]
    assert list(measured["maps"]) == ["grad_cam", "grad_cam_joint", "channel_mean", "smram"]
    for kind, found in measured["maps"].items():
        sizes = [[2, 2]] * 3 if kind == "smram" else [[8, 8], [4, 4], [2, 2]]
        assert [row["cells"] for row in found["stages"]] == sizes
        for row in found["stages"]:
            for name in ("mass", "top", "peak", "uniform"):
                assert list(row[name]) == measured["regions"]
                if row["empty"] < 1:
                    assert row[name]["object"] + row[name]["background"] == pytest.approx(1, abs=1e-5)
            row.pop("cells")
    assert all(value is None or 0 <= value <= 1.00001 for value in values(measured["maps"]).values())


def test_a_measurement_is_the_mean_over_images_spread_over_the_classes(loaded, measured):
    built, dataset = loaded
    places = range(0, 24, 3)
    assert dataset.targets[list(places)].unique().tolist() == [0, 1, 2, 3]
    wing, peaks = [], []
    for place in places:
        image, masks = regions(dataset, place)
        maps = attention_maps(built, normalise(image[None]))
        stage3 = maps["smram"][0][0].numpy()
        stage4 = maps["grad_cam"][1][0].numpy()
        mask = masks[PARTS.index("wing")].numpy()
        cells = mask.reshape(2, 32, 2, 32).mean(axis=(1, 3))
        wing.append((stage3 * cells).sum())
        i, j = np.unravel_index(stage4.argmax(), stage4.shape)
        peaks.append(masks[12, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16].mean().item())
    assert measured["maps"]["smram"]["stages"][0]["mass"]["wing"] == pytest.approx(np.mean(wing), abs=1e-5)
    assert measured["maps"]["grad_cam"]["stages"][1]["peak"]["object"] == pytest.approx(np.mean(peaks), abs=1e-5)


def test_a_measurement_does_not_depend_on_batches(loaded, measured, monkeypatch):
    monkeypatch.setattr(measured_attention, "BATCH", 3)
    assert_close(measure(*loaded, images=8, progress=False), measured)


def test_a_map_drawn_on_the_bird_is_found_there_and_a_map_drawn_beside_it_is_not(birds):
    rows = [regions(birds, index) for index in range(6)]
    masks = torch.stack([row[1] for row in rows])
    names = region_names(birds)
    on = torch.nn.functional.adaptive_avg_pool2d(masks[:, [12, 13, 14]], 8).unbind(1)  # object, background, telling
    (found,) = measure_maps({"drawn": on}, masks, names).values()
    bird, beside, telling = found["stages"]
    for name in ("mass", "top", "peak"):
        assert (bird[name]["object"] > 2 * bird["uniform"]["object"]).all()
        assert (beside[name]["object"] < beside["uniform"]["object"]).all()
        assert (telling[name]["distinguishing"] > 2 * telling["uniform"]["distinguishing"]).all()
    assert found["overlap"].max() < 0.6


def test_empty_maps_are_counted_and_left_out_of_the_means(loaded, monkeypatch):
    built, dataset = loaded
    plain = PlainNetwork("resnet10", 4).eval()
    torch.nn.init.zeros_(plain.fc.weight)  # no gradient: every Grad-CAM is zero
    found = measure(plain, dataset, images=4, progress=False)["maps"]
    for row in found["grad_cam"]["stages"]:
        assert row["empty"] == 1 and row["entropy"] is None and row["mass"]["object"] is None
        assert row["uniform"]["object"] is None  # it stands for the same images as the shares beside it
    assert found["grad_cam"]["overlap"] is None
    assert all(row["empty"] == 0 and row["mass"]["object"] > 0 for row in found["channel_mean"]["stages"])
    refused("images must be at least 1, got 0", measure, built, dataset, images=0)


def test_photographs_are_measured_against_points_and_boxes(cub):
    dataset = load_dataset("cub", cub, "test", transform=resize_and_crop(64, train=False))
    found = measure(PlainNetwork("resnet10", 3).eval(), dataset, progress=False)
    assert found["images"] == len(dataset) == 6 and "distinguishing" not in found["regions"]
    assert 0.05 < found["maps"]["channel_mean"]["stages"][2]["mass"]["object"] < 1
    assert "distinguishing" not in table(found)


# --- seeds


def changed(tree, factor):
    if isinstance(tree, dict):
        return {key: changed(value, factor) for key, value in tree.items()}
    if isinstance(tree, list):
        return [changed(value, factor) for value in tree]
    return tree * factor if isinstance(tree, float) else tree


def test_over_seeds_has_the_mean_and_the_t_interval(measured):
    seeds = [measured, changed(measured, 0.8), changed(measured, 0.5), changed(measured, 0.9)]
    found, sources = over_seeds(seeds)["maps"], [values(seed["maps"]) for seed in seeds]
    for path in (("smram", "overlap"), ("grad_cam", "stages", 1, "mass", "wing")):
        sample = [source[path] for source in sources]
        value = found
        for key in path:
            value = value[key]
        expected = ttest_1samp(sample, 0).confidence_interval(0.95)
        assert value["mean"] == pytest.approx(np.mean(sample)) and value["seeds"] == 4
        assert (value["low"], value["high"]) == pytest.approx((expected.low, expected.high))
    assert found["smram"]["stages"][0]["cells"] == [2, 2]


def test_over_seeds_with_one_seed_and_with_empty_maps(measured):
    single = over_seeds([measured])["maps"]["smram"]["overlap"]
    assert single == {"mean": measured["maps"]["smram"]["overlap"], "low": None, "high": None, "seeds": 1}
    hollow = json.loads(json.dumps(measured))
    hollow["maps"]["smram"]["overlap"] = None
    two = over_seeds([measured, hollow])["maps"]["smram"]["overlap"]
    assert two == single
    none = over_seeds([hollow, hollow])
    assert none["maps"]["smram"]["overlap"] == {"mean": None, "low": None, "high": None, "seeds": 0}
    json.dumps(none, allow_nan=False)


def test_results_that_do_not_belong_together_are_refused(measured):
    def copy(change):
        other = json.loads(json.dumps(measured))
        change(other)
        return [measured, other]

    refused("no results", over_seeds, [])
    refused("different numbers of images", over_seeds, copy(lambda r: r.update(images=9)))
    refused("different maps: all must have grad_cam", over_seeds, copy(lambda r: r["maps"].pop("smram")))
    refused("different sizes", over_seeds, copy(lambda r: r["maps"]["smram"]["stages"][0].update(cells=[3, 3])))


def test_table_shows_the_numbers_in_percent(measured):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(measured).splitlines()]
    assert len(lines) == 2 + 4 * 3 and len({len(line) for line in lines}) == 1
    row = measured["maps"]["smram"]["stages"][1]
    told = dict(zip(lines[0], lines[-2], strict=True))
    assert told["map"] == "SMRAM" and told["stage"] == "4"
    for column, value in {
        "mass on object": row["mass"]["object"],
        "peak on distinguishing": row["peak"]["distinguishing"],
        "flat on object": row["uniform"]["object"],
        "entropy": row["entropy"],
    }.items():
        assert told[column] == f"{100 * value:.1f}"
    part, ratio = told["most on"].split(" x ")
    assert float(ratio) == pytest.approx(max(row["mass"][p] / row["uniform"][p] for p in PARTS), abs=0.051)
    assert float(ratio) == pytest.approx(row["mass"][part] / row["uniform"][part], abs=0.051)
    two = over_seeds([measured, changed(measured, 0.8)])
    overlap = two["maps"]["smram"]["overlap"]
    spread = f"{100 * overlap['mean']:.1f} ± {100 * (overlap['high'] - overlap['mean']):.1f}"
    assert table(two).splitlines()[-1].endswith(f"| {spread} |")


# --- runs and the command


def test_a_run_is_measured_with_its_provenance(trained, measured):
    found = measure_run(trained, images=8, progress=False)
    assert_close(found["attention"], measured)
    assert found["trained"] == machine_free(json.loads((trained / "run.json").read_text()))
    assert found["examples"] == []
    assert found["measured"]["checkpoint"] == "chosen" and "torch" in found["measured"]["versions"]
    assert len(found["measured"]["test_fingerprint"]) == 16
    json.dumps(found, allow_nan=False)


def test_maps_of_single_images_come_back_from_their_levels(trained, loaded):
    network, dataset = loaded
    kept = measure_run(trained, images=2, shown=3, progress=False)["examples"]
    assert [example["place"] for example in kept] == spread_places(24, 3) == [0, 8, 16]
    pictures = torch.stack([regions(dataset, place)[0] for place in (0, 8, 16)])
    alone = attention_maps(network, normalise(pictures[1:2], "imagenet"))
    assert kept[1]["maps"].keys() == alone.keys()
    for kind, stages in alone.items():
        for found, stored in zip(stages, kept[1]["maps"][kind], strict=True):
            positive = found[0].clamp_min(0)
            assert torch.allclose(unpacked(stored), positive / positive.max().clamp_min(1e-30), atol=0.003), kind
    assert examples(network, pictures, "imagenet")[2] == kept[2]["maps"]
    assert spread_places(2, 5) == [0, 1] and spread_places(10, 0) == []


def test_rows_of_a_grid_find_their_results_and_stand_in_one_table(trained):
    found = measure_run(trained, images=4, progress=False)
    again = json.loads(json.dumps(found))
    again["trained"]["recipe"]["seed"] = again["trained"]["seed"] = 7
    again["attention"] = changed(found["attention"], 0.5)
    recipe = Recipe.from_dict(found["trained"]["recipe"])
    rows = [Row("whole", recipe), Row("other", replace(recipe, delta=0.5)), Row("again", replace(recipe, seed=9))]
    kept = by_row([again, found], rows)
    assert kept == {"whole": [found, again], "other": [], "again": [found, again]}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows_table(kept, "smram").splitlines()]
    assert len({len(line) for line in lines}) == 1 and lines[3][:3] == ["other", "0", "not run"]
    told = dict(zip(lines[0], lines[2], strict=True))
    both = over_seeds([found["attention"], again["attention"]])["maps"]["smram"]
    assert told["seeds"] == "2" and told["overlap of the stages"].startswith(f"{100 * both['overlap']['mean']:.1f} ± ")
    masses = [f"{100 * stage['mass']['object']['mean']:.1f}" for stage in both["stages"]]
    assert told["mass on the bird"] == ", ".join(masses)
    kept["whole"][0]["attention"]["maps"].pop("smram"), kept["whole"][1]["attention"]["maps"].pop("smram")
    assert "| whole | 0 | no such map |" in rows_table(kept, "smram")


def run(capsys, *arguments):
    try:
        main(["measure", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err.replace("\r", "\n").strip()


def test_the_command_writes_a_result_for_each_run(capsys, trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    code, output, _ = run(capsys, trained, other, "--images", 4, "--out", tmp_path / "results")
    assert code == 0 and output.count("| SMRAM | 5 |") == 2
    results = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert results == sorted([f"{trained.name}.json", "other.json"])
    assert json.loads((tmp_path / "results" / "other.json").read_text())["attention"]["images"] == 4
    code, _, _ = run(capsys, other, "--images", 2)
    assert code == 0 and json.loads((other / "attention.json").read_text())["attention"]["images"] == 2


def test_mistakes_are_answered_with_one_line_and_leave_nothing(capsys, trained, tmp_path):
    unfinished, stranger = tmp_path / "unfinished", tmp_path / "stranger"
    for folder, change in ((unfinished, {"status": "running"}), (stranger, {"dataset": {"classes": list("abcd")}})):
        shutil.copytree(trained, folder)
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | change))
    twin = tmp_path / "folder" / trained.name
    out = tmp_path / "results"
    for arguments, expected in (
        ([], "name at least one run directory"),
        ([tmp_path / "nowhere"], "is not a run directory"),
        ([unfinished], "is not finished"),
        ([stranger], "the classes of birds are not those"),
        ([trained, "--images", 0], "images must be at least 1"),
        ([trained, twin], "would write the same result"),
    ):
        code, output, errors = run(capsys, *arguments, "--out", out)
        assert code == 1 and not output and expected in errors and "\n" not in errors
        assert not out.exists()


# --- figures


def test_rows_of_maps_lie_beside_the_image():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    rows = {name: [torch.rand(4, 4), torch.rand(2, 2), torch.rand(2, 2)] for name in ("backbone", "+ CRAM")}
    rows["+ CRAM"][1] = torch.zeros(2, 2)
    figure = attention_rows(image, rows, "a title")
    grid = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["backbone", "+ CRAM"]
    assert [axes.get_title() for axes in grid[0]] == ["", "stage 3", "stage 4", "stage 5"]
    assert [len(axes.images) for axes in grid.flat] == [1, 2, 2, 2] * 2
    assert [[text.get_text() for text in axes.texts] for axes in grid.flat] == [[]] * 6 + [["empty"], []]
    heat = grid[0, 1].images[1].get_array()
    assert heat.shape == (32, 32) and float(heat.max()) == pytest.approx(1)


def test_part_shares_draw_the_measured_numbers(measured):
    two = over_seeds([measured, changed(measured, 0.8)])
    (axes,) = part_shares(two, "smram").axes
    stages = two["maps"]["smram"]["stages"]
    flat = [100 * stages[2]["uniform"][part]["mean"] for part in PARTS]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(flat)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(PARTS)
    for container, row in zip(axes.containers[1:], stages, strict=True):
        line, _, (bars,) = container.lines
        assert list(line.get_xdata()) == pytest.approx([100 * row["mass"][part]["mean"] for part in PARTS], rel=1e-5)
        low, high = np.array(bars.get_segments())[0, :, 0]
        back = row["mass"]["back"]
        assert (low, high) == pytest.approx((100 * back["low"], 100 * back["high"]), rel=1e-4)


def test_a_sweep_is_drawn_in_the_order_of_its_values(measured):
    figure = attention_sweep({0.9: measured, 0.5: changed(measured, 0.5)}, "threshold", "smram")
    top, middle, bottom = figure.axes
    line = top.containers[0].lines[0]
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == ["0.5", "0.9"]
    expected = [100 * measured["maps"]["smram"]["overlap"] * factor for factor in (0.5, 1)]
    assert list(line.get_ydata()) == pytest.approx(expected)
    assert len(middle.containers) == len(bottom.containers) == 3 and bottom.get_xlabel() == "threshold"
