"""The reader of the Grocery Store Dataset on small copies of its layout, whole and broken."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import luma, refused, without_rights
from cra_smra.data import load_dataset
from cra_smra.data.birds import Birds
from cra_smra.data.groceries import GROCERIES, read_groceries
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs

HEADER = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small copy; tests only read it."""
    root = tmp_path_factory.mktemp("groceries")
    return make("groceries", root, num_classes=5, train_per_class=4, test_per_class=2, size=32)


def test_what_was_drawn_comes_back(made):
    for split, per_class, classes in (("train", 4, 5), ("val", 1, 4), ("test", 2, 5)):
        birds = Birds(split, num_classes=5, per_class=per_class, size=32)
        listing = read_groceries(made, split)
        assert listing.classes == tuple(name.replace(" ", "-") for name in birds.classes)
        assert listing.boxes is None and listing.upright
        data = Photographs(listing)
        assert len(data) == per_class * classes
        for k, path in enumerate(listing.paths):
            image, label = data[k]
            number = int(path[-7:-4]) - 1
            drawn = birds.images[label * per_class + number].float()
            assert f"/{listing.classes[label]}/" in path and path.startswith(f"{split}/")
            assert (image - (luma(drawn) if label == number == 0 else drawn)).abs().mean() < 6


def test_coarse_classes_are_unions_of_fine_ones(made):
    fine, coarse = (read_groceries(made, "train", level=level) for level in ("fine", "coarse"))
    assert fine.paths == coarse.paths and len(coarse.classes) == 3
    assert coarse.classes == ("Kind-1", "Kind-3", fine.classes[4])
    assert coarse.targets.tolist() == (fine.targets // 2).tolist()
    assert load_dataset("groceries", made, level="coarse").classes == list(coarse.classes)


def test_the_set_s_own_validation_list_is_used(made):
    train, val = (load_dataset("groceries", made, split) for split in ("train", "val"))
    assert len(train) == 20 and len(val) == 4 and val.targets.tolist() == [0, 1, 2, 3]
    assert len(load_dataset("groceries", made, "train", "paper")) == 20


def test_every_usual_root_leads_to_the_same_images(made, tmp_path):
    expected = read_groceries(made, "test").paths
    shutil.copytree(made, tmp_path / "a" / "GroceryStoreDataset")
    (tmp_path / "b").mkdir()
    with zipfile.ZipFile(tmp_path / "b" / "GroceryStoreDataset-master.zip", "w") as archive:
        for path in made.rglob("*"):
            archive.write(path, Path(GROCERIES.folder) / path.relative_to(made))
        archive.writestr(f"{GROCERIES.folder}/README.md", "groceries")
    for root in (made, made / "dataset", made.parent, tmp_path / "a", tmp_path / "b", str(tmp_path / "b")):
        assert read_groceries(root, "test").paths == expected
    assert (tmp_path / "b" / GROCERIES.folder / "README.md").exists()


# by hand

CSV = ["Zebra-Melon,40,Melon,9", "Alpro,7,Milk,2", "Galia,12,Melon,9"]
LISTS = {"train": ["train/M/z,1.jpg, 40, 9", "train/a b.jpg, 7, 2", "train/g.jpg, 12, 9", "train/g2.jpg, 12, 9"],
         "val": ["val/a.jpg, 7, 2"],
         "test": ["test/g.jpg, 12, 9", "test/a.jpg, 7, 2", "test/z.jpg, 40, 9"]}


def by_hand(folder: Path, order=list, end: str = "\n", header: str = HEADER, comma: str = ",", rest: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [header + rest, *(row + rest for row in order(CSV))]
    (folder / "classes.csv").write_bytes((end.join(rows) + end).encode("utf-8-sig"))
    for split, names in LISTS.items():
        lines = [comma.join(field.strip() for field in name.rsplit(",", 2)) for name in order(names)]
        (folder / f"{split}.txt").write_bytes((end.join(lines) + end).encode())
    return folder


@given(st.randoms(), st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), st.sampled_from([",", ", ", " ,\t"]),
       st.sampled_from(["", ",/iconic/x.jpg,/iconic/x.txt"]))
@settings(max_examples=25, deadline=None)
def test_lists_in_any_order_with_any_line_ends_give_what_is_worked_out_by_hand(random, end, comma, rest):
    with tempfile.TemporaryDirectory() as name:
        folder = by_hand(Path(name), lambda rows: random.sample(rows, len(rows)), end, HEADER, comma, rest)
        train, val, test = (read_groceries(folder, split) for split in ("train", "val", "test"))
        assert train.paths == ("train/M/z,1.jpg", "train/a b.jpg", "train/g.jpg", "train/g2.jpg")
        assert train.classes == val.classes == ("Alpro", "Galia", "Zebra-Melon")  # ids 7, 12, 40
        assert train.targets.tolist() == [2, 0, 1, 1] and val.targets.tolist() == [0]
        assert test.targets.tolist() == [0, 1, 2]
        coarse = read_groceries(folder, "train", level="coarse")
        assert coarse.classes == ("Milk", "Melon") and coarse.targets.tolist() == [1, 0, 1, 1]


def test_columns_are_found_by_their_names(tmp_path):
    by_hand(tmp_path)
    rows = [HEADER, *CSV]
    turned = "\n".join(",".join(reversed(row.split(","))) for row in rows)
    (tmp_path / "classes.csv").write_text(turned)
    assert read_groceries(tmp_path, "train").targets.tolist() == [2, 0, 1, 1]
    (tmp_path / "classes.csv").write_text(turned.replace("Galia", '"Galia, ripe"'))
    assert read_groceries(tmp_path, "train").classes[1] == "Galia, ripe"


@pytest.mark.parametrize(("file", "text", "message"), [
    ("classes.csv", "", "classes.csv is empty"),
    ("classes.csv", HEADER, "classes.csv names no class"),
    ("classes.csv", "\n".join(CSV), r"has no column 'Class Name \(str\)'"),
    ("classes.csv", f"{HEADER}\nA,one,B,2", "line 2: 'A,one,B,2' has not the columns"),
    ("classes.csv", f"{HEADER}\nA,1", "line 2: 'A,1' has not the columns"),
    ("classes.csv", f"{HEADER}\nA,1,B,2\n\nC,1,B,2", "line 4: class 1 stands there twice"),
    ("classes.csv", f"{HEADER}\nA,1,B,2\nC,3,D,2", "line 3: coarse class 2 is 'B' and 'D'"),
    ("classes.csv", f'{HEADER}\nA,1,"B\nC",2', "is not a table of comma-separated values"),
    ("classes.csv", f"{HEADER}\n{CSV[0]}\n{CSV[1]}", "'train/g.jpg' has class 12, which classes.csv does not name"),
    ("classes.csv", "\n".join([HEADER, *CSV, "Plum,41,Plum,10"]), "class 'Plum' has no train image"),
    ("classes.csv", "\n".join([HEADER, *CSV]).replace("Galia", "Alpro"), "two classes are called 'Alpro'"),
    ("train.txt", "", "train.txt is empty"),
    ("val.txt", "\n\n", "val.txt is empty"),
    ("train.txt", "a.jpg, 7", "line 1: 'a.jpg, 7' is not of the form 'path, id, coarse id'"),
    ("train.txt", "a.jpg, seven, 2", "is not of the form"),
    ("train.txt", "a.jpg, -1, 2", "has class -1, which classes.csv does not name"),
    ("train.txt", "a.jpg, 7, 9", "'a.jpg' has coarse class 9, but classes.csv says 2 of class 7"),
    ("train.txt", "a.jpg, 7, 2\n\na.jpg, 12, 9", "line 3: image 'a.jpg' stands there twice"),
    ("train.txt", "test/g.jpg, 12, 9", "image test/g.jpg stands in both of train.txt and test.txt"),
    ("train.txt", "a.jpg, 7, 2\nb.jpg, 12, 9", "class 'Zebra-Melon' has no train image"),
    ("train.txt", "\xff", "is not a text file"),
])
def test_a_list_that_contradicts_itself_or_the_classes_is_refused(tmp_path, file, text, message):
    (by_hand(tmp_path) / file).write_bytes(text.encode("latin-1"))
    refused(message, read_groceries, tmp_path, "train")


def test_a_class_without_test_images_is_named_but_validation_may_lack_some(tmp_path):
    by_hand(tmp_path)
    (tmp_path / "test.txt").write_text("test/a.jpg, 7, 2")
    refused("class 'Galia' has no test image", read_groceries, tmp_path, "test")
    assert len(read_groceries(tmp_path, "val").paths) == 1


@pytest.mark.parametrize("file", ["classes.csv", "train.txt", "val.txt", "test.txt"])
def test_a_missing_list_is_named(tmp_path, file):
    (by_hand(tmp_path / "dataset") / file).unlink()
    refused(f"dataset is incomplete: it lacks {file}", read_groceries, tmp_path, "test")
    refused(f"dataset is incomplete: it lacks {file}", read_groceries, tmp_path / "dataset", "test")


def test_roots_and_options_that_are_none(tmp_path, made, open_folder):
    refused("level must be one of fine, coarse, got 'family'", read_groceries, made, "train", level="family")
    refused("split must be", read_groceries, made, "dev")
    refused("needs a root", read_groceries, None, "train")
    refused("there is no folder", read_groceries, tmp_path / "nowhere", "train")
    refused("the folder is empty", read_groceries, tmp_path, "train")
    (tmp_path / "other").mkdir()
    refused("no dataset/classes.csv in it", read_groceries, tmp_path, "train")
    (tmp_path / "GroceryStoreDataset-master.zip").write_bytes(b"<!DOCTYPE html>")
    refused("is a web page", read_groceries, tmp_path, "train")
    by_hand(open_folder)
    with without_rights(open_folder / "train.txt"):
        refused("train.txt may not be read", read_groceries, open_folder, "train")


def test_images_that_are_missing_or_broken_are_named(made, tmp_path):
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    name = read_groceries(copy, "test").paths[3]
    path = copy / "dataset" / name
    path.write_bytes(path.read_bytes()[:200])
    refused(f"{name} cannot be decoded", load_dataset("groceries", copy, "test").__getitem__, 3)
    path.unlink()
    refused(f"{name} is listed and not there", load_dataset, "groceries", copy, split="test")


def test_photographs_are_turned_as_the_telephone_noted(tmp_path):
    by_hand(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "val").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "val" / "a.jpg", exif=exif)
    image, label = Photographs(read_groceries(tmp_path, "val"))[0]
    assert image.shape == (3, 6, 4) and label == 0 and torch.equal(image, torch.zeros_like(image))


@pytest.mark.parametrize(("level", "classes"), [("fine", 81), ("coarse", 43)])
def test_the_complete_set_must_have_its_published_number_of_images(tmp_path, level, classes):
    rows = [f"A{k},{k},B{k % 43},{k % 43}" for k in range(81)]
    (tmp_path / "classes.csv").write_text("\n".join([HEADER, *rows]))
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(f"{split}/{k}.jpg, {k}, {k % 43}" for k in range(81)))
    for split, count in (("train", "2,640"), ("val", "296"), ("test", "2,485")):
        refused(f"has {count} {split} images, here are 81", read_groceries, tmp_path, split, level=level)
