"""The reader of FGVC-Aircraft on small copies of its layout, whole and broken."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import refused
from cra_smra.data import aircraft
from cra_smra.data.aircraft import AIRCRAFT, read_aircraft, read_classes, read_labels
from cra_smra.data.made_vehicles import draw_aircraft
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small copy; tests only read it."""
    return make("aircraft", tmp_path_factory.mktemp("a"), num_classes=5, train_per_class=4, test_per_class=2, size=48)


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """The folder data of a copy to break."""
    return Path(shutil.copytree(made, tmp_path / AIRCRAFT.folder)) / "data"


def test_the_classes_are_those_of_variants_txt_without_its_header(made):
    train, test = (read_aircraft(made, split) for split in ("train", "test"))
    lines = (made / "data" / "variants.txt").read_text().splitlines()
    assert lines[0] == "variant names" and list(train.classes) == lines[1:]
    assert {"F-16A/B", "F/A-18"} <= set(train.classes) and train.classes == test.classes
    assert train.targets.bincount().tolist() == [4] * 5 and test.targets.bincount().tolist() == [2] * 5
    assert not set(train.paths) & set(test.paths) and list(train.paths) == sorted(train.paths)
    labels = dict(line.split(" ", 1) for line in (made / "data/images_variant_trainval.txt").read_text().splitlines())
    for path, target in zip(train.paths, train.targets.tolist(), strict=True):
        assert labels[path.removesuffix(".jpg")] == train.classes[target]
    assert read_aircraft(made, "val") is None


def test_train_and_val_together_are_what_is_trained_on(made):
    halves = [read_labels(made / "data" / f"images_variant_{part}.txt") for part in ("train", "val")]
    assert all(halves) and {f"{n}.jpg" for half in halves for n in half} == set(read_aircraft(made, "train").paths)


def test_coarser_levels_group_the_variants(made):
    sets = {level: read_aircraft(made, "train", level=level) for level in aircraft.LEVELS}
    assert [len(found.classes) for found in sets.values()] == [5, 3, 2]
    for fine, coarse in (("variant", "family"), ("family", "manufacturer")):
        pairs = set(zip(sets[fine].targets.tolist(), sets[coarse].targets.tolist(), strict=True))
        assert len(pairs) == len(sets[fine].classes)  # a function of the finer label
    refused("variant, family, manufacturer, got 'model'", read_aircraft, made, "train", level="model")


def test_the_banner_is_cut_off_unless_asked_for(made):
    without, whole = (Photographs(read_aircraft(made, "test", banner=banner)) for banner in (False, True))
    for i in range(len(whole)):
        assert whole[i][0].shape == (3, 68, 48) and without[i][0].shape == (3, 48, 48)
        assert torch.equal(whole[i][0][:, :48], without[i][0])
    assert whole[0][0][:, 50:].float().mean() < 60 < without[0][0].float().mean()  # letters on black


def test_boxes_count_from_zero_and_end_above_the_banner(made, copy):
    listing = read_aircraft(made, "test")
    rows = {line.split()[0]: [int(v) for v in line.split()[1:]]
            for line in (made / "data/images_box.txt").read_text().splitlines()}
    for path, (left, top, width, height) in zip(listing.paths, listing.boxes.tolist(), strict=True):
        x1, y1, x2, y2 = rows[path.removesuffix(".jpg")]
        assert (left, top, left + width, top + height) == (x1 - 1, y1 - 1, x2, y2)
    number = listing.paths[0].removesuffix(".jpg")
    lines = [line for line in (copy / "images_box.txt").read_text().splitlines() if not line.startswith(number)]
    (copy / "images_box.txt").write_text("\n".join([*lines, f"{number} 1 11 48 68"]))
    assert read_aircraft(copy, "test").boxes[0].tolist() == [0, 10, 48, 38]
    assert read_aircraft(copy, "test", banner=True).boxes[0].tolist() == [0, 10, 48, 58]
    (copy / "images_box.txt").write_text("\n".join([*lines, f"{number} 1 50 48 68"]))
    refused("nothing of its box is left", read_aircraft, copy, "test")


def test_every_root_that_people_give(made, tmp_path):
    expected = read_aircraft(made, "train").paths
    doubled = tmp_path / AIRCRAFT.folder
    shutil.copytree(made, doubled / AIRCRAFT.folder)
    for root in (made.parent, made, made / "data", doubled):
        assert read_aircraft(root, "train").paths == expected


def test_an_archive_is_unpacked(made, tmp_path):
    shutil.make_archive(str(tmp_path / "fgvc-aircraft-2013b"), "gztar", made.parent, made.name)
    assert read_aircraft(tmp_path, "train").paths == read_aircraft(made, "train").paths


@given(st.permutations(range(6)), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(0, 3),
       st.lists(st.text("ABz-/ 09é", min_size=1).map(str.strip).filter(bool), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_lists_in_any_order_with_any_line_ends_and_unusual_names(order, end, blank, names):
    names = [" ".join(name.split(" ")) for name in names]
    expected = {f"{i:07d}": name for i, name in enumerate(names)}
    lines = [f"{i:07d} {names[i]}" for i in order] + [""] * blank
    random.Random(blank).shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes(end.join(lines).encode())
        assert read_labels(path) == expected


@pytest.mark.parametrize(("first", "kept"), [("variants", False), ("Variant names:", False), ("# 100", False),
                                             ("2", False), ("707-320", True), ("Tornado", True)])
def test_a_header_is_told_from_a_name(tmp_path, first, kept):
    (tmp_path / "variants.txt").write_text(f"{first}\n727-200\nF/A-18\n")
    assert read_classes(tmp_path / "variants.txt", {"727-200"}) == (first,) * kept + ("727-200", "F/A-18")


def test_a_name_like_a_header_is_kept_when_an_image_has_it(tmp_path):
    (tmp_path / "variants.txt").write_text("class\n727-200\n")
    assert read_classes(tmp_path / "variants.txt", {"class", "727-200"}) == ("class", "727-200")


def test_the_order_of_the_lines_changes_nothing(made, copy):
    for name in ("images_variant_trainval.txt", "images_variant_test.txt", "images_box.txt"):
        lines = (copy / name).read_text().splitlines()
        (copy / name).write_bytes("\r\n".join(["", *reversed(lines)]).encode())
    for split in ("train", "test"):
        one, other = read_aircraft(made, split), read_aircraft(copy, split)
        assert one.paths == other.paths and torch.equal(one.targets, other.targets)
        assert torch.equal(one.boxes, other.boxes)


def test_boxes_are_those_that_were_drawn(made):
    listing = read_aircraft(made, "test")
    for k in range(5):
        drawn = [draw_aircraft(k, 48, random.Random(f"aircraft 0 {k} {j}"))[1] for j in (4, 5)]
        expected = [[left, top, right - left + 1, bottom - top + 1] for left, top, right, bottom in drawn]
        assert sorted(listing.boxes[listing.targets == k].tolist()) == sorted(expected)


def test_a_box_is_around_what_is_drawn(made):
    """The sky has one colour, so the drawing can be found without the box."""
    listing = read_aircraft(made, "train")
    data = Photographs(listing)
    for i, (left, top, width, height) in enumerate(listing.boxes.tolist()):
        image = data[i][0].float()
        there = (image - image[:, :1, :1]).abs().sum(0) > 90  # JPEG blurs edges
        columns, rows = there.any(0).nonzero().flatten(), there.any(1).nonzero().flatten()
        drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.subtract(drawn, [left, top, left + width, top + height])).max() <= 3


def change(name: str, function):
    def broken(data: Path) -> None:
        (data / name).write_text(function((data / name).read_text()))

    return broken


def first_image(data: Path) -> Path:
    return data / "images" / read_aircraft(data, "train").paths[0]


BROKEN = {
    "an image is missing": (lambda d: first_image(d).unlink(), "is listed and not there"),
    "an unknown label": (change("images_variant_trainval.txt", lambda s: s.replace("F-16A/B", "F-15")),
                         "label 'F-15', which variants.txt does not name"),
    "a line without a label": (change("images_variant_test.txt", lambda s: s + "0000001\n"), "not of the form"),
    "an image twice": (change("images_variant_trainval.txt", lambda s: s + s.splitlines()[0]), "stands there twice"),
    "train and test share an image": (lambda d: (d / "images_variant_test.txt").write_text(
        (d / "images_variant_trainval.txt").read_text()), "stands in both"),
    "no box": (change("images_box.txt", lambda s: s.split("\n", 1)[1]), "has no box of image"),
    "a box from 0": (change("images_box.txt", lambda s: s.splitlines()[0].split()[0] + " 0 1 5 5\n"), "is no box"),
    "an empty list": (change("images_variant_trainval.txt", lambda s: ""), "is empty"),
    "a class without images": (change("images_variant_trainval.txt", lambda s: "\n".join(
        line for line in s.splitlines() if "F/A-18" not in line)), "class 'F/A-18' has no train image"),
    "no variants.txt": (lambda d: (d / "variants.txt").unlink(), "variants.txt"),
    "no images": (lambda d: shutil.rmtree(d / "images"), "annotations has the lists alone"),
    "a list that is no text": (lambda d: (d / "images_variant_trainval.txt").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "a zero-byte image": (lambda d: (d / "images" / read_aircraft(d, "train").paths[0]).write_bytes(b""), "is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_in_one_line(copy, name):
    break_it, message = BROKEN[name]
    break_it(copy)
    refused(message, read_aircraft, copy, "train")


def test_wrong_roots(tmp_path):
    refused("needs a root", read_aircraft, None, "train")
    refused("there is no folder", read_aircraft, tmp_path / "no", "train")
    refused("the folder is empty", read_aircraft, tmp_path, "train")
    (tmp_path / "fgvc-aircraft-2013b-annotations.tar.gz").write_bytes(b"x")
    refused("annotations alone", read_aircraft, tmp_path, "train")
    (tmp_path / "fgvc-aircraft-2013b.tar.gz").write_text("<!DOCTYPE html><html>")
    refused("web page", read_aircraft, tmp_path, "train")


def test_a_truncated_photograph_is_refused_when_it_is_read(copy):
    path = first_image(copy)
    path.write_bytes(path.read_bytes()[:900])
    data = Photographs(read_aircraft(copy, "train"))
    refused(f"{path.name} cannot be decoded", lambda: data[0])


def test_a_complete_set_has_the_published_counts(made, monkeypatch):
    monkeypatch.setitem(aircraft.LEVELS, "variant", ("variants.txt", 5))
    refused("has 6,667 train images, here are 20", read_aircraft, made, "train")
    monkeypatch.setattr(aircraft, "AIRCRAFT", replace(AIRCRAFT, counts={"train": 20, "test": 10}))
    assert len(read_aircraft(made, "train").paths) == 20


def test_images_are_those_that_were_drawn(made):
    data = Photographs(read_aircraft(made, "test"))
    drawn = {k: [torch.from_numpy(np.array(draw_aircraft(k, 48, random.Random(f"aircraft 0 {k} {j}"))[0]))
                 for j in (4, 5)] for k in range(5)}
    for i in range(len(data)):
        image, label = data[i]
        pixels = image.permute(1, 2, 0).float()
        assert min((pixels - one.float()).abs().mean() for one in drawn[label]) < 8
    with Image.open(data.path(0)) as file:
        assert file.format == "JPEG"
