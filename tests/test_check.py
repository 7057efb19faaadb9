"""The check of a data set: made sets with defects planted into them, and roots that hold something else."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import images, pick, refused, without_rights
from cra_smra import Recipe
from cra_smra.cli import main
from cra_smra.data import READERS, cub, load_dataset, recognise, scan
from cra_smra.data.cars import LABELS
from cra_smra.data.check import BATCH, check
from cra_smra.data.made_vehicles import fill_cars
from cra_smra.data.make import MADE, make
from cra_smra.data.report import KINDS, Report, some, span

SMALL = {"num_classes": 3, "train_per_class": 6, "test_per_class": 3, "size": 64}


def look(root: Path | str, name: str | None = None, **options) -> Report:
    return check(root, name, progress=False, **options)


def kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings]


def trains(name: str, root: Path) -> bool:
    """Whether every image of every split can be had, as training gets them."""
    try:
        for split in ("train", "val", "test"):
            dataset = load_dataset(name, root, split)
            assert all(dataset[i][0].shape[0] == 3 for i in range(len(dataset)))
    except ValueError:
        return False
    return True


# whole sets


def test_the_text_of_a_whole_set_is_this(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make("cub", "my set", num_classes=2, train_per_class=4, test_per_class=1, size=64)
    one = "CUB_200_2011/images/001.Black-fronted_Starling/Black-Fronted_Starling_0000_"
    assert str(look("my set")).split("\n") == [
        "CUB-200-2011 in my set/CUB_200_2011: 2 classes",
        "  train      8 images, 4 a class; the complete set has 5,994, 29 to 30 a class",
        "  test       2 images, 1 a class; the complete set has 5,794, 11 to 30 a class",
        "  10 images decoded, sides of 64 pixels",
        "warning: Black-fronted Starling (4), Crimson-naped Starling (4): fewer than 5 training images; little can be "
        "learnt from them",
        "note: the complete set has 200 classes: this is a part of it or a made set. Training works, but its "
        "accuracies are not comparable with those of the set",
        f"note: 2 grey images: three equal channels are made of each ({one}1.jpg, {one}5.jpg)",
        "training can start: cra-smra train cub --root 'my set' --batch-size 6",
    ]


@pytest.mark.parametrize("name", MADE)
def test_a_whole_set_is_recognised_counted_and_read(made_sets, name):
    report = look(made_sets[name].parent)
    assert report.set == name and report.can_train and report.classes == 3
    assert all(finding.level == "note" for finding in report.findings)
    assert (report.counts["train"], report.counts["test"]) == (18, 9)
    assert set(report.per_class["train"].values()) == {6} and set(report.per_class["test"].values()) == {3}
    assert list(report.per_class["test"]) == list(READERS[name](made_sets[name], "test").classes)
    assert report.images == sum(report.counts.values()) and min(report.sides) == 64
    if name == "groceries":
        assert kinds(report) == ["part", "gaps", "validation", "grey"]
        assert report.of("validation")[0].text.startswith("Black-crowned-Starling: no validation image")
    assert report.official == MADE[name][0].counts and bool(report.of("part")) == (name != "folder")
    same = look(made_sets[name], name)  # the set's own folder is a root as well
    assert kinds(same) == kinds(report) and same.counts == report.counts and same.folder == report.folder


def test_odd_images_of_the_made_sets_are_noted_where_they_lie(made_sets):
    odd = {"grey", "16-bit", "cmyk", "alpha", "palette", "small", "suffix"}
    reports = {name: look(made_sets[name]) for name in MADE}
    assert {name: odd & set(kinds(report)) for name, report in reports.items()} == {
        "cub": {"grey"}, "aircraft": set(), "cars": {"grey"}, "dogs": {"alpha", "suffix"}, "folder": {"grey"},
        "groceries": {"grey"}}
    for name in ("cub", "cars", "folder", "groceries"):
        grey = set()
        for path in (path for split in ("train", "val", "test") if READERS[name](made_sets[name], split)
                     for path in images(name, made_sets[name], split)):
            with Image.open(path) as image:
                grey |= {path.relative_to(made_sets[name]).as_posix()} if image.mode == "L" else set()
        assert reports[name].of("grey")[0].files == tuple(sorted(grey)) and grey


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_colours_of_sixteen_bits_are_told_from_the_file_and_a_camera_s_two_pictures_are_a_jpeg(tmp_path):
    """Pillow shows such colours as 8 bits, and writes none, so the file is put together here."""
    pixels = b"".join(b"\0" + bytes(70 * 6) for _ in range(70))
    header = struct.pack(">IIBBBBB", 70, 70, 16, 2, 0, 0, 0)  # 16 bits, red, green and blue
    parts = (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"".join(parts))
    assert scan.look(tmp_path / "a.png").odd == ("16-bit",)
    new("RGB").save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[new("RGB")])
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.format == "MPO"
    assert scan.look(tmp_path / "b.jpg").odd == ()


def test_the_batch_that_is_advised_is_the_largest_that_training_takes(made_sets, tmp_path):
    assert BATCH == Recipe().batch_size
    report = look(made_sets["cub"])
    assert report.batch == len(load_dataset("cub", made_sets["cub"])) == 15
    assert str(report).endswith(" --batch-size 15")
    make("cub", tmp_path, num_classes=4, train_per_class=6, test_per_class=1, size=64)
    assert len(load_dataset("cub", tmp_path)) == BATCH and look(tmp_path).batch is None


def test_the_report_is_the_same_each_time_and_nothing_is_written(copy_of):
    root = copy_of("dogs")
    for path in images("dogs", root)[3:9]:
        path.write_bytes(b"no image")

    def state():
        return {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    before, first = state(), look(root)
    assert [str(look(root)) for _ in range(3)] == [str(first)] * 3 and state() == before
    (broken,) = first.of("unreadable")
    assert len(broken.files) == 6 and list(broken.files) == sorted(broken.files) and broken.text.endswith("and 3 more)")


def test_paths_are_as_the_root_was_given(made_sets, monkeypatch):
    monkeypatch.chdir(made_sets["cars"].parent)
    here = look(".")
    assert here.root == "." and here.can_train and str(made_sets["cars"].parent) not in str(here)
    monkeypatch.chdir(made_sets["cars"])
    assert look("..").findings == here.findings and look("../").can_train


# defects in a set that lies where it should


def rewrite(path: Path, function: Callable[[str], str]) -> None:
    path.write_text(function(path.read_text()))


def save(image: Image.Image, path: Path, form: str = "JPEG") -> None:
    image.save(path, format=form)


def new(mode: str, size: tuple[int, int] = (70, 90)) -> Image.Image:
    return Image.new(mode, size)


def over(name: str, one: tuple, other: tuple):
    """Put the bytes of one image, (split, label, number), in place of another's."""
    return lambda root: shutil.copy(pick(name, root, *one), pick(name, root, *other))


def lone_class(root: Path) -> None:
    """Leave the first class a single training image. Images 1 to 9 are of the first class, and so on."""
    flags = "\n".join(f"{k} {int(k in (1, *range(10, 16), *range(19, 25)))}" for k in range(1, 28))
    (root / "CUB_200_2011/train_test_split.txt").write_text(flags)


def two_gaps(root: Path) -> None:
    """Call the third class 9."""
    for file in ("classes.txt", "image_class_labels.txt"):
        rewrite(root / "CUB_200_2011" / file, lambda text: text.replace(" 3\n", " 9\n").replace("\n3 0", "\n9 0"))


def wolves(root: Path) -> None:
    """A folder that no list names."""
    folder = root / "StanfordDogs/Images/n09-Wolf"
    folder.mkdir()
    shutil.copy(pick("dogs", root, "train", 1), folder / "1.jpg")


AUK = "class_folders/{}/Black-fronted Starling"
CUB_LABELS = "CUB_200_2011/image_class_labels.txt"
# What is planted into which set, the kinds of the findings that are new or changed then (images of a list that is
# refused are not looked at), and words of the first of them.
DEFECTS = {
    "an image is missing": ("cub", lambda r: images("cub", r)[4].unlink(), "missing", "1 image listed and not there"),
    "seven are missing": ("aircraft", lambda r: [path.unlink() for path in images("aircraft", r)[:7]], "missing",
                          "7 images listed and not there.* and 4 more"),
    "a class folder is missing": ("dogs", lambda r: shutil.rmtree(images("dogs", r)[0].parent), "missing", "9 images"),
    "the test images are missing": ("cars", lambda r: shutil.rmtree(r / "stanford_cars/cars_test"), "set",
                                    "of the new packaging cars_test is not there"),
    "a file is empty": ("cub", lambda r: images("cub", r)[4].write_bytes(b""), "unreadable", "1 image .*is empty"),
    "a file is cut short": ("cars", lambda r: os.truncate(pick("cars", r, "test", 1), 700), "unreadable", "truncated"),
    "a file is no image": ("groceries", lambda r: pick("groceries", r, "val", 1, 0).write_text("<html>" * 99),
                           "unreadable", "cannot identify"),
    "a folder called like an image": ("folder", lambda r: (r / AUK.format("train") / "x.jpg").mkdir(), "layout",
                                      "is a folder inside a class"),
    "pixels are fractions": ("folder", lambda r: save(new("F"), pick("folder", r, "train", 0), "TIFF"), "unreadable",
                             "floating-point"),
    "lower than the banner": ("aircraft", lambda r: save(new("RGB", (64, 20)), pick("aircraft", r, "test", 0)),
                              "layout small", "is 20 pixels high"),
    "grey": ("cub", lambda r: save(new("L"), pick("cub", r, "test", 0)), "grey", "3 grey images"),
    "black and white": ("folder", lambda r: save(new("1"), pick("folder", r, "test", 0), "PNG"), "grey", "3 grey"),
    "CMYK": ("dogs", lambda r: save(new("CMYK"), pick("dogs", r, "train", 2)), "cmyk", "1 CMYK image:"),
    "a palette": ("cars", lambda r: save(new("P"), pick("cars", r, "train", 2), "PNG"), "palette suffix", "1 palette"),
    "16 bits": ("cub", lambda r: save(Image.fromarray(np.ones((70, 70), np.uint16)), pick("cub", r, "train", 1), "PNG"),
                "16-bit suffix", "1 16-bit image"),
    "transparent": ("aircraft", lambda r: save(new("RGBA"), pick("aircraft", r, "train", 2), "PNG"), "alpha suffix",
                    "1 transparent image"),
    "a transparent palette": ("cars", lambda r: new("P").save(pick("cars", r, "train", 2), "GIF", transparency=0),
                              "alpha palette suffix", "1 transparent"),
    "very small": ("cub", lambda r: save(new("RGB", (300, 63)), pick("cub", r, "train", 1)), "small", "1 small image:"),
    "a PNG named .jpg": ("cars", lambda r: save(new("RGB"), pick("cars", r, "train", 2), "PNG"), "suffix",
                         "1 misnamed"),
    "an image of no list": ("cub", lambda r: shutil.copy(images("cub", r)[0], images("cub", r)[0].parent / "x.JPG"),
                            "unlisted", "1 image that no list names"),
    "a folder of no list": ("dogs", wolves, "unlisted", "n09-Wolf/1.jpg"),
    "a test image in train": ("cub", over("cub", ("test", 1), ("train", 1)), "leak", "1 image in two splits"),
    "a validation image in train": ("groceries", over("groceries", ("val", 1, 0), ("train", 1)), "leak",
                                    "/train/.* = .*/val/"),
    "a validation image in test": ("groceries", over("groceries", ("val", 1, 0), ("test", 1)), "leak", "/test/.*/val/"),
    "an image twice in a class": ("aircraft", over("aircraft", ("train", 1, 1), ("train", 1, 2)), "repeated",
                                  "1 image twice in one class"),
    "an image under two labels": ("cars", over("cars", ("train", 1), ("train", 2)), "conflict",
                                  "1 image under two labels"),
    "a test image under another label": ("dogs", over("dogs", ("train", 1), ("test", 2)), "conflict leak", "1 image"),
    "a label out of range": ("cub", lambda r: rewrite(r / CUB_LABELS, lambda s: s.replace("1 1\n", "1 7\n", 1)),
                             "layout", "image 1 has label 7"),
    "list and folder disagree": ("cub", lambda r: rewrite(r / CUB_LABELS, lambda s: s.replace("1 1\n", "1 2\n", 1)),
                                 "layout", "lies in 001.* but is labelled 002"),
    "a class without test images": ("groceries", lambda r: rewrite(
        r / "GroceryStoreDataset-master/dataset/test.txt", lambda s: "\n".join(s.split("\n")[:6])), "layout grey",
        "no test image"),
    "one training image": ("cub", lone_class, "few", "Black-fronted Starling .1.: a class needs at least 2"),
    "ids with gaps": ("cub", two_gaps, "gaps", "gaps .3, 4, 5 and 3 more"),
    "a damaged list": ("dogs", lambda r: os.truncate(r / "StanfordDogs/train_list.mat", 200), "layout", "MATLAB"),
    "a damaged annotation": ("dogs", lambda r: [path.write_text("") for path in (r / "StanfordDogs/Annotation").glob(
        "*/*_0")], "layout alpha suffix", "no annotation that can be read"),
    "a telephone's format": ("folder", lambda r: pick("folder", r, "test", 0).rename(
        r / AUK.format("test") / "x.heic"), "layout", "x.heic cannot be read: convert it"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found_and_said_to_stop_training_only_if_it_does(copy_of, defect):
    name, plant, expected, words = DEFECTS[defect]
    root = copy_of(name)
    before = look(root)
    plant(root)
    report = look(root, name)
    found = [finding for finding in report.findings if finding not in before.findings]
    assert [finding.kind for finding in found] == expected.split()
    assert re.search(words, found[0].text) and not any("\n" in finding.text for finding in found), found[0].text
    stops = KINDS[found[0].kind] == "stop"
    assert report.can_train == trains(name, root) == (not stops)
    assert str(report).split("\n")[-1].startswith("training cannot start: " if stops else "training can start: ")
    there = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    assert set(found[0].files) <= there or expected == "missing"


@given(st.lists(st.tuples(st.integers(0, 26), st.floats(0, 1), st.integers(0, 255), st.booleans()), max_size=3))
@settings(max_examples=25, deadline=None)
def test_whatever_happens_to_bytes_training_can_start_if_and_only_if_every_image_can_be_had(made_sets, changes):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(made_sets["folder"], Path(folder) / "root"))
        paths = images("folder", root) + images("folder", root, "test")
        for index, place, value, cut in changes:
            data = bytearray(paths[index].read_bytes())
            at = int(place * (len(data) - 1))
            data[at:] = b"" if cut else bytes([value]) + data[at + 1 :]
            paths[index].write_bytes(data or b"x")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert look(root).can_train == trains("folder", root)


def test_files_that_a_system_leaves_are_no_images_of_no_list(copy_of):
    root = copy_of("cub")
    folder = images("cub", root)[0].parent
    for name in ("._a.jpg", "Thumbs.db", "README.txt", ".hidden/a.jpg", "more/deeper.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert kinds(look(root)) == ["part", "grey"]


def test_several_doubles_are_counted_one_by_one_and_named(copy_of):
    """Four equal images: three are too many, whichever is looked at."""
    root = copy_of("cub")
    one, twin, other, test = (pick("cub", root, *which) for which in (
        ("train", 1, 1), ("train", 1, 2), ("train", 2, 1), ("test", 1, 1)))
    for path in (twin, other, test):
        shutil.copy(one, path)
    report = look(root)
    assert [(finding.kind, len(finding.files)) for finding in report.findings[:3]] == [
        ("conflict", 2), ("leak", 2), ("repeated", 2)]
    assert report.of("repeated")[0].files == tuple(path.relative_to(root).as_posix() for path in (one, twin))
    assert report.of("leak")[0].files[1] == test.relative_to(root).as_posix()
    assert report.of("conflict")[0].files[1] == other.relative_to(root).as_posix()


def test_the_most_important_comes_first(copy_of):
    root = copy_of("cub")
    images("cub", root)[1].unlink()
    os.truncate(images("cub", root)[2], 300)
    shutil.copy(pick("cub", root, "train", 2, 1), pick("cub", root, "train", 2, 2))
    report = look(root)
    assert kinds(report) == ["missing", "unreadable", "repeated", "part", "grey"]
    lines = str(report).split("\n")
    assert [line.split(":")[0] for line in lines[-6:]] == ["stop", "stop", "warning", "note", "note",
                                                           "training cannot start"]
    assert lines[-1].endswith("put right the 2 lines that say stop, then check again")


def test_fast_reads_headers_alone_and_says_so(copy_of):
    root = copy_of("cub")
    os.truncate(pick("cub", root, "train", 1), 900)
    shutil.copy(pick("cub", root, "train", 2, 1), pick("cub", root, "train", 2, 2))
    report = look(root, fast=True)
    assert report.can_train and set(kinds(report)) == {"part", "grey"} and not trains("cub", root)
    assert "27 images headers read" not in str(report) and "the headers of 27 images read" in str(report)
    assert "training can start, as far as headers tell: cra-smra train cub" in str(report)
    pick("cub", root, "test", 1).write_bytes(b"")
    assert [finding.kind for finding in look(root, fast=True).findings if finding.level == "stop"] == ["unreadable"]


def test_a_set_with_all_classes_is_held_to_its_published_numbers(made_sets, monkeypatch):
    official = cub.CUB

    def published(**facts):
        known = replace(official, classes=3, **facts)
        for module in (cub, recognise):
            monkeypatch.setattr(module, "CUB", known)
        monkeypatch.setitem(recognise.OFFICIALS, "cub", known)

    published(counts={"train": 18, "test": 9}, per_class={"train": (6, 6), "test": (3, 4)})
    assert kinds(look(made_sets["cub"])) == ["grey"]
    published(counts={"train": 18, "test": 9}, per_class={"train": (7, 8), "test": (1, 2)})
    report = look(made_sets["cub"])
    assert kinds(report) == ["counts", "counts", "grey"] and report.can_train
    assert "Starling (6)" in report.findings[0].text and "has 7 to 8 train images a class" in report.findings[0].text
    published(counts={"train": 18, "test": 10}, per_class={})
    report = look(made_sets["cub"])
    assert kinds(report) == ["layout", "grey"] and "has 10 test images, here are 9" in report.findings[0].text


def test_what_may_not_be_read_is_one_line(open_folder):
    make("folder", open_folder, num_classes=2, train_per_class=3, test_per_class=2, size=64)
    with without_rights(pick("folder", open_folder, "train", 1)):
        report = look(open_folder)
        assert "may not be read" in report.of("unreadable")[0].text and not report.can_train
    with without_rights(open_folder / "class_folders" / "test"):
        report = look(open_folder, "folder")
        assert "may not be read: its permissions" in report.of("layout")[0].text and not report.can_train
    with without_rights(open_folder):
        for name in (None, "folder", "cub"):
            report = look(open_folder, name)
            assert kinds(report) == ["root"] and "may not be read: its permissions" in report.findings[0].text
    shutil.rmtree(open_folder / "class_folders")
    for name in ("cub", "dogs", "groceries", "aircraft", "cars"):
        folder = make(name, open_folder, num_classes=2, train_per_class=3, test_per_class=2, size=64)
        for place in (folder, pick(name, folder, "test", 1).parent):
            with without_rights(place):
                report = look(open_folder, name)
                assert not report.can_train and "may not be read: its permissions" in report.findings[0].text, name
        shutil.rmtree(folder)


# roots that hold something else, or something more


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def mixed_cars(root: Path) -> None:
    """The images of the old packaging with the annotations of the new."""
    make("cars", root, **SMALL)
    for folder in ("cars_train", "cars_test"):
        shutil.rmtree(root / "stanford_cars" / folder)
    touch(root, "stanford_cars/car_ims/000001.jpg")


def without_labels(root: Path) -> None:
    (make("cars", root, **SMALL) / LABELS).unlink()


def archive_of_annotations(root: Path) -> None:
    """FGVC-Aircraft's archive without images, unpacked."""
    shutil.rmtree(make("aircraft", root, **SMALL) / "data" / "images")


def page(root: Path, name: str) -> None:
    (root / name).write_text("<!DOCTYPE html><title>Sign in</title>")


WRONG = {
    "nothing": (lambda r: None, None, "root", "is empty: put a data set there"),
    "nothing for a set": (lambda r: None, "cub", "set", "the folder is empty. Get CUB_200_2011.tgz"),
    "hidden files alone": (lambda r: touch(r, ".DS_Store"), None, "root", "is empty"),
    "CUB of 2010": (lambda r: touch(r, "lists/train.txt", "images/001.A/a.jpg"), None, "set", "older set of 2010"),
    "CUB of 2010 in the folder": (lambda r: touch(r, "CUB_200_2011/lists/train.txt"), "cub", "set", "set of 2010"),
    "aircraft without images": (archive_of_annotations, None, "set", "has the lists alone"),
    "the archive of the lists": (lambda r: touch(r, "fgvc-aircraft-2013b-annotations.tar.gz"), None, "set",
                                 "archive of the annotations alone"),
    "mixed packagings": (mixed_cars, None, "set", "number the same images differently"),
    "test images without classes": (without_labels, None, "set", "cars_test_annos.mat has no classes"),
    "dogs without lists": (lambda r: touch(r, "images/Images/n02-a/1.jpg"), None, "set", "without the official lists"),
    "a part of the archives": (lambda r: touch(r, "annotation.tar", "lists.tar"), None, "set",
                               "images.tar is not there"),
    "a page": (lambda r: page(r, "CUB_200_2011.tgz"), None, "archive", "CUB_200_2011.tgz is a web page saved under"),
    "a page among others": (lambda r: page(r, "lists.tar"), None, "archive set", "lists.tar is a web page saved"),
    "an empty archive": (lambda r: (r / "fgvc-aircraft-2013b.tar.gz").touch(), None, "archive",
                         "gz is empty: remove it"),
    "half a download": (lambda r: touch(r, "CUB_200_2011.tgz.part"), None, "set",
                        "tgz.part is a download that was not finished"),
    "half a browser's download": (lambda r: touch(r, "images.tar.crdownload"), "dogs", "set", "was not finished; run"),
    "half of something": (lambda r: touch(r, "birds.zip.part"), None, "set", "root/birds.zip.part is a download that"),
    "split class folders for CUB": (lambda r: touch(r, "train/a/1.jpg", "test/a/1.jpg"), "cub", "set", "split already"),
    "one class folder": (lambda r: touch(r, "train/a/1.jpg", "test/a/1.jpg"), None, "set", "has 1 class folders"),
    "no test folder": (lambda r: touch(r, "train/a/1.jpg", "train/b/1.jpg"), None, "set", "has train but no test"),
    "a folder deeper": (lambda r: make("cub", r / "birds", **SMALL), None, "set", "CUB-200-2011 in .*birds: give that"),
    "two folders deeper": (lambda r: [make(name, r / name, **SMALL) for name in ("cub", "dogs")], None, "several",
                           "CUB-200-2011 in .*cub, Stanford Dogs in .*dogs: give one of these folders"),
    "two sets": (lambda r: [make(name, r, **SMALL) for name in ("dogs", "cub")], None, "several",
                 "holds CUB-200-2011 .cub., Stanford Dogs .dogs.: say which is meant, as in .* --name cub"),
    "a list is missing": (lambda r: (make("dogs", r, **SMALL) / "train_list.mat").unlink(), None, "set",
                          "no train_list.mat in StanfordDogs"),
    "text": (lambda r: touch(r, "notes.txt"), None, "set", "holds none of cub, aircraft, cars, dogs, groceries, "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_root_is_answered_by_what_it_is(tmp_path, wrong):
    fill, name, expected, words = WRONG[wrong]
    root = tmp_path / "root"
    root.mkdir()
    fill(root)
    there = sorted(root.rglob("*"))
    report = look(root, name)
    assert " ".join(kinds(report)) == expected and not report.can_train
    assert re.search(words, report.findings[0].text), report.findings[0].text
    assert str(report).count("\n") == len(report.findings) + bool(report.set)
    assert "training cannot start: put right the" in str(report) and sorted(root.rglob("*")) == there


def test_a_root_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in (None, "cub", "folder"):
        assert "there is no folder" in look(tmp_path / "nowhere", name).of("root")[0].text
        assert "file is a file" in look(tmp_path / "file", name).of("root")[0].text
    refused("name must be one of cub, aircraft, cars, dogs, folder, groceries, got 'birds'", check, tmp_path, "birds")


def test_one_of_two_sets_can_be_meant(tmp_path):
    for name in ("dogs", "cub"):
        make(name, tmp_path, **SMALL)
    assert {name: look(tmp_path, name).set for name in ("dogs", "cub")} == {"dogs": "dogs", "cub": "cub"}
    assert look(tmp_path, "dogs").can_train


def test_folders_that_were_doubled_are_read_and_noted(made_sets, tmp_path):
    shutil.copytree(made_sets["cub"], tmp_path / "a/CUB_200_2011/CUB_200_2011")
    shutil.copytree(made_sets["cars"], tmp_path / "b")
    shutil.move(tmp_path / "b/cars_train", tmp_path / "b/x/cars_train")
    (tmp_path / "b/x").rename(tmp_path / "b/cars_train")
    for root, name in (("a", "cub"), ("a/CUB_200_2011", "cub"), ("b", "cars")):
        report = look(tmp_path / root)
        assert report.set == name and report.can_train
        assert "lies in a folder of the same name" in report.of("doubled")[0].text
    assert not look(tmp_path / "a/CUB_200_2011/CUB_200_2011").of("doubled")


def test_both_packagings_of_the_cars_are_known_and_never_mixed(made_sets, tmp_path):
    fill_cars(tmp_path, seed=0, packaging="old", **SMALL)
    report = look(tmp_path)
    assert report.set == "cars" and report.can_train and report.counts == look(made_sets["cars"]).counts
    shutil.copytree(made_sets["cars"] / "devkit", tmp_path / "devkit")
    assert "devkit/cars_meta.mat" in look(tmp_path).of("packaging")[0].text
    for name in ("cars_train", "cars_test"):
        shutil.copytree(made_sets["cars"] / name, tmp_path / name)
    shutil.copy(made_sets["cars"] / LABELS, tmp_path)
    report = look(tmp_path)
    assert "car_ims, cars_annos.mat of the old packaging: not read" in report.of("packaging")[0].text
    assert report.can_train


@pytest.mark.parametrize(("name", "title"), [("00{}.Auk", "CUB-200-2011"), ("n0208562{}-Shih-Tzu", "Stanford Dogs")])
def test_class_folders_made_of_an_official_set_are_told_by_their_names(made_sets, tmp_path, name, title):
    source = made_sets["folder"]
    for split in ("train", "test"):
        for number, folder in enumerate(sorted((source / split).iterdir())):
            shutil.copytree(folder, tmp_path / split / name.format(number))
    report = look(tmp_path)
    assert report.set == "folder" and report.can_train and title in report.of("split")[0].text
    for split in ("train", "test"):
        (tmp_path / split / name.format(0)).rename(tmp_path / split / "x")
    assert not look(tmp_path).of("split")


# archives that are not unpacked


def pack(name: str, folder: Path, root: Path, change: Callable[[dict[str, bytes]], None] = lambda files: None) -> Path:
    """Pack a made set as its official archive, with its own folder in it; ``change`` alters names and contents."""
    root.mkdir(exist_ok=True)
    files = {f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
             for path in sorted(folder.rglob("*")) if path.is_file()}
    change(files)
    path = root / MADE[name][0].archives[0].name
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["aircraft", "groceries"])
def test_an_archive_is_read_through_and_unpacked_only_if_asked_for(made_sets, tmp_path, name):
    path = pack(name, made_sets[name], tmp_path)
    for fast in (False, True):
        report = look(tmp_path, fast=fast)
        assert kinds(report) == ["packed"] and report.can_train and report.set == name and report.images == 0
        assert path.name in report.of("packed")[0].text and f"cra-smra train {name} --root" in str(report)
    assert os.listdir(tmp_path) == [path.name]
    report = look(tmp_path, unpack=True)
    assert report.can_train and not report.of("packed") and report.counts == look(made_sets[name]).counts
    assert report.folder.startswith(str(tmp_path / made_sets[name].name)) and trains(name, tmp_path)


def test_archives_of_the_cars_are_read_through_and_unpacked(made_sets, tmp_path):
    for folder, name in (("cars_train", "cars_train"), ("cars_test", "cars_test"), ("devkit", "car_devkit")):
        shutil.make_archive(str(tmp_path / name), "gztar", made_sets["cars"], folder)
        (tmp_path / f"{name}.tar.gz").rename(tmp_path / f"{name}.tgz")
    shutil.copy(made_sets["cars"] / LABELS, tmp_path)
    before = sorted(os.listdir(tmp_path))
    report = look(tmp_path)
    assert report.set == "cars" and report.can_train and kinds(report) == ["packed"]
    assert report.of("packed")[0].files == ("cars_test.tgz", "cars_train.tgz", "car_devkit.tgz")
    assert sorted(os.listdir(tmp_path)) == before
    report = look(tmp_path, unpack=True)
    assert report.can_train and report.folder == str(tmp_path) and report.counts["train"] == 18
    shutil.rmtree(tmp_path / "devkit")
    shutil.copy(tmp_path / "cars_train.tgz", tmp_path / "car_devkit.tgz")
    report = look(tmp_path)
    assert kinds(report) == ["archive"] and "car_devkit.tgz does not hold Stanford Cars" in report.findings[0].text
    refused("it holds no devkit/cars_meta.mat", READERS["cars"], tmp_path, "train")


def drop(part: str):
    return lambda files: [files.pop(name) for name in list(files) if part in name]


def put(name: str):
    return lambda files: files.update({name: b"x"})


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # gzip: the checksum of the whole
    path.write_bytes(data)


def change_member(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


FAULTS = {
    "lists are missing": ("aircraft", drop("variants.txt"), None,
                          "does not hold FGVC-Aircraft 2013b: no data/variants.txt"),
    "images are missing": ("aircraft", drop("images/"), None, "no data/images in it"),
    "a list is missing": ("groceries", drop("val.txt"), None, "no dataset/val.txt in it"),
    "a member above": ("aircraft", put("../evil.txt"), None, "is refused: its member '../evil.txt' points outside"),
    "an absolute member": ("aircraft", put("/tmp/evil.txt"), None, "is refused: its member '/tmp/evil.txt'"),
    "a member above in a zip": ("groceries", put("a/../../evil.txt"), None, "is refused: its member"),
    "cut": ("aircraft", lambda files: None, cut, "is damaged or no archive"),
    "cut zip": ("groceries", lambda files: None, cut, "is damaged or no archive"),
    "a wrong checksum in a zip": ("groceries", lambda files: None, change_member, "Bad CRC"),
    "a wrong checksum": ("aircraft", lambda files: None, flip, "CRC"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_archive_stops_training_as_unpacking_it_would(made_sets, tmp_path, fault):
    name, change, damage, words = FAULTS[fault]
    path = pack(name, made_sets[name], tmp_path, change)
    if damage:
        damage(path)
    report = look(tmp_path)
    assert kinds(report) == ["archive"] and words in report.findings[0].text, report.findings[0].text
    assert not report.can_train and look(tmp_path, unpack=True).findings == report.findings
    assert os.listdir(tmp_path) == [path.name] and not trains(name, tmp_path)


def test_files_beside_the_folder_in_an_archive_do_no_harm(made_sets, tmp_path):
    pack("aircraft", made_sets["aircraft"], tmp_path, put("notes.txt"))
    assert look(tmp_path).can_train and trains("aircraft", tmp_path) and look(tmp_path).can_train


def test_size_and_md5_of_an_archive_are_compared_with_the_official_ones(made_sets, tmp_path, monkeypatch):
    path = pack("cub", made_sets["cub"], tmp_path)
    report = look(tmp_path)
    assert kinds(report) == ["archive"] and "instead of 1,150,585,339 bytes: remove it" in report.findings[0].text

    def known(**facts):
        changed = replace(cub.CUB, archives=(replace(cub.CUB.archives[0], **facts),))
        monkeypatch.setattr(recognise, "CUB", changed)
        monkeypatch.setitem(recognise.OFFICIALS, "cub", changed)

    known(size=path.stat().st_size)
    assert "instead of 97eceeb196236b17998738112f37df78" in look(tmp_path).of("archive")[0].text
    assert look(tmp_path, fast=True).can_train  # which says "as far as headers tell"
    known(size=None, md5=None)
    assert look(tmp_path).can_train


def test_room_on_the_disk_and_the_right_to_write_are_asked_for(made_sets, tmp_path, monkeypatch, open_folder):
    pack("aircraft", made_sets["aircraft"], tmp_path)
    usage, total = namedtuple("Usage", "total used free"), sum(
        path.stat().st_size for path in made_sets["aircraft"].rglob("*") if path.is_file())
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, total - 1))
        report = look(tmp_path)
        assert kinds(report) == ["room"] and f"unpacking takes {total:,}: make room" in report.findings[0].text
        patch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, total))
        assert look(tmp_path).can_train
    pack("aircraft", made_sets["aircraft"], open_folder)
    other = open_folder / "other"
    other.mkdir()
    open_folder.chmod(0o555)
    with without_rights(other):  # as nobody, who may read the root
        if not os.access(open_folder, os.W_OK, effective_ids=True):
            assert kinds(look(open_folder)) == ["room"]


# the parts of the text, and the command


def test_words_of_the_text():
    assert not Report("x").can_train and Report("x", set="cub").can_train
    assert (span([3, 5, 4]), span([7, 7])) == ("3 to 5", "7")
    assert some("abc") == "a, b, c" and some(map(str, range(1203))) == "0, 1, 2 and 1,200 more"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", *arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_command_prints_the_report_and_its_code_says_whether_training_can_start(capsys, copy_of, tmp_path):
    root = copy_of("dogs")
    code, output, _ = run(capsys, str(root), "--json", str(tmp_path / "a/report.json"))
    report = look(root)
    assert code == 0 and output == f"{report}\n"
    stored = json.loads((tmp_path / "a/report.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict())) and stored["can_train"] and stored["set"] == "dogs"
    assert [(f["kind"], f["level"]) for f in stored["findings"]] == [
        ("part", "note"), ("alpha", "note"), ("suffix", "note")]
    assert os.listdir(tmp_path / "a") == ["report.json"]
    os.truncate(pick("dogs", root, "test", 1), 900)
    assert run(capsys, str(root))[0] == 1 and run(capsys, str(root), "--fast")[0] == 0
    code, output, _ = run(capsys, str(root), "--name", "cub")
    assert code == 1 and output.startswith("stop: ") and "does not hold CUB-200-2011" in output
    assert run(capsys, str(tmp_path / "nowhere"), "--json", str(tmp_path / "b.json"))[0] == 1
    assert json.loads((tmp_path / "b.json").read_text())["set"] is None


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--name", "fish"], ["a", "--quick"]])
def test_wrong_usage_is_2(capsys, arguments):
    code, output, _ = run(capsys, *arguments)
    assert code == 2 and output == ""


def test_a_report_that_cannot_be_written_is_one_line(capsys, made_sets, tmp_path):
    (tmp_path / "file").write_text("x")
    code, output, errors = run(capsys, str(made_sets["cub"]), "--json", str(tmp_path / "file" / "report.json"))
    assert code == 1 and "training can start" in output and errors.splitlines()[-1].startswith("cra-smra: ")
    assert os.listdir(tmp_path) == ["file"]
