"""Hostile and broken input: every reader meets every kind of it, through the command line. The command fails with one
line that says what is wrong, and leaves nothing half done.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from conftest import full_disk, images, pick, refused, without_rights
from cra_smra.cli import main
from cra_smra.data import READERS, aircraft, cars, cub, dogs, groceries, load_dataset
from cra_smra.data.make import MADE, make
from cra_smra.runs import read_run

MODULES = {"cub": cub, "aircraft": aircraft, "cars": cars, "dogs": dogs, "groceries": groceries}
PACKED = {  # the archives of a set in the order in which they are unpacked, each with what it holds
    "cub": {"CUB_200_2011.tgz": ["CUB_200_2011"]},
    "aircraft": {"fgvc-aircraft-2013b.tar.gz": ["fgvc-aircraft-2013b"]},
    "cars": {"cars_test.tgz": ["stanford_cars/cars_test"], "cars_train.tgz": ["stanford_cars/cars_train"],
             "car_devkit.tgz": ["stanford_cars/devkit"]},
    "dogs": {"images.tar": ["StanfordDogs/Images"], "annotation.tar": ["StanfordDogs/Annotation"],
             "lists.tar": ["StanfordDogs/train_list.mat", "StanfordDogs/test_list.mat"]},
    "groceries": {"GroceryStoreDataset-master.zip": ["GroceryStoreDataset-master"]},
}
FIRST = {name: next(iter(archives)) for name, archives in PACKED.items()}
EACH = pytest.mark.parametrize("name", MADE)
EACH_PACKED = pytest.mark.parametrize("name", PACKED)
SMALL = "--backbone resnet10 --weights None --image-size 64 --out-channels 32"
FAST = f"{SMALL} --epochs 1 --batch-size 4 --workers 0".split()


def state(root: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in sorted(root.rglob("*"))}


def failed(capsys, *arguments: str, code: int = 1) -> str:
    """The one line with which a command fails; a bar may stand before it."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    errors = capsys.readouterr().err
    assert stop.value.code == code
    lines = [line for line in re.split(r"[\r\n]", errors) if line.startswith("cra-smra: ")]
    assert len(lines) == 1 and errors.endswith(lines[0] + "\n") and errors.count("\n") <= 1 + errors.count("\r"), errors
    assert "Traceback" not in errors and len(lines[0]) > 20
    return lines[0]


def training_fails(capsys, name: str, root: Path, words: str) -> str:
    """A training fails at its data, says ``words``, and changes nothing; the check says the same. Returns the line."""
    out = root.parent / "run"
    before = state(root) if root.is_dir() else None
    line = failed(capsys, "train", name, "--root", str(root), "--out", str(out), *FAST)
    assert re.search(words, line), line
    assert not out.exists() and (before is None or state(root) == before)
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(root), "--name", name])
    report = capsys.readouterr().out
    assert stop.value.code == 1 and re.search(words, report), report
    assert before is None or state(root) == before
    return line


# roots


@EACH
def test_a_root_that_is_missing_a_file_or_empty(capsys, tmp_path, name):
    training_fails(capsys, name, tmp_path / "nowhere", "there is no folder .*nowhere: give")
    (tmp_path / "file").write_text("x")
    training_fails(capsys, name, tmp_path / "file", "file is a file: give the folder")
    (tmp_path / "empty").mkdir()
    training_fails(capsys, name, tmp_path / "empty", "the folder is empty|has 0 class folders")


@EACH
def test_a_root_that_holds_another_set(capsys, tmp_path, copy_of, name):
    """The birds of CUB are no aircraft; and for CUB, dogs."""
    root = copy_of("dogs" if name == "cub" else "cub")
    training_fails(capsys, name, root, "does not hold|folder inside a class|has 1 class folders|in no class folder")


# lists


def edit(path: str, function: Callable[[list[str]], list[str]]):
    """Change the lines of a list."""

    def change(root: Path) -> None:
        lines = (root / path).read_text().splitlines()
        (root / path).write_text("\n".join(function(lines)) + "\n")

    return change


def edit_mat(path: str, key: str, function: Callable[[np.ndarray], np.ndarray]):
    """Change a variable of a MATLAB file."""

    def change(root: Path) -> None:
        found = {name: value for name, value in loadmat(root / path).items() if not name.startswith("__")}
        savemat(root / path, found | {key: function(found[key])})

    return change


def relabel(labels: np.ndarray, index: int, value: float) -> np.ndarray:
    labels = labels.astype(float)
    labels[index] = value
    return labels


def car_class(value: float):
    def change(table: np.ndarray) -> np.ndarray:
        table[0, 0]["class"] = np.array([[value]])
        return table

    return change


def dogs_without_a_class(root: Path) -> None:
    """The training list without images of the first breed."""
    path = root / "StanfordDogs/train_list.mat"
    found = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    savemat(path, {name: value[found["labels"].ravel() != 1] for name, value in found.items()})


GROCERY = "GroceryStoreDataset-master/dataset"
AIR = "fgvc-aircraft-2013b/data"
LISTS = {
    "label out of range": {
        "cub": (edit("CUB_200_2011/image_class_labels.txt", lambda s: ["1 0", *s[1:]]), "image 1 has label 0"),
        "aircraft": (edit(f"{AIR}/images_variant_test.txt", lambda s: [s[0] + "x", *s[1:]]), "does not name"),
        "cars": (edit_mat("stanford_cars/devkit/cars_train_annos.mat", "annotations", car_class(197.0)),
                 "has class 197, but the classes are 1 to 3"),
        "dogs": (edit_mat("StanfordDogs/test_list.mat", "labels", lambda v: relabel(v, 0, 0)), "has label 0, but"),
        "groceries": (edit(f"{GROCERY}/val.txt", lambda s: [s[0].rsplit(",", 2)[0] + ", 81, 1", *s[1:]]), "class 81"),
    },
    "list and folder disagree": {
        "cub": (edit("CUB_200_2011/image_class_labels.txt", lambda s: ["1 2", *s[1:]]), "lies in 001.* labelled 002"),
        "dogs": (edit_mat("StanfordDogs/train_list.mat", "labels", lambda v: relabel(v, 0, 2)), "the lists say"),
        "folder": (lambda r: shutil.rmtree(next((r / "class_folders/test").iterdir())),
                   "is a class that .*test has not"),
        "groceries": (edit(f"{GROCERY}/train.txt", lambda s: [s[0].rsplit(",", 2)[0] + ", 0, 3", *s[1:]]),
                      "has coarse class 3, but classes.csv says 1 of class 0"),
        "aircraft": (lambda r: shutil.copy(*(r / AIR / f"images_variant_{part}.txt" for part in ("trainval", "test"))),
                     "stands in both"),
        "cars": (lambda r: shutil.move(r / "stanford_cars/cars_test", r / "stanford_cars/cars_train/more"),
                 "cars_test is not there"),
    },
    "a split with no image of a class": {
        "cub": (edit("CUB_200_2011/train_test_split.txt", lambda s: [f"{k} {int(k > 9)}" for k in range(1, 28)]),
                "class 'Black-fronted Starling' has no train image"),
        "aircraft": (edit(f"{AIR}/images_variant_test.txt", lambda s: [line for line in s if "F/A-18" not in line]),
                     "class 'F/A-18' has no test image"),
        "cars": (edit_mat("stanford_cars/cars_test_annos_withlabels.mat", "annotations",
                          lambda t: t[:, [row["class"].item() != 2 for row in t.flat]]), "has no test image"),
        "dogs": (dogs_without_a_class, "has no train image"),
        "folder": (lambda r: [path.unlink() for path in next((r / "class_folders/test").iterdir()).iterdir()],
                   "has no image .*put some there"),
        "groceries": (edit(f"{GROCERY}/test.txt", lambda s: s[:3]), "has no test image"),
    },
    "a list that is no list": {
        "cub": (lambda r: (r / "CUB_200_2011/images.txt").write_bytes(b"\xff\xfe1\0"), "images.txt is not a text file"),
        "aircraft": (lambda r: (r / AIR / "images_box.txt").write_text("<html>"), "is not of the form"),
        "cars": (lambda r: os.truncate(r / "stanford_cars/devkit/cars_meta.mat", 150), "is not a MATLAB file"),
        "dogs": (lambda r: (r / "StanfordDogs/test_list.mat").write_text("<html>"), "is not a MATLAB file"),
        "groceries": (lambda r: (r / GROCERY / "classes.csv").write_bytes(b""), "classes.csv is empty"),
    },
}


@pytest.mark.parametrize(("line", "name"), [(line, name) for line, those in LISTS.items() for name in those])
def test_lists_that_are_wrong(capsys, copy_of, line, name):
    plant, words = LISTS[line][name]
    root = copy_of(name)
    plant(root)
    training_fails(capsys, name, root, words)


@EACH
def test_an_image_that_a_list_names_is_not_there(capsys, copy_of, tmp_path, name):
    root = copy_of(name)
    path = pick(name, root, "train", 1)
    path.unlink()
    if name == "folder":  # whose list are the files: a link to nowhere is one of them
        path.symlink_to(tmp_path / "gone.jpg")
    assert path.name in training_fails(capsys, name, root, "not there")


def test_ids_of_classes_may_have_gaps(copy_of):
    """As in a part of a set: labels count on from 0, in the order of the ids."""
    sparse = {
        "cub": [edit("CUB_200_2011/classes.txt", lambda s: [re.sub("^3 ", "77 ", line) for line in s]),
                edit("CUB_200_2011/image_class_labels.txt", lambda s: [re.sub(" 3$", " 77", line) for line in s])],
        "dogs": [edit_mat(f"StanfordDogs/{part}_list.mat", "labels", lambda v: v * 7.0) for part in ("train", "test")],
        "groceries": [],  # which are made with gaps
    }
    for name, changes in sparse.items():
        root = copy_of(name)
        before = READERS[name](root, "train")
        for change in changes:
            change(root)
        after = READERS[name](root, "train")
        assert after.targets.tolist() == before.targets.tolist() and after.classes == before.classes
        assert sorted(set(after.targets.tolist())) == [0, 1, 2]
        shutil.rmtree(root)
    rows = (copy_of("groceries") / GROCERY / "classes.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] != ["0", "1", "2"]


# images


DAMAGE = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 300), "cannot be decoded .*truncated"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a page": (lambda path: path.write_text("<!DOCTYPE html><p>not found"), "cannot be decoded"),
}
MODES = {
    "RGBA": ("PNG", "RGBA"), "CMYK": ("JPEG", "CMYK"), "grey": ("JPEG", "L"), "16 bits": ("PNG", "I;16"),
    "palette": ("GIF", "P"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@EACH
def test_an_image_that_is_broken_is_named_and_no_other_takes_its_place(capsys, copy_of, name, damage):
    plant, words = DAMAGE[damage]
    root = copy_of(name)
    path = pick(name, root, "train", 1, 2)
    number, file = images(name, root).index(path), re.escape(path.name)
    plant(path)
    before = state(root)
    if name == "aircraft" and damage != "cut short":  # its reader looks at the heights
        training_fails(capsys, name, root, f"{file} {words}")
    else:
        refused(f"{file} {words}", load_dataset(name, root, "train", "paper").__getitem__, number)
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(root)])
    assert stop.value.code == 1 and re.search(f"stop: 1 image .*{file} {words}", capsys.readouterr().out)
    assert state(root) == before


@pytest.mark.parametrize("mode", MODES)
@EACH
def test_an_image_of_another_mode_is_read(copy_of, name, mode):
    form, kind = MODES[mode]
    root = copy_of(name)
    path = pick(name, root, "test", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (84, 70), dtype=np.uint8)
    sixteen = pixels.astype(np.uint16) * 256 + 37
    image = Image.fromarray(sixteen) if kind == "I;16" else Image.fromarray(pixels).convert(kind)
    image.save(path, format=form)
    image, label = load_dataset(name, root, "test")[images(name, root, "test").index(path)]
    assert image.shape == (3, 64 if name == "aircraft" else 84, 70) and str(image.dtype) == "torch.uint8" and label == 1
    assert image.float().std() > 10  # neither white nor black, as a careless conversion of 16 bits is


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_meets_a_broken_image_ends_with_its_name(capsys, copy_of, tmp_path, workers):
    root = copy_of("cub")
    path = pick("cub", root, "train", 1, 2)
    os.truncate(path, 900)
    arguments = ["--root", str(root), "--out", str(tmp_path / "run"), "--protocol", "paper", "--workers", str(workers)]
    line = failed(capsys, "train", "cub", *FAST, *arguments)
    assert re.fullmatch(rf"cra-smra: {re.escape(str(path))} cannot be decoded \(.*\): put the original back, .*", line)
    assert not list((tmp_path / "run").rglob("*.part")) and not (tmp_path / "run" / "predictions.npz").exists()
    assert read_run(tmp_path / "run")["status"] == "running"  # goes on once the image is there


# archives


def pack(name: str, source: Path, root: Path, extra: dict[str, bytes] | None = None) -> None:
    """Pack a made set into its official archives; ``extra`` members come into the first of them."""
    root.mkdir()
    for archive, parts in PACKED[name].items():
        files = {path.relative_to(source.parent).as_posix(): path.read_bytes() for part in parts
                 for path in [source.parent / part, *sorted((source.parent / part).rglob("*"))] if path.is_file()}
        if name in ("cars", "dogs"):  # whose archives hold no folder of the set
            files = {member.partition("/")[2]: data for member, data in files.items()}
        files |= (extra or {}) if archive == FIRST[name] else {}
        if archive.endswith(".zip"):
            with zipfile.ZipFile(root / archive, "w") as packed:
                for member, data in files.items():
                    packed.writestr(member, data)
            continue
        with tarfile.open(root / archive, "w:gz" if archive.endswith("gz") else "w") as packed:
            for member, data in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
    if name == "cars":
        shutil.copy(source / cars.LABELS, root)


@pytest.fixture
def any_size(monkeypatch) -> None:
    """Made archives are taken for the official ones, whose sizes and md5 sums are known."""
    from cra_smra.data import recognise

    for name, attribute in (("cub", "CUB"), ("dogs", "DOGS")):
        official = getattr(MODULES[name], attribute)
        changed = replace(official, archives=tuple(replace(each, size=None, md5=None) for each in official.archives))
        monkeypatch.setattr(MODULES[name], attribute, changed)
        monkeypatch.setattr(recognise, attribute, changed)
        monkeypatch.setitem(recognise.OFFICIALS, name, changed)


@EACH_PACKED
def test_archives_as_they_come_are_unpacked_and_read(made_sets, tmp_path, any_size, name):
    pack(name, made_sets[name], tmp_path / "root")
    assert len(load_dataset(name, tmp_path / "root", "test")) == 9


@pytest.mark.parametrize("member", ["../evil.txt", "a/../../evil.txt", "/tmp/cra_smra_evil.txt"])
@EACH_PACKED
def test_an_archive_that_reaches_outside_is_refused(capsys, made_sets, tmp_path, any_size, name, member):
    pack(name, made_sets[name], tmp_path / "root", {member: b"x"})
    training_fails(capsys, name, tmp_path / "root", f"is refused: its member '{re.escape(member)}'.*outside the folder")
    assert os.listdir(tmp_path) == ["root"] and not Path("/tmp/cra_smra_evil.txt").exists()


@EACH_PACKED
def test_an_archive_that_is_a_page_or_cut_or_empty_is_refused(capsys, made_sets, tmp_path, any_size, name):
    pack(name, made_sets[name], tmp_path / "root")
    path = tmp_path / "root" / FIRST[name]
    whole = path.read_bytes()
    for data, words in ((b"<!DOCTYPE html><title>Sign in</title>", "is a web page saved under the archive's name"),
                        (whole[: len(whole) // 2], "is damaged or no archive"), (b"", "is empty: remove it")):
        path.write_bytes(data)
        training_fails(capsys, name, tmp_path / "root", f"{path.name} {words}")


@pytest.mark.parametrize(("name", "archive"), [("cub", "CUB_200_2011.tgz"), ("dogs", "images.tar")])
def test_an_archive_of_another_size_is_refused(capsys, made_sets, tmp_path, name, archive):
    pack(name, made_sets[name], tmp_path / "root")
    training_fails(capsys, name, tmp_path / "root", rf"{archive} has [\d,]+ instead of [\d,]+ bytes: remove it")


@EACH_PACKED
def test_a_download_that_was_not_finished_is_called_that(capsys, made_sets, tmp_path, any_size, name):
    pack(name, made_sets[name], tmp_path / "root")
    for path in (tmp_path / "root").iterdir():
        path.unlink() if path.name != FIRST[name] else path.rename(f"{path}.part")
    training_fails(capsys, name, tmp_path / "root", f"{FIRST[name]}.part is a download that was not finished")


# the disk


@EACH_PACKED
def test_a_disk_that_is_full_while_unpacking(capsys, made_sets, tmp_path, any_size, name):
    pack(name, made_sets[name], tmp_path / "root")
    before = state(tmp_path / "root")
    with full_disk(1000):
        line = failed(capsys, "train", name, "--root", str(tmp_path / "root"), "--out", str(tmp_path / "run"), *FAST)
    assert "cannot be unpacked into" in line and "File too large" in line and "nothing of it was left there" in line
    assert state(tmp_path / "root") == before and not (tmp_path / "run").exists()
    assert len(load_dataset(name, tmp_path / "root", "test")) == 9  # once there is room


@EACH
def test_a_disk_that_is_full_while_a_set_is_made(capsys, tmp_path, name):
    with full_disk(1000):
        line = failed(capsys, "data", "make", name, str(tmp_path / "root"), "--num-classes", "2")
    assert "File too large" in line and os.listdir(tmp_path / "root") == []


def test_a_disk_that_is_full_while_a_report_is_written(capsys, made_sets, tmp_path):
    with full_disk(100):
        line = failed(capsys, "data", "check", str(made_sets["cub"]), "--json", str(tmp_path / "report.json"))
    assert "File too large" in line and os.listdir(tmp_path) == []


def test_a_disk_that_is_full_while_training_leaves_what_can_go_on(capsys, made_sets, tmp_path):
    arguments = ["train", "cub", "--root", str(made_sets["cub"]), "--out", str(tmp_path / "run"), *FAST]
    with full_disk(200_000):  # run.json fits, a checkpoint does not
        failed(capsys, *arguments)
    assert read_run(tmp_path / "run")["status"] == "running"
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".part", ".pt", ".npz")]


@EACH
def test_what_may_not_be_read(capsys, open_folder, name):
    root = open_folder / "root"
    folder = make(name, root, num_classes=2, train_per_class=3, test_per_class=2, size=64)
    image = pick(name, folder, "train", 1)
    lists = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".mat", ".csv")
             and not re.search("README|file_list|test_annos.mat|variant_train.txt|_val.txt|famil|manufact", path.name)]
    assert bool(lists) == (name != "folder")
    number = images(name, folder).index(image)
    for place in (root, folder, image.parent, *lists):
        with without_rights(place):
            line = failed(capsys, "train", name, "--root", str(root), "--out", str(open_folder / "run"), *FAST)
            assert re.search("may not be read: its permissions forbid it", line), (place, line)
            with pytest.raises(SystemExit) as stop:
                main(["data", "check", str(root), "--name", name])
            assert stop.value.code == 1 and "may not be read" in capsys.readouterr().out
    with without_rights(image):
        if name == "aircraft":
            refused(f"{image.name} may not be read", READERS[name], root, "train")
        else:
            refused(f"{image.name} may not be read", load_dataset(name, root, "train", "paper").__getitem__, number)
    assert os.listdir(open_folder) == ["root"]
