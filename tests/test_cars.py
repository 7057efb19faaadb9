"""The reader of Stanford Cars on small copies of both packagings, whole, mixed and broken."""

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
from scipy.io import loadmat, savemat

from conftest import refused
from cra_smra.data import cars
from cra_smra.data.cars import CARS, LABELS, read_annotations, read_cars
from cra_smra.data.made_vehicles import draw_car, fill_cars, struct
from cra_smra.data.make import MOST_CLASSES, make
from cra_smra.data.photographs import Photographs

SMALL = {"num_classes": 4, "train_per_class": 3, "test_per_class": 2, "size": 48}
FIELDS = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small copy of the new packaging; tests only read it."""
    return make("cars", tmp_path_factory.mktemp("cars"), **SMALL)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The same cars in the old packaging; tests only read it."""
    folder = tmp_path_factory.mktemp("old")
    fill_cars(folder, seed=0, packaging="old", **SMALL)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / CARS.folder))


def as_set(listing) -> set[tuple]:
    """What a listing says of its images, whatever their names."""
    data = Photographs(listing)
    return {(data[i][0].numpy().tobytes(), data[i][1], tuple(listing.boxes[i].tolist())) for i in range(len(data))}


def test_both_packagings_show_the_same_cars(made, old):
    for split, per_class in (("train", 3), ("test", 2)):
        new_set, old_set = read_cars(made, split), read_cars(old, split)
        assert new_set.classes == old_set.classes and new_set.paths != old_set.paths
        assert new_set.targets.bincount().tolist() == [per_class] * 4
        assert as_set(new_set) == as_set(old_set) and len(as_set(new_set)) == 4 * per_class
    assert read_cars(made, "val") is None
    assert not as_set(read_cars(made, "train")) & as_set(read_cars(made, "test"))


def test_labels_and_boxes_are_those_of_the_mat_files(made):
    listing = read_cars(made, "test")
    assert listing.classes[0] == "Ram C/V Cargo Van Minivan 2012" and list(listing.classes) != sorted(listing.classes)
    rows = {row["fname"].item(): row for row in loadmat(made / LABELS)["annotations"].flat}
    assert list(listing.paths) == sorted(rows)
    for path, target, box in zip(listing.paths, listing.targets.tolist(), listing.boxes.tolist(), strict=True):
        x1, y1, x2, y2, label = (int(rows[path][field].item()) for field in FIELDS[:5])
        assert target == label - 1 and box == [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def test_grey_photographs_have_three_channels(made):
    data = Photographs(read_cars(made, "train"))
    grey = [i for i in range(len(data)) if torch.equal(data[i][0][0], data[i][0][2])]
    assert len(grey) == 2 and all(data[i][0].shape == (3, 48, 48) for i in range(len(data)))


def test_every_root_and_every_place_of_the_test_labels(made, tmp_path):
    expected = read_cars(made, "test").paths
    doubled = tmp_path / CARS.folder
    shutil.copytree(made, doubled / CARS.folder)
    for root in (made, made.parent, doubled, tmp_path):
        assert read_cars(root, "test").paths == expected
    inner = doubled / CARS.folder
    for place in ("devkit", CARS.folder):
        (inner / place).mkdir(exist_ok=True)
        shutil.move(next(inner.rglob(LABELS)), inner / place / LABELS)
        assert read_cars(inner, "test").paths == expected


def test_a_folder_doubled_by_a_copy(copy):
    expected = as_set(read_cars(copy, "train"))
    (copy / "cars_train").rename(copy / "x")
    (copy / "cars_train").mkdir()
    (copy / "x").rename(copy / "cars_train" / "cars_train")
    assert as_set(read_cars(copy, "train")) == expected


def test_archives_are_unpacked(made, tmp_path):
    expected = as_set(read_cars(made, "train"))
    for folder, name in (("cars_train", "cars_train"), ("cars_test", "cars_test"), ("devkit", "car_devkit")):
        shutil.make_archive(str(tmp_path / name), "gztar", made, folder)
        (tmp_path / f"{name}.tar.gz").rename(tmp_path / f"{name}.tgz")
    shutil.copy(made / LABELS, tmp_path)
    assert as_set(read_cars(tmp_path, "train")) == expected


def test_the_archive_of_the_old_packaging_is_unpacked(old, tmp_path):
    expected = as_set(read_cars(old, "train"))
    shutil.make_archive(str(tmp_path / "car_ims"), "gztar", old, "car_ims")
    (tmp_path / "car_ims.tar.gz").rename(tmp_path / "car_ims.tgz")
    shutil.copy(old / "cars_annos.mat", tmp_path)
    assert as_set(read_cars(tmp_path, "train")) == expected


def test_an_archive_never_overwrites_a_folder(copy):
    shutil.make_archive(str(copy / "car_devkit"), "gztar", copy, "devkit")
    (copy / "car_devkit.tar.gz").rename(copy / "car_devkit.tgz")
    (copy / "devkit" / "cars_meta.mat").unlink()
    refused("devkit/cars_meta.mat is not there", read_cars, copy, "train")
    assert not (copy / "devkit" / "cars_meta.mat").exists()


def test_annotation_files_beside_the_folder_are_found(copy, old, tmp_path):
    expected = read_cars(copy, "test").paths
    shutil.move(copy / LABELS, tmp_path / LABELS)
    assert read_cars(tmp_path, "test").paths == expected
    root = tmp_path / "old"
    shutil.copytree(old / "car_ims", root / CARS.folder / "car_ims")
    shutil.copy(old / "cars_annos.mat", root)
    assert read_cars(root, "test").paths == read_cars(old, "test").paths


def test_the_flag_of_the_old_packaging_is_0_or_1(old, tmp_path):
    copy = Path(shutil.copytree(old, tmp_path / "old"))
    found = loadmat(copy / "cars_annos.mat")
    fields = list(found["annotations"].dtype.names)
    rows = [[row[field].item() for field in fields] for row in found["annotations"].flat]
    rows[0][fields.index("test")] = 2.0
    savemat(copy / "cars_annos.mat", {"annotations": struct([tuple(row) for row in rows], fields),
                                      "class_names": found["class_names"]})
    refused("the field 'test' of 000001.jpg is 2: 0 and 1", read_cars, copy, "train")


def test_the_order_of_the_annotations_changes_nothing(made, copy):
    rewrite(copy / "devkit" / "cars_train_annos.mat", lambda rows: rows[::-1])
    one, other = read_cars(made, "train"), read_cars(copy, "train")
    assert one.paths == other.paths and torch.equal(one.targets, other.targets) and torch.equal(one.boxes, other.boxes)


def test_no_two_made_classes_look_alike():
    pictures = {draw_car(kind, 48, random.Random("one pose"))[0].tobytes() for kind in range(MOST_CLASSES)}
    assert len(pictures) == MOST_CLASSES


def test_packagings_are_never_mixed(made, old, tmp_path):
    shutil.copytree(old / "car_ims", tmp_path / "car_ims")
    shutil.copytree(made / "devkit", tmp_path / "devkit")
    shutil.copy(made / LABELS, tmp_path)
    text = refused("files of one do not serve the other", read_cars, tmp_path, "train")
    assert "cars_train" in text and "cars_annos.mat" in text
    shutil.copy(old / "cars_annos.mat", tmp_path)  # now the old one is complete
    assert read_cars(tmp_path, "train").folder == tmp_path / "car_ims"
    for name in ("cars_train", "cars_test"):
        shutil.copytree(made / name, tmp_path / name)
    assert read_cars(tmp_path, "train").folder == tmp_path / "cars_train"


def test_without_the_labels_of_the_test_images_the_file_is_named(copy):
    (copy / LABELS).unlink()
    refused(f"{LABELS} is not there.*has no classes", read_cars, copy, "test")
    shutil.copy(copy / "devkit" / "cars_test_annos.mat", copy / LABELS)  # renamed, as people do
    refused("has no field 'class': cars_test_annos.mat has no classes", read_cars, copy, "test")


def rewrite(path: Path, function) -> None:
    """Change the rows of an annotation file."""
    table = loadmat(path)["annotations"]
    rows = [[row[field].item() for field in FIELDS] for row in table.flat]
    savemat(path, {"annotations": struct([tuple(row) for row in function(rows)], FIELDS)})


def changed(column: str, value):
    def function(rows):
        rows[0][FIELDS.index(column)] = value
        return rows

    return lambda folder: rewrite(folder / "devkit" / "cars_train_annos.mat", function)


def class_twice(folder: Path) -> None:
    names = loadmat(folder / "devkit/cars_meta.mat")["class_names"]
    names[0, 1] = names[0, 0]
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})


BROKEN = {
    "a class twice": (class_twice, "'Ram C/V Cargo Van Minivan 2012' stands there twice"),
    "a label too large": (changed("class", 5.0), "has class 5, but the classes are 1 to 4"),
    "label 0": (changed("class", 0.0), "has class 0, but"),
    "a label that is no number": (changed("class", 1.5), "is not one whole number"),
    "a box from 0": (changed("bbox_x1", 0.0), "is no box"),
    "a name outside": (changed("fname", "../00001.jpg"), "is not the name of an image"),
    "an image that is not there": (changed("fname", "09999.jpg"), "is listed and not there"),
    "an image twice": (lambda f: rewrite(f / "devkit/cars_train_annos.mat", lambda rows: [*rows, rows[0]]), "twice"),
    "a class without images": (lambda f: rewrite(
        f / "devkit/cars_train_annos.mat", lambda rows: [row for row in rows if row[4] != 2]), "has no train image"),
    "a file that is no mat": (lambda f: (f / "devkit/cars_meta.mat").write_text("<html>"), "is not a MATLAB file"),
    "another mat": (lambda f: savemat(f / "devkit/cars_meta.mat", {"x": 1}), "has no variable 'class_names'"),
    "no devkit": (lambda f: shutil.rmtree(f / "devkit"), "devkit/cars_meta.mat.*is not there"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_in_one_line(copy, name):
    break_it, message = BROKEN[name]
    break_it(copy)
    refused(message, lambda: Photographs(read_cars(copy, "train")))


def test_wrong_roots(tmp_path):
    refused("needs a root", read_cars, None, "train")
    refused("there is no folder", read_cars, tmp_path / "no", "train")
    refused("the folder is empty", read_cars, tmp_path, "train")
    (tmp_path / "car_data").mkdir()
    refused("split already", read_cars, tmp_path, "train")


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 40), st.integers(0, 40),
                          st.integers(1, 196)), min_size=1, max_size=8), st.randoms())
@settings(max_examples=30, deadline=None)
def test_annotations_in_any_order(rows, random):
    table = [(float(x), float(y), float(x + w), float(y + h), float(k), f"{i:05d}.jpg")
             for i, (x, y, w, h, k) in enumerate(rows)]
    random.shuffle(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annos.mat"
        savemat(path, {"annotations": struct(table, FIELDS)})
        found = read_annotations(path, "fname")
    boxes = {f"{i:05d}.jpg": (k, (x - 1, y - 1, w + 1, h + 1)) for i, (x, y, w, h, k) in enumerate(rows)}
    assert {name: (car.label, car.box) for name, car in found.items()} == boxes


def test_a_complete_set_has_the_published_counts(made, monkeypatch):
    monkeypatch.setattr(cars, "CARS", replace(CARS, classes=4))
    refused("has 8,144 train images, here are 12", read_cars, made, "train")


def test_images_of_whole_arrays_are_uint8(made):
    image, label = Photographs(read_cars(made, "train"))[0]
    assert image.dtype == torch.uint8 and isinstance(label, int) and np.isfinite(image.numpy()).all()
