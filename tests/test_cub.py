"""The reader of CUB-200-2011 on small copies of its layout, whole and broken."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import luma, refused
from cra_smra.data import load_dataset
from cra_smra.data.birds import PARTS, Birds
from cra_smra.data.cub import CUB, read_cub
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs

SMALL = {"num_classes": 3, "train_per_class": 3, "test_per_class": 2, "size": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small copy; tests only read it."""
    return make("cub", tmp_path_factory.mktemp("cub"), **SMALL)


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / CUB.folder))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def change(path: Path, number: int, line: str | None) -> None:
    """Put another line in place of one, or take it out."""
    rows = lines(path)
    rows[number : number + 1] = [] if line is None else [line]
    path.write_text("\n".join(rows) + "\n")


def test_what_was_drawn_comes_back(made):
    for split, per_class in (("train", 3), ("test", 2)):
        birds, listing = Birds(split, num_classes=3, per_class=per_class, size=32), read_cub(made, split)
        assert listing.classes == tuple(birds.classes) and torch.equal(listing.targets, birds.targets)
        assert torch.equal(listing.boxes, birds.boxes)
        data = Photographs(listing)
        for k in range(len(data)):
            image, label = data[k]
            assert image.shape == (3, 32, 32) and label == birds.targets[k]
            drawn = birds.images[k].float()
            assert (image - (luma(drawn) if k == 0 else drawn)).abs().mean() < 6  # the first of both is grey
        assert len(listing.part_names) == 15 and listing.part_locations.shape == (len(data), 15, 3)
        beak = listing.part_names.index("beak")
        drawn = birds.part_locations[:, PARTS.index("beak")]
        assert torch.allclose(listing.part_locations[:, beak], drawn, atol=0.006)


def test_train_and_test_share_no_image_and_there_is_no_val(made):
    train, test = (read_cub(made, split) for split in ("train", "test"))
    assert len(train.paths) == 9 and len(test.paths) == 6 and not set(train.paths) & set(test.paths)
    assert read_cub(made, "val") is None
    assert train.folder == made / "images" and not train.upright and train.banner == 0


def test_every_usual_root_leads_to_the_same_images(made, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "other.tgz", "w:gz") as archive:
        archive.add(made, CUB.folder)
        archive.add(made / "classes.txt", "attributes.txt")  # lies beside the folder in the official archive
    doubled = tmp_path / "doubled"
    shutil.copytree(made, doubled / CUB.folder / CUB.folder)
    expected = read_cub(made, "test")
    for root in (made.parent, doubled, doubled / CUB.folder, str(made)):
        found = read_cub(root, "test")
        assert found.paths == expected.paths and torch.equal(found.boxes, expected.boxes)
    (packed / "other.tgz").rename(packed / "CUB_200_2011.tgz")  # not the official one, by its size
    refused("bytes: remove it and download it again", read_cub, packed, "test")


def test_the_protocols_split_the_training_images(made):
    train, val = (load_dataset("cub", made, split) for split in ("train", "val"))
    assert len(train) == 6 and len(val) == 3 and sorted(val.targets.tolist()) == [0, 1, 2]
    assert sorted(train.indices + val.indices) == list(range(9))
    assert len(load_dataset("cub", made, "train", "paper")) == 9
    assert torch.equal(val.boxes, val.base.boxes[val.indices]) and val.part_locations.shape == (3, 15, 3)


# by hand: four images of two classes, ids with gaps, not in order

HAND = {
    "images.txt": "7 020.Big_Auk/Big_auk_1.jpg\n2 003.Tern/a b.jpg\n9 020.Big_Auk/c.jpg\n4 003.Tern/d.jpg",
    "image_class_labels.txt": "2 3\n4 3\n7 20\n9 20",
    "classes.txt": "20 020.Big_Auk\n3 003.Tern",
    "train_test_split.txt": "9 0\n7 1\n4 0\n2 1",
    "bounding_boxes.txt": "2 1.0 2.0 3.0 4.0\n4 0 0 1 1\n7 60.5 27.0 325.0 304.0\n9 0 0 2 2",
    "parts/parts.txt": "1 back\n3 left eye",
    "parts/part_locs.txt": "\n".join(f"{i} {p} {i}.5 {p}.0 {int(p == 3)}" for i in (2, 4, 7, 9) for p in (1, 3)),
}


def by_hand(folder: Path, order=list, end: str = "\n") -> Path:
    for name, text in HAND.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((end.join(order(text.split("\n"))) + end).encode())
    for line in HAND["images.txt"].split("\n"):
        path = folder / "images" / line.split(" ", 1)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    return folder


def check_by_hand(folder: Path) -> None:
    train, test = (read_cub(folder, split) for split in ("train", "test"))
    assert train.paths == ("003.Tern/a b.jpg", "020.Big_Auk/Big_auk_1.jpg")
    assert test.paths == ("003.Tern/d.jpg", "020.Big_Auk/c.jpg")
    assert train.classes == test.classes == ("Tern", "Big Auk") and train.targets.tolist() == [0, 1]
    assert train.boxes.tolist() == [[1, 2, 3, 4], [60.5, 27, 325, 304]]
    assert train.part_names == ("back", "left eye")
    assert train.part_locations.tolist() == [[[2.5, 1, 0], [2.5, 3, 1]], [[7.5, 1, 0], [7.5, 3, 1]]]
    train.check_files()


@given(st.randoms(), st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
@settings(max_examples=20, deadline=None)
def test_lists_in_any_order_with_any_line_ends_give_what_is_worked_out_by_hand(random, end):
    with tempfile.TemporaryDirectory() as folder:
        check_by_hand(by_hand(Path(folder), lambda rows: random.sample(rows, len(rows)), end))


def test_roots_that_hold_something_else(tmp_path, copy):
    refused("there is no folder", read_cub, tmp_path / "nowhere", "train")
    refused("CUB-200-2011 needs a root", read_cub, None, "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("the folder is empty", read_cub, empty, "train")
    (empty / "lists").mkdir()
    (empty / "lists" / "train.txt").write_text("001.a/b.jpg")
    refused("this is the older set of 2010", read_cub, empty, "train")
    shutil.rmtree(empty / "lists")
    (empty / "train" / "001.Auk").mkdir(parents=True)
    refused("class folders that somebody has split already", read_cub, empty, "train")
    (copy / "images.txt").unlink()
    refused("no images.txt", read_cub, copy, "train")


@pytest.mark.parametrize(("file", "number", "line", "message"), [
    ("images.txt", 3, None, "image 4 stands in only one of images.txt and image_class_labels.txt"),
    ("image_class_labels.txt", 3, None, "image 4 stands in only one of"),
    ("train_test_split.txt", 3, None, "image 4 stands in only one of images.txt and train_test_split.txt"),
    ("bounding_boxes.txt", 3, None, "image 4 stands in only one of images.txt and bounding_boxes.txt"),
    ("images.txt", 3, "3 x.jpg", "line 4: id 3 stands there twice"),
    ("images.txt", 3, "four x.jpg", "line 4: 'four x.jpg' is not of the form 'id str'"),
    ("image_class_labels.txt", 0, "1 4", "image 1 has label 4, which classes.txt does not name"),
    ("image_class_labels.txt", 0, "1 0", "image 1 has label 0, which classes.txt does not name"),
    ("image_class_labels.txt", 0, "1 2", "image 1 lies in 001.* but is labelled 002"),
    ("train_test_split.txt", 0, "1 2", "says 2 of image 1: 0 and 1 are allowed"),
    ("bounding_boxes.txt", 0, "1 2 3 4", "line 1: '1 2 3 4' is not of the form 'id float float float float'"),
    ("bounding_boxes.txt", 0, "1 nan 3 4 5", "or one is no number"),
    ("parts/part_locs.txt", 1, None, "has no place of the beak of image 1"),
    ("parts/part_locs.txt", 1, "1 1 0 0 0", "has no place of the beak of image 1"),
    ("parts/part_locs.txt", 1, "1 99 0 0 0", "line 2: .* is not of the form 'id part x y visible'"),
    ("parts/part_locs.txt", 1, "1 2 0 0", "line 2: .* is not of the form 'id part x y visible'"),
    ("classes.txt", 0, None, "has label 1, which classes.txt does not name"),
])
def test_a_broken_list_is_named_with_its_line(copy, file, number, line, message):
    change(copy / file, number, line)
    refused(message, read_cub, copy, "train")


@pytest.mark.parametrize("file", ["bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"])
def test_a_missing_list_is_named(copy, file):
    (copy / file).unlink()
    refused(f"{file} is missing", read_cub, copy, "test")


def test_a_class_without_an_image_of_the_split_is_named(copy):
    rows = [f"{k} {int(k > 5)}" for k in range(1, 16)]  # every image of the first class is a test image
    (copy / "train_test_split.txt").write_text("\n".join(rows))
    refused("class .* has no train image", read_cub, copy, "train")
    (copy / "train_test_split.txt").write_text("\n".join(f"{k} 1" for k in range(1, 16)))
    refused("names no image", read_cub, copy, "test")


def test_images_that_are_missing_or_broken_are_named(copy):
    name = read_cub(copy, "train").paths[4]
    (copy / "images" / name).write_bytes(b"")
    data = load_dataset("cub", copy, "train", "paper")
    data[3]
    assert name in refused("is empty", data.__getitem__, 4)
    (copy / "images" / name).unlink()
    assert name in refused("is listed and not there", load_dataset, "cub", copy)


def test_the_complete_set_must_have_its_published_number_of_images(tmp_path):
    for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "parts/part_locs"):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        row = {"images": "{0} {0:03d}.A{0}/{0}.jpg", "image_class_labels": "{0} {0}", "train_test_split": "{0} 1",
               "bounding_boxes": "{0} 0 0 1 1", "parts/part_locs": "{0} 1 0 0 0"}[name]
        path.write_text("\n".join(row.format(k) for k in range(1, 201)))
    (tmp_path / "classes.txt").write_text("\n".join(f"{k} {k:03d}.A{k}" for k in range(1, 201)))
    (tmp_path / "parts/parts.txt").write_text("1 back")
    (tmp_path / "images").mkdir()
    refused("has 5,994 train images, here are 200", read_cub, tmp_path, "train")
