"""Stanford Cars: 196 models of cars, 16,185 photographs, with boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cra_smra.data.archives import Archive, Job, Packed, unpack_all
from cra_smra.data.files import Official, existing_folder, forbidden, read_mat
from cra_smra.data.photographs import Listing

LABELS = "cars_test_annos_withlabels.mat"
CARS = Official(
    name="cars",
    title="Stanford Cars",
    folder="stanford_cars",
    marks=("cars_train", "cars_test", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", LABELS),
    archives=(Archive("cars_train.tgz"), Archive("cars_test.tgz"), Archive("car_devkit.tgz"), Archive(LABELS)),
    source="Its old addresses are dead: get a copy of cars_train, cars_test, devkit and "
    f"{LABELS}, or of car_ims and cars_annos.mat, and put it into the root",
    classes=196,
    counts={"train": 8144, "test": 8041},
    per_class={"train": (24, 68), "test": (24, 68)},
    traps={
        "car_data": "these are class folders that somebody has split already; use the official files, or the data set "
        "'folder'",
        "train": "these are class folders that somebody has split already; use the official files, or the data set "
        "'folder'",
    },
)
# The two packagings number the same images differently: nothing of one can stand in for a part of the other.
PACKAGINGS = {"new": CARS.marks, "old": ("car_ims", "cars_annos.mat")}
UNPACKED_FROM = {
    "cars_train": "cars_train.tgz",
    "cars_test": "cars_test.tgz",
    "devkit": "car_devkit.tgz",
    "car_ims": "car_ims.tgz",
}
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@dataclass(frozen=True)
class Car:
    """An annotation: ``label`` from 1, ``box`` left, top, width, height in pixels, ``test`` only where it is known."""

    label: int
    box: tuple[float, float, float, float]
    test: int = 0


def read_cars(root: str | Path, split: str) -> Listing | None:
    """The images of the official split "train" or "test", with boxes (N, 4); None for "val", which the set has not.

    ``root`` is the folder with cars_train, cars_test, devkit and cars_test_annos_withlabels.mat (the last also in
    devkit or in stanford_cars), or with car_ims and cars_annos.mat, or the one above, when it is called stanford_cars;
    .tgz archives that lie there are unpacked. If both packagings are complete, the first is read; they are never
    mixed. Labels count from 0 in the order of class_names; images are in the order of their names. Raises ValueError
    for anything that is not the official layout.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    packaging, parts = find_parts(root)
    if split == "val":
        return None
    if packaging == "new":
        classes = read_classes(parts["devkit/cars_meta.mat"])
        cars = read_annotations(parts["devkit/cars_train_annos.mat" if split == "train" else LABELS], "fname")
        folder = parts[f"cars_{split}"]
    else:
        classes = read_classes(parts["cars_annos.mat"])
        cars = read_annotations(parts["cars_annos.mat"], "relative_im_path")
        cars = {name: car for name, car in cars.items() if car.test == (split == "test")}
        folder = parts["car_ims"]
    names = sorted(cars)
    if wrong := [name for name in names if not 1 <= cars[name].label <= len(classes)]:
        raise ValueError(
            f"{folder / wrong[0]} has class {cars[wrong[0]].label}, but the classes are 1 to {len(classes)}: unpack "
            "the official files again"
        )
    listing = Listing(
        folder=folder,
        paths=tuple(names),
        targets=torch.tensor([cars[name].label - 1 for name in names]),
        classes=classes,
        boxes=torch.tensor([cars[name].box for name in names], dtype=torch.float32),
    )
    CARS.check_counts(split, len(classes), len(names), folder)
    listing.check_classes(split)
    return listing


def find_parts(root: str | Path, unpack: bool = True) -> tuple[str, dict[str, Path]]:
    """Which packaging is read, "new" or "old", and where each of its parts lies.

    The split is not asked for: train and test images must come from the same packaging. Without ``unpack`` raises
    Packed instead of unpacking.
    """
    root = existing_folder(root, CARS)
    try:
        return search(root, unpack)
    except PermissionError as error:
        raise forbidden(error) from error


def search(root: Path, unpack: bool) -> tuple[str, dict[str, Path]]:
    """``find_parts`` in a root that exists."""
    folders = [root, root / CARS.folder, root / CARS.folder / CARS.folder]
    for packaging, names in PACKAGINGS.items():
        for folder in filter(Path.is_dir, folders):
            here = {name: part_at(root, folder, name) for name in names}
            packed = {name.split("/")[0] for name in names if here[name] is None}
            archives = {name: folder / UNPACKED_FROM.get(name, "no archive") for name in packed}
            if all(path.is_file() and not (folder / name).exists() for name, path in archives.items()):
                jobs = []
                for name, path in sorted(archives.items()):
                    marks = tuple(each.removeprefix(f"{name}/") for each in names if each.startswith(f"{name}/"))
                    jobs.append(Job(((path, Archive(path.name)),), folder / name, marks))
                if jobs and not unpack:
                    raise Packed(jobs)
                for job in jobs:
                    unpack_all(job.archives, job.into)
                    marks = [f"{job.into.name}/{mark}" for mark in job.marks]
                    if absent := [mark for mark in marks if part_at(root, folder, mark) is None]:
                        raise ValueError(f"{job.archives[0][0]} is not the official archive: it holds no {absent[0]}")
                return packaging, {name: part_at(root, folder, name) for name in names}
    raise ValueError(f"{root} does not hold {CARS.title}: {what_is_missing(root, folders)}. {CARS.source}")


def part_at(root: Path, folder: Path, name: str) -> Path | None:
    """Where a part of a packaging lies, if it does. Folders may be doubled by unpacking into one of the same name."""
    first, _, rest = name.partition("/")
    if first in UNPACKED_FROM:
        places = [folder / first / first / rest, folder / first / rest]
    elif first == LABELS:
        places = [folder / first, folder / "devkit" / first, folder / CARS.folder / first, root / first]
    else:
        places = [folder / first, root / first]
    kind = Path.is_file if name.endswith(".mat") else Path.is_dir
    return next(filter(kind, places), None)


def what_is_missing(root: Path, folders: list[Path]) -> str:
    """Why no packaging is complete, in a few words."""
    absent, begun = {}, []
    for packaging, names in PACKAGINGS.items():
        lacks = [[name for name in names if part_at(root, folder, name) is None] for folder in folders]
        absent[packaging] = min(lacks, key=len)
        if len(absent[packaging]) < len(names):
            begun.append(packaging)
    text = "; ".join(f"of the {packaging} packaging {', '.join(absent[packaging])} is not there" for packaging in begun)
    if LABELS in absent["new"] and any((folder / "devkit" / "cars_test_annos.mat").exists() for folder in folders):
        text += f" (cars_test_annos.mat has no classes: {LABELS} is needed)"
    if len(begun) == 2:
        text += "; the two number the same images differently, so files of one do not serve the other"
    if begun:
        return text
    names = sorted(entry.name for entry in root.iterdir())
    if not names:
        return "the folder is empty"
    for entry, says in CARS.traps.items():
        if any((folder / entry).exists() for folder in folders):
            return says
    if part := [name for name in names if name.endswith(".part")]:
        return f"{part[0]} is a download that was not finished"
    if packed := [name for name in names if name in UNPACKED_FROM.values()]:
        wanted = sorted(set(UNPACKED_FROM.values()) - {"car_ims.tgz"}) + [LABELS]
        if "car_ims.tgz" in packed:
            wanted = ["car_ims.tgz", "cars_annos.mat"]
        return f"{', '.join(name for name in wanted if name not in names)} is not beside {packed[0]}"
    return f"no {CARS.marks[0]} in it, nor in {CARS.folder}"


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes, from the cell array "class_names"."""
    names = tuple(value(cell, str, path, "class_names") for cell in read_mat(path, "class_names")["class_names"].flat)
    if not names:
        raise ValueError(f"{path} names no class: unpack the official files again")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return names


def read_annotations(path: Path, key: str) -> dict[str, Car]:
    """File name -> annotation, from the struct array "annotations" whose field ``key`` is the file."""
    table = read_mat(path, "annotations")["annotations"]
    fields = (key, *CORNERS, "class", *(["test"] if key == "relative_im_path" else []))
    if absent := [field for field in fields if field not in (table.dtype.names or ())]:
        why = f"cars_test_annos.mat has no classes: {LABELS} is needed" if absent == ["class"] else "it is another file"
        raise ValueError(f"{path} has no field {absent[0]!r}: {why}")
    cars: dict[str, Car] = {}
    for row in table.flat:
        name = value(row[key], str, path, key)
        if key == "relative_im_path":
            name = name.removeprefix("car_ims/")
        if not name or "/" in name or "\\" in name:
            raise ValueError(f"{path}: {row[key].item()!r:.60} is not the name of an image of its folder")
        left, top, right, bottom = (value(row[corner], int, path, name) for corner in CORNERS)
        if not (1 <= left <= right and 1 <= top <= bottom):
            raise ValueError(f"{path}: {left} {top} {right} {bottom} is no box of {name}: x and y count from 1, 1 to 2")
        if name in cars:
            raise ValueError(f"{path}: image {name} stands there twice")
        test = value(row["test"], int, path, name) if "test" in fields else 0
        if test not in (0, 1):
            raise ValueError(f"{path}: the field 'test' of {name} is {test}: 0 and 1 are allowed")
        box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
        cars[name] = Car(value(row["class"], int, path, name), box, test)
    if not cars:
        raise ValueError(f"{path} has no annotation: unpack the official files again")
    return cars


def value(cell: np.ndarray, kind: Callable[[Any], Any], path: Path, of: str) -> Any:
    """The one value in a cell, of a whole number or a text. (``int`` of an array of two dimensions raises.)"""
    try:
        found = cell.item()
        if kind is str and not isinstance(found, str) or kind is int and found != int(found):
            raise ValueError
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        wanted = "text" if kind is str else "whole number"
        raise ValueError(f"{path}: an entry of {of} is not one {wanted}: unpack the official files again") from error
    return kind(found)
