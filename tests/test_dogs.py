"""The reader of Stanford Dogs on small copies of its layout, whole and broken."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from conftest import refused, without_rights
from cra_smra.data import dogs, load_dataset
from cra_smra.data.birds import Birds
from cra_smra.data.dogs import DOGS, read_box, read_dogs
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small copy; tests only read it."""
    root = tmp_path_factory.mktemp("dogs")
    return make("dogs", root, num_classes=3, train_per_class=3, test_per_class=2, size=32)


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / DOGS.folder))


def write_list(path: Path, rows: list[tuple[str, float]], **changes) -> None:
    files = np.empty((len(rows), 1), object)
    files[:, 0] = [name for name, _ in rows]
    labels = np.array([[label] for _, label in rows], float)
    savemat(path, {"file_list": files, "annotation_list": files, "labels": labels} | changes)


def box(*corners) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, corners, strict=True))
    return f"<object><name>dog</name><bndbox>{inside}</bndbox></object>"


def test_what_was_drawn_comes_back(made):
    for split, per_class in (("train", 3), ("test", 2)):
        birds, listing = Birds(split, num_classes=3, per_class=per_class, size=32), read_dogs(made, split)
        assert listing.classes == tuple(birds.classes) and all("-" in name for name in listing.classes)
        assert torch.equal(listing.targets, birds.targets) and torch.equal(listing.boxes, birds.boxes)
        assert listing.boxes.dtype == torch.float32 and listing.folder == made / "Images" and not listing.upright
        data = Photographs(listing)
        for k in range(len(data)):
            image, label = data[k]
            assert label == birds.targets[k] and (image.float() - birds.images[k]).abs().mean() < 6
        with Image.open(data.path(0)) as odd:
            assert (odd.format, odd.mode, data.path(0).suffix) == ("PNG", "RGBA", ".jpg")
        assert torch.equal(data[0][0], birds.images[0])
    assert read_dogs(made, "val") is None


def test_train_and_test_share_no_image_and_the_protocols_split_the_training_images(made):
    train, test = (read_dogs(made, split) for split in ("train", "test"))
    assert len(train.paths) == 9 and len(test.paths) == 6 and not set(train.paths) & set(test.paths)
    assert [len(load_dataset("dogs", made, split)) for split in ("train", "val", "test")] == [6, 3, 6]
    assert load_dataset("dogs", made, "val").boxes.shape == (3, 4)


def test_every_usual_root_and_the_three_archives_lead_to_the_same_images(made, tmp_path, monkeypatch):
    expected = read_dogs(made, "test")
    for archive, members in (
        ("images.tar", ["Images"]),
        ("annotation.tar", ["Annotation"]),
        ("lists.tar", ["file_list.mat", "train_list.mat", "test_list.mat"]),
    ):
        with tarfile.open(tmp_path / archive, "w") as file:
            for name in members:
                file.add(made / name, name)
    text = f"has {(tmp_path / 'images.tar').stat().st_size:,} instead of 793,579,520 bytes"
    refused(text, read_dogs, tmp_path, "test")
    any_size = tuple(replace(archive, size=None) for archive in DOGS.archives)
    monkeypatch.setattr(dogs, "DOGS", replace(DOGS, archives=any_size))
    (tmp_path / "lists.tar").rename(tmp_path / "lists")
    refused("lists.tar is not there", read_dogs, tmp_path, "test")
    (tmp_path / "lists").rename(tmp_path / "lists.tar")
    for root in (made.parent, str(made), tmp_path, tmp_path / "StanfordDogs"):
        found = read_dogs(root, "test")
        assert found.paths == expected.paths and torch.equal(found.boxes, expected.boxes)


# by hand

HAND = {"train": [("n02-Shih-Tzu/n02_1.jpg", 2), ("n01-dhole/n01_5.jpg", 1), ("n02-Shih-Tzu/n02_3.jpg", 2)],
        "test": [("n02-Shih-Tzu/n02_2.jpg", 2), ("n01-dhole/n01_4.jpg", 1)]}
BOXES = {"n02_1": (1, 2, 31, 42), "n02_3": (0, 0, 1, 1), "n01_5": (3, 4, 5, 7), "n02_2": (2, 2, 3, 4),
         "n01_4": (0, 5, 9, 9)}


def by_hand(folder: Path, order=list) -> Path:
    for part, rows in HAND.items():
        write_list(folder / f"{part}_list.mat", order(rows))
        for name, _ in rows:
            for top in ("Images", "Annotation"):
                (folder / top / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(folder / "Images" / name)
            stem = Path(name).stem
            text = f"<annotation><filename>%s</filename>{box(*BOXES[stem])}</annotation>"
            (folder / "Annotation" / name).with_suffix("").write_text(text)
    return folder


@given(st.randoms())
@settings(max_examples=10, deadline=None)
def test_lists_in_any_order_give_what_is_worked_out_by_hand(random):
    with tempfile.TemporaryDirectory() as name:
        folder = by_hand(Path(name), lambda rows: random.sample(rows, len(rows)))
        train, test = (read_dogs(folder, split) for split in ("train", "test"))
        assert train.paths == ("n01-dhole/n01_5.jpg", "n02-Shih-Tzu/n02_1.jpg", "n02-Shih-Tzu/n02_3.jpg")
        assert train.classes == test.classes == ("dhole", "Shih-Tzu")
        assert train.targets.tolist() == [0, 1, 1] and test.targets.tolist() == [0, 1]
        assert train.boxes.tolist() == [[3, 4, 2, 3], [1, 2, 30, 40], [0, 0, 1, 1]]
        assert test.boxes.tolist() == [[0, 5, 9, 4], [2, 2, 1, 2]]
        shutil.rmtree(folder / "Annotation")
        assert read_dogs(folder, "train").boxes is None


def test_labels_of_a_part_of_the_set_may_have_gaps_but_follow_the_folders(tmp_path):
    by_hand(tmp_path)
    for part, rows in HAND.items():
        write_list(tmp_path / f"{part}_list.mat", [(name, 10 * label) for name, label in rows])
    assert read_dogs(tmp_path, "train").targets.tolist() == [0, 1, 1]
    for part, rows in HAND.items():
        write_list(tmp_path / f"{part}_list.mat", [(name, 3 - label) for name, label in rows])
    refused("n01-dhole has label 2 and n02-Shih-Tzu has 1: labels are to follow", read_dogs, tmp_path, "train")


@pytest.mark.parametrize(("rows", "message"), [
    ([("n01-dhole/a.jpg", 1), ("n01-dhole/b.jpg", 2)], "the lists say 1 and 2 of images in n01-dhole"),
    ([("n01-dhole/a.jpg", 0)], "'n01-dhole/a.jpg' has label 0, but labels are whole and count from 1"),
    ([("n01-dhole/a.jpg", 1.5)], "has label 1.5"),
    ([("n01-dhole/a.jpg", float("nan"))], "has label nan"),
    ([("n01-dhole/a.jpg", 1), ("n01-dhole/a.jpg", 1)], "stands there twice"),
    ([("a.jpg", 1)], "is not of the form 'nXXXXXXXX-Breed/image.jpg'"),
    ([("dhole/a.jpg", 1)], "is not of the form"),
    ([("../n01-dhole/a.jpg", 1)], "is not of the form"),
    ([("n02-Shih-Tzu/n02_2.jpg", 2)], "n02_2.jpg stands in both of train_list.mat and test_list.mat"),
    ([("n01-dhole/n01_5.jpg", 1)], "class 'Shih-Tzu' has no train image"),
    ([("n01-dhole/x.jpg", 1), ("n02-Shih-Tzu/n02_1.jpg", 2)], "Annotation/n01-dhole/x is missing"),
    ([], "has 0 files and 0 labels"),
])
def test_a_list_that_contradicts_itself_or_the_folders_is_refused(tmp_path, rows, message):
    write_list(by_hand(tmp_path) / "train_list.mat", rows)
    refused(message, read_dogs, tmp_path, "train")


def test_lists_of_another_form_are_refused(copy):
    path = copy / "train_list.mat"
    whole = path.read_bytes()
    write_list(path, [("n01-a/a.jpg", 1)], labels=np.ones((2, 1)))
    refused("has 1 files and 2 labels", read_dogs, copy, "train")
    write_list(path, [("n01-a/a.jpg", 1)], labels=np.array([["one"]], object))
    refused("is not the official list: file_list or labels has another form", read_dogs, copy, "train")
    savemat(path, {"file_list": np.array([[np.array(["a", "b"], object)]], object), "labels": np.ones((1, 1))})
    refused("train_list.mat", read_dogs, copy, "train")
    savemat(path, {"labels": np.ones((1, 1))})
    refused("has no variable 'file_list'", read_dogs, copy, "train")
    path.write_bytes(whole[:-20])
    refused("is not a MATLAB file", read_dogs, copy, "test")  # the order of the labels needs both lists
    path.unlink()
    refused("no train_list.mat in it", read_dogs, copy, "train")


# annotations


@given(st.lists(st.tuples(*[st.integers(0, 500)] * 4), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_several_objects_have_the_smallest_box_that_encloses_all(found):
    corners = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in found]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n01_1"
        path.write_text(f"<?xml version='1.0'?><annotation>{''.join(box(*each) for each in corners)}</annotation>")
        left, top, width, height = read_box(path)
    inside = [(x, y) for a, b, c, d in corners for x, y in ((a, b), (c, d))]
    assert all(left <= x <= left + width and top <= y <= top + height for x, y in inside)
    for side in ((left, 0), (left + width, 0), (top, 1), (top + height, 1)):
        assert side[0] in {point[side[1]] for point in inside}  # none can be moved inwards


BOMB = "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;&b;'>]><annotation>&c;</annotation>"
OUTSIDE = "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><annotation>&b;</annotation>"


@pytest.mark.parametrize(("text", "message"), [
    (BOMB, "is refused: it declares a document type"),
    (OUTSIDE, "is refused: it declares a document type"),
    (BOMB.encode("utf-16"), "is no annotation that can be read"),
    ("", "is no annotation that can be read"),
    ("<annotation>\n<object>", "is no annotation that can be read"),
    ("<annotation></annotation>", "has no object with a box"),
    (f"<annotation>{box(5, 0, 4, 9)}</annotation>", "is no box: xmin ymin xmax ymax"),
    (f"<annotation>{box(0, 9, 4, 8)}</annotation>", "is no box"),
    (f"<annotation>{box(0, 'nan', 4, 8)}</annotation>", "is no box"),
    (f"<annotation>{box(0, 'x', 4, 8)}</annotation>", "n01_1 is no annotation that can be read"),
    ("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "is no annotation that can be read"),
    (b"\xff\xd8\xff\xe0", "is no annotation that can be read"),
])
def test_an_annotation_that_is_broken_or_hostile_is_refused(tmp_path, text, message):
    (tmp_path / "n01_1").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(message, read_box, tmp_path / "n01_1")


def test_an_annotation_that_is_missing_or_may_not_be_read_is_named(copy, open_folder):
    name = read_dogs(copy, "train").paths[5].removesuffix(".jpg")
    (copy / "Annotation" / name).unlink()
    refused(f"Annotation/{name} is missing: unpack annotation.tar again", read_dogs, copy, "train")
    (copy / "Annotation" / name).mkdir()
    refused(f"{name} cannot be read .Is a directory", read_dogs, copy, "train")
    (open_folder / "a").write_text("<annotation/>")
    with without_rights(open_folder / "a"):
        refused("may not be read: its permissions", read_box, open_folder / "a")


def test_images_that_are_missing_or_broken_are_named(copy):
    name = read_dogs(copy, "test").paths[3]
    path = copy / "Images" / name
    path.write_bytes(path.read_bytes()[:100])
    refused(f"{name} cannot be decoded", load_dataset("dogs", copy, "test").__getitem__, 3)
    path.unlink()
    refused(f"{name} is listed and not there", load_dataset, "dogs", copy, split="test")


def test_roots_that_hold_something_else(tmp_path, made):
    refused("split must be", read_dogs, made, "dev")
    refused("the folder is empty", read_dogs, tmp_path, "train")
    (tmp_path / "images" / "Images").mkdir(parents=True)
    refused("this is a copy without the official lists; lists.tar has them", read_dogs, tmp_path, "val")
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "train").mkdir()
    refused("class folders that somebody has split already", read_dogs, tmp_path, "train")
    shutil.copytree(made / "Images", tmp_path / "StanfordDogs" / "Images")
    (tmp_path / "train").rmdir()
    refused("no train_list.mat in StanfordDogs", read_dogs, tmp_path, "train")


def test_the_complete_set_must_have_its_published_number_of_images(tmp_path):
    (tmp_path / "Images").mkdir()
    for part in ("train", "test"):
        write_list(tmp_path / f"{part}_list.mat", [(f"n{k:03d}-A{k}/{part}.jpg", k) for k in range(1, 121)])
    refused("has 12,000 train images, here are 120", read_dogs, tmp_path, "train")
    refused("has 8,580 test images, here are 120", read_dogs, tmp_path, "test")
