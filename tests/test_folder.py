"""The reader of class folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import luma, refused, without_rights
from cra_smra.data import load_dataset
from cra_smra.data.birds import Birds
from cra_smra.data.folder import read_folder
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs


def touch(root: Path, *names: str) -> Path:
    """Files by their names alone; only tests that decode images need true ones."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def both(root: Path, *classes: str) -> Path:
    return touch(root, *(f"{split}/{name}/{k}.jpg" for split in ("train", "test") for name in classes for k in (1, 2)))


def test_what_was_drawn_comes_back(tmp_path):
    root = make("folder", tmp_path, num_classes=3, train_per_class=3, test_per_class=2, size=32)
    for split, per_class in (("train", 3), ("test", 2)):
        birds, listing = Birds(split, num_classes=3, per_class=per_class, size=32), read_folder(root, split)
        data = Photographs(listing)
        assert listing.classes == tuple(sorted(birds.classes)) and len(data) == 3 * per_class and data.boxes is None
        assert listing.upright and read_folder(tmp_path, split).paths == listing.paths  # the folder above is taken too
        for k, path in enumerate(listing.paths):
            name, file = path.split("/")
            drawn = birds.images[birds.class_to_idx[name] * per_class + int(file[4:8])].float()
            image, label = data[k]
            grey = (name, file[4:8]) == (birds.classes[0], "0000")
            assert label == listing.classes.index(name)
            assert (image - (luma(drawn) if grey else drawn)).abs().mean() < 6, path  # also the one on its side
        assert sum(path.endswith(".PNG") for path in listing.paths) == 2
    assert read_folder(root, "val") is None
    assert [len(load_dataset("folder", root, split)) for split in ("train", "val", "test")] == [6, 3, 6]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_used_as_such(tmp_path, name):
    touch(both(tmp_path, "auk", "tern"), f"{name}/tern/9.jpg")
    found = read_folder(tmp_path, "val")
    assert found.paths == ("tern/9.jpg",) and found.targets.tolist() == [1] and found.classes == ("auk", "tern")
    assert len(load_dataset("folder", tmp_path, "val")) == 1
    assert [len(load_dataset("folder", tmp_path, "train", protocol)) for protocol in ("clean", "paper")] == [4, 4]


def test_what_counts_as_an_image_and_what_is_left_alone(tmp_path):
    images = ["a.jpg", "b.JPEG", "c.Png", "d.webp", "e.bmp", "f.tif", "g.TIFF", "h.gif", "i j.jpg", "k.tar.jpg"]
    others = ["Thumbs.db", ".DS_Store", "._a.jpg", ".hidden.jpg", "README.txt", "notes", "a.jpg.txt", "desktop.ini"]
    touch(both(tmp_path, "tern"), *(f"{split}/auk/{name}" for split in ("train", "test") for name in images + others))
    touch(tmp_path, "README.md", "train/README.txt", "train/.cache/x.jpg", "train/__MACOSX/auk/a.jpg", ".git/config")
    found = read_folder(tmp_path, "train")
    assert found.paths == (*(f"auk/{name}" for name in sorted(images)), "tern/1.jpg", "tern/2.jpg")
    assert found.targets.tolist() == [0] * 10 + [1] * 2


NAMES = st.text("abcXYZ09 _.-äß", min_size=1, max_size=8).filter(lambda name: name[0] not in ". " and name[-1] != " ")


@given(st.dictionaries(NAMES.map(str.casefold), st.integers(2, 23), min_size=2, max_size=5), st.randoms())
@settings(max_examples=25, deadline=None)
def test_without_a_test_folder_a_fifth_of_each_class_is_drawn_the_same_everywhere(counts, random):
    if set(counts) & {"train", "test", "val", "valid", "validation"}:
        return
    found = []
    for _ in range(2):  # written in another order into another folder
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{name}/{k}.jpg" for name, count in counts.items() for k in range(count)]
            random.shuffle(names)
            touch(Path(folder), *names)
            train, test = (read_folder(folder, split) for split in ("train", "test"))
            assert sorted(train.paths + test.paths) == sorted(names) and read_folder(folder, "val") is None
            assert train.classes == test.classes == tuple(sorted(counts))
            for label, name in enumerate(sorted(counts)):
                assert (test.targets == label).sum() == max(1, round(counts[name] / 5))
                assert all(path.split("/")[0] == name for path, k in zip(test.paths, test.targets, strict=True)
                           if k == label)
            found.append((train.paths, test.paths))
    assert found[0] == found[1]


def test_the_test_images_are_these_on_every_machine_and_seldom_move(tmp_path):
    touch(tmp_path, *(f"{name}/{k:02d}.jpg" for name in ("auk", "tern") for k in range(20)))
    first = read_folder(tmp_path, "test").paths
    # the least of what `printf auk/04.jpg | sha256sum` says, and so on
    assert first == ("auk/04.jpg", "auk/08.jpg", "auk/14.jpg", "auk/17.jpg",
                     "tern/02.jpg", "tern/11.jpg", "tern/12.jpg", "tern/17.jpg")
    touch(tmp_path, "auk/new.jpg", "petrel/1.jpg", "petrel/2.jpg")
    assert len(set(first) & set(read_folder(tmp_path, "test").paths)) >= len(first) - 1


@pytest.mark.parametrize(("extra", "message"), [
    (("test/gull/1.jpg",), "test/gull is a class that .*train has not: both must have the same"),
    (("train/gull/1.jpg",), "train/gull is a class that .*test has not"),
    (("val/gull/1.jpg",), "val/gull is a class that .*train has not"),
    (("train/AUK/1.jpg",), "train/AUK is a class that .*test has not.*in the same upper and lower case"),
    (("train/1.jpg",), "train/1.jpg lies in no class folder"),
    (("train/auk/more/1.jpg",), "train/auk/more is a folder inside a class"),
    (("train/auk/1.HEIC",), "train/auk/1.HEIC cannot be read: convert it"),
    (("val/auk/1.jpg", "valid/auk/1.jpg"), "has both of val and valid"),
    (("train/gull/README.txt",), "train/gull has no image .*put some there, or remove it"),
])
def test_folders_that_contradict_each_other_are_refused(tmp_path, extra, message):
    touch(both(tmp_path, "auk", "tern"), *extra)
    refused(message, read_folder, tmp_path, extra[0].split("/")[0])


@pytest.mark.parametrize(("names", "message"), [
    ((), "the folder is empty|has 0 class folders"),
    (("auk/1.jpg", "auk/2.jpg"), "has 1 class folders: at least 2 are needed"),
    (("train/auk/1.jpg", "train/tern/1.jpg"), "has train but no test"),
    (("train/auk/1.jpg", "train/tern/1.jpg", "val/auk/1.jpg"), "has train but no test"),
    (("test/auk/1.jpg", "test/tern/1.jpg"), "has test but no train"),
    (("val/auk/1.jpg", "other/tern/1.jpg"), "has val but no train"),
    (("auk/1.jpg", "auk/2.jpg", "tern/1.jpg"), "tern has one image: at least 2 are needed"),
    (("auk/1.jpg", "auk/2.jpg", "tern/1.txt"), "tern has no image"),
    (("1.jpg", "2.jpg"), "lies in no class folder: Put the images of a class into"),
    (("readme.txt",), "has 0 class folders"),
    (("train/readme.txt", "test/readme.txt"), "train has 0 class folders|test has 0 class folders"),
])
def test_a_root_without_class_folders_or_a_split_is_refused(tmp_path, names, message):
    refused(message, read_folder, touch(tmp_path, *names), "train")


def test_roots_that_are_none(tmp_path, open_folder):
    refused("needs a root", read_folder, None, "train")
    refused("there is no folder", read_folder, tmp_path / "nowhere", "train")
    refused("split must be", read_folder, tmp_path, "dev")
    refused("file.jpg is a file", read_folder, touch(tmp_path, "file.jpg") / "file.jpg", "train")
    both(open_folder, "auk", "tern")
    with without_rights(open_folder / "train" / "auk"):
        refused("train/auk may not be read: its permissions", read_folder, open_folder, "train")


def test_broken_images_are_named_and_a_broken_link_is_no_silent_gap(tmp_path):
    both(tmp_path, "auk", "tern")
    for path in (tmp_path / "train").glob("*/*.jpg"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
    (tmp_path / "train/auk/2.jpg").write_bytes(b"")
    (tmp_path / "train/tern/0.jpg").symlink_to(tmp_path / "gone.jpg")
    data = Photographs(read_folder(tmp_path, "train"))
    assert torch.equal(data[0][0], torch.zeros(3, 4, 6, dtype=torch.uint8))
    refused("auk/2.jpg is empty", data.__getitem__, 1)
    refused("tern/0.jpg is not there", data.__getitem__, 2)
    shutil.rmtree(tmp_path / "train/auk")
    refused("test/auk is a class that .*train has not", read_folder, tmp_path, "test")
    refused("test/auk is a class that .*train has not", read_folder, tmp_path, "train")
