"""The small archives drawn in the official layouts, looked at without the readers, and the door that makes them."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

from conftest import luma, refused
from cra_smra.data import READERS, load_dataset
from cra_smra.data.birds import PARTS, Birds
from cra_smra.data.made_birds import CUB_PARTS
from cra_smra.data.make import MADE, make

TINY = {"num_classes": 2, "train_per_class": 1, "test_per_class": 1, "size": 32}
EACH = pytest.mark.parametrize("name", MADE)


def pixels(path: Path) -> torch.Tensor:
    """(3, H, W) uint8"""
    with Image.open(path) as file:
        return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)


# CUB-200-2011


def test_cub_is_made_in_the_official_layout(tmp_path):
    folder = make("cub", tmp_path / "new", num_classes=3, train_per_class=4, test_per_class=2, size=64)
    assert folder == tmp_path / "new" / "CUB_200_2011" and [p.name for p in folder.parent.iterdir()] == [folder.name]

    def table(name):
        return [line.split(" ") for line in (folder / name).read_text().splitlines()]

    images, labels, classes = (dict(table(f"{name}.txt")) for name in ("images", "image_class_labels", "classes"))
    split, boxes = table("train_test_split.txt"), {row[0]: row[1:] for row in table("bounding_boxes.txt")}
    ids = [str(i) for i in range(1, 19)]
    assert list(images) == list(labels) == list(boxes) == [row[0] for row in split] == ids
    names = [line.split(" ", 1)[1] for line in (folder / "parts/parts.txt").read_text().splitlines()]
    assert tuple(names) == CUB_PARTS and len(names) == 15
    assert list(classes) == ["1", "2", "3"] and all(v.startswith(f"{int(k):03d}.") for k, v in classes.items())
    located = table("parts/part_locs.txt")
    assert [(r[0], r[1]) for r in located] == [(i, str(p)) for i in ids for p in range(1, 16)]

    sets = {flag: Birds(name, num_classes=3, per_class=n, size=64) for flag, name, n in
            (("1", "train", 4), ("0", "test", 2))}
    assert [c.split(".", 1)[1].replace("_", " ") for c in classes.values()] == sets["1"].classes
    used, grey = {"1": 0, "0": 0}, []
    for i, flag in split:
        ds, k = sets[flag], used[flag]
        used[flag] += 1
        place, file = images[i].split("/")
        assert place == classes[labels[i]] and int(labels[i]) - 1 == ds.targets[k]
        assert file.lower().startswith(place[4:].lower()) and not file.startswith(place[4:])  # in other letters
        with Image.open(folder / "images" / images[i]) as opened:
            assert opened.format == "JPEG" and opened.size == (64, 64)
            grey += [i] if opened.mode == "L" else []
            drawn = luma(ds.images[k]) if opened.mode == "L" else ds.images[k].float()
        assert (pixels(folder / "images" / images[i]) - drawn).abs().mean() < 6
        assert torch.allclose(torch.tensor([float(v) for v in boxes[i]]), ds.boxes[k])
        rows = {CUB_PARTS[int(r[1]) - 1]: [float(v) for v in r[2:]] for r in located if r[0] == i}
        sides = {name.split()[0] for name, row in rows.items() if row[2] and " " in name}
        assert len(sides) <= 1  # a bird seen from one side
        for part, row in rows.items():
            if " " not in part:
                assert row == pytest.approx(ds.part_locations[k, PARTS.index(part)].tolist(), abs=0.006)
        if rows["beak"][2] and rows["tail"][2] and sides:
            assert sides == {"right" if rows["beak"][0] > rows["tail"][0] else "left"}
        for part in ("eye", "leg", "wing"):
            shown = ds.part_locations[k, PARTS.index(part)].tolist()
            assert max(rows[f"left {part}"][2], rows[f"right {part}"][2]) == shown[2]
    assert used == {"1": 12, "0": 6} and grey == ["1", "5"]


# Stanford Dogs


def test_dogs_are_made_in_the_official_layout(tmp_path):
    folder = make("dogs", tmp_path, num_classes=3, train_per_class=4, test_per_class=2, size=64)
    assert folder == tmp_path / "StanfordDogs"
    assert sorted(os.listdir(folder)) == ["Annotation", "Images", "file_list.mat", "test_list.mat", "train_list.mat"]
    breeds = sorted(os.listdir(folder / "Images"))
    assert breeds == sorted(os.listdir(folder / "Annotation")) and all(breed.count("-") > 1 for breed in breeds)
    lists = {part: loadmat(folder / f"{part}_list.mat") for part in ("file", "train", "test")}
    files = {part: [cell.item() for cell in found["file_list"][:, 0]] for part, found in lists.items()}
    assert sorted(files["train"] + files["test"]) == files["file"] and len(set(files["file"])) == 18
    sets = {"train": Birds("train", num_classes=3, per_class=4, size=64),
            "test": Birds("test", num_classes=3, per_class=2, size=64)}
    objects = []
    for part, ds in sets.items():
        found = lists[part]
        assert found["file_list"].shape == found["annotation_list"].shape == found["labels"].shape == (len(ds), 1)
        assert [breeds.index(file.split("/")[0]) + 1 for file in files[part]] == found["labels"].ravel().tolist()
        for k, file in enumerate(files[part]):
            annotation = found["annotation_list"][k, 0].item()
            assert f"{annotation}.jpg" == file
            tree = ElementTree.parse(folder / "Annotation" / annotation)
            assert [tree.findtext(f"size/{side}") for side in ("width", "height")] == ["64", "64"]
            boxes = np.array([[int(box.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax")]
                              for box in tree.iterfind("object/bndbox")])
            objects.append(len(boxes))
            left, top, width, height = ds.boxes[k].tolist()
            assert boxes.min(0)[:2].tolist() == [left, top]
            assert boxes.max(0)[2:].tolist() == [left + width, top + height]
            if len(boxes) > 1:
                assert [left, top, left + width, top + height] not in boxes.tolist()  # only together
            assert (pixels(folder / "Images" / file) - ds.images[k].float()).abs().mean() < 6
        with Image.open(folder / "Images" / files[part][0]) as odd:
            assert (odd.format, odd.mode) == ("PNG", "RGBA")
    assert objects == [1] * 4 + [2] + [1] * 7 + [1, 1, 2, 1, 1, 1]


# class folders


def test_class_folders_are_made_with_the_odd_files_people_have(tmp_path):
    folder = make("folder", tmp_path, num_classes=3, train_per_class=3, test_per_class=2, size=64)
    for split, per_class in (("train", 3), ("test", 2)):
        ds = Birds(split, num_classes=3, per_class=per_class, size=64)
        assert sorted(os.listdir(folder / split)) == sorted(ds.classes)
        names = [sorted(os.listdir(folder / split / name)) for name in ds.classes]
        assert names[0][0] == ".DS_Store" and names[0][-2:] == ["README.txt", "Thumbs.db"]
        assert names[1] == names[2] == ["IMG 0000.jpg", "IMG 0001.PNG", "IMG 0002.jpg"][:per_class]
        with Image.open(folder / split / ds.classes[0] / "IMG 0000.jpg") as grey:
            assert grey.mode == "L"
        with Image.open(folder / split / ds.classes[1] / "IMG 0000.jpg") as turned:
            assert turned.getexif()[0x0112] == 6
            upright = torch.from_numpy(np.array(turned)).permute(2, 0, 1).rot90(-1, (1, 2))  # clockwise
        assert (upright - ds.images[per_class].float()).abs().mean() < 6
        assert torch.equal(pixels(folder / split / ds.classes[2] / "IMG 0001.PNG"), ds.images[2 * per_class + 1])


# the Grocery Store Dataset


def test_groceries_are_made_in_the_official_layout(tmp_path):
    folder = make("groceries", tmp_path, num_classes=5, train_per_class=8, test_per_class=2, size=64) / "dataset"
    assert sorted(os.listdir(folder)) == ["classes.csv", "test", "test.txt", "train", "train.txt", "val", "val.txt"]
    with open(folder / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    fine = [int(row["Class ID (int)"]) for row in rows]
    coarse = [int(row["Coarse Class ID (int)"]) for row in rows]
    assert fine == sorted(set(fine)) and fine != list(range(5)) and [coarse.count(k) for k in coarse] == [2, 2, 2, 2, 1]
    for split, per_class, classes in (("train", 8, 5), ("val", 2, 4), ("test", 2, 5)):
        ds = Birds(split, num_classes=5, per_class=per_class, size=64)
        lines = [line.split(", ") for line in (folder / f"{split}.txt").read_text().splitlines()]
        assert [int(line[1]) for line in lines] == [fine[k] for k in range(classes) for _ in range(per_class)]
        assert [int(line[2]) for line in lines] == [coarse[k] for k in range(classes) for _ in range(per_class)]
        for k, (path, *_) in enumerate(lines):
            drawn = ds.images[k].float()
            assert path.startswith(f"{split}/Fruit/") and rows[k // per_class]["Class Name (str)"] in path
            assert (pixels(folder / path) - (drawn if k else luma(drawn))).abs().mean() < 6


# the door


@EACH
def test_what_is_made_is_read_from_its_folder_and_from_the_one_above(name, tmp_path):
    folder = make(name, tmp_path, num_classes=3, train_per_class=3, test_per_class=2, size=48, seed=1)
    assert folder == tmp_path / MADE[name][0].folder and os.listdir(tmp_path) == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o755
    for root in (folder, tmp_path):
        train, test = (READERS[name](root, split) for split in ("train", "test"))
        assert len(train.classes) == 3 and train.classes == test.classes
        assert train.targets.bincount().tolist() == [3, 3, 3] and test.targets.bincount().tolist() == [2, 2, 2]
    for split in ("train", "val", "test"):
        data = load_dataset(name, tmp_path, split)
        assert all(data[k][0].shape[0] == 3 and data[k][0].dtype == torch.uint8 for k in range(len(data)))


@EACH
def test_the_same_values_make_the_same_files_and_another_seed_others(name, tmp_path):
    one, two, other = (make(name, tmp_path / str(k), **TINY, seed=k // 2) for k in range(3))

    def content(folder):  # MATLAB's files begin with the time
        return {path.relative_to(folder).as_posix(): path.read_bytes()[128 if path.suffix == ".mat" else 0 :]
                for path in sorted(folder.rglob("*")) if path.is_file()}

    assert content(one) == content(two)
    assert content(one) != content(other)


@EACH
def test_nothing_is_overwritten_and_nothing_left_half_done(name, tmp_path, monkeypatch):
    (tmp_path / MADE[name][0].folder).mkdir()
    refused("exists already: remove it", make, name, tmp_path, **TINY, error=FileExistsError)
    done, save = [], Image.Image.save

    def full(image, *arguments, **options):
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(save(image, *arguments, **options))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        make(name, tmp_path / "other", **TINY)
    assert len(done) == 2 and os.listdir(tmp_path / "other") == []


@pytest.mark.parametrize(("options", "message"), [
    ({"name": "birds"}, "name must be one of cub, aircraft, cars, dogs, folder, groceries, got 'birds'"),
    ({"num_classes": 1}, "num_classes must be from 2 to 60, got 1"),
    ({"num_classes": 61}, "num_classes must be from 2 to 60, got 61"),
    ({"train_per_class": 0}, "train_per_class must be at least 1, got 0"),
    ({"test_per_class": 0}, "test_per_class must be at least 1, got 0"),
    ({"size": 31}, "size must be at least 32 pixels, got 31"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
])
def test_values_out_of_range_are_refused_before_anything_is_written(tmp_path, options, message):
    refused(message, make, **({"name": "cub", "root": tmp_path / "root"} | options))
    assert os.listdir(tmp_path) == []


def test_the_most_classes_that_can_be_made_are_not_taken_for_the_complete_set(tmp_path):
    for name in ("dogs", "groceries"):
        make(name, tmp_path, num_classes=60, train_per_class=1, test_per_class=1, size=32)
    assert len(READERS["dogs"](tmp_path, "train").paths) == 60
    for level, classes in (("fine", 60), ("coarse", 30)):
        assert len(READERS["groceries"](tmp_path, "test", level=level).classes) == classes
