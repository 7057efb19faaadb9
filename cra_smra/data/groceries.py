"""Grocery Store Dataset: 81 kinds of groceries in 43 coarse kinds, 5,421 photographs, without boxes."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cra_smra.data.archives import Archive
from cra_smra.data.files import Official, existing_folder, forbidden, locate, read_lines
from cra_smra.data.photographs import Listing

GROCERIES = Official(
    name="groceries",
    title="the Grocery Store Dataset",
    folder="GroceryStoreDataset-master",
    marks=("dataset/classes.csv", "dataset/train.txt", "dataset/val.txt", "dataset/test.txt"),
    archives=(
        Archive(
            "GroceryStoreDataset-master.zip",
            "https://github.com/marcusklasson/GroceryStoreDataset/archive/refs/heads/master.zip",
        ),
    ),
    source="Get github.com/marcusklasson/GroceryStoreDataset as GroceryStoreDataset-master.zip and put it, unpacked or "
    "not, into the root",
    classes=81,
    counts={"train": 2640, "val": 296, "test": 2485},
)
LEVELS = {"fine": 81, "coarse": 43}  # with the number of classes of the complete set
COLUMNS = ("Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)")


@dataclass(frozen=True)
class Kind:
    """A line of classes.csv: ids and names of a fine class and of the coarse one it belongs to."""

    fine: int
    fine_name: str
    coarse: int
    coarse_name: str


def read_groceries(root: str | Path, split: str, *, level: str = "fine") -> Listing | None:
    """The images of the set's own lists "train", "val" and "test", without boxes.

    ``level`` is "fine" or "coarse". ``root`` is the folder dataset of the repository, the repository's folder, the one
    above it, or one that holds GroceryStoreDataset-master.zip, which is then unpacked. The classes are those of
    classes.csv; labels count from 0 in the order of their ids, which may have gaps where a part of the set is used.
    "train" and "test" have images of every class, "val" has not. Images are turned as their camera noted. Raises
    ValueError for anything that is not the official layout.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    folder = find_dataset(root)
    kinds = read_kinds(folder / "classes.csv")
    names = {getattr(kind, level): getattr(kind, f"{level}_name") for kind in kinds.values()}  # id -> name
    place = {number: k for k, number in enumerate(sorted(names))}
    lists = {part: read_list(folder / f"{part}.txt", kinds) for part in ("train", "val", "test")}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(lists[one].keys() & lists[other].keys()):
            raise ValueError(f"{folder}: image {both[0]} stands in both of {one}.txt and {other}.txt")
    chosen = lists[split]
    paths = sorted(chosen)
    listing = Listing(
        folder=folder,
        paths=tuple(paths),
        targets=torch.tensor([place[getattr(chosen[path], level)] for path in paths]),
        classes=tuple(names[number] for number in sorted(names)),
        upright=True,
    )
    replace(GROCERIES, classes=LEVELS[level]).check_counts(split, len(names), len(paths), folder)
    if split != "val":
        listing.check_classes(split)
    return listing


def find_dataset(root: str | Path, unpack: bool = True) -> Path:
    """The folder "dataset" of the set. Without ``unpack`` raises Packed instead of unpacking."""
    root = existing_folder(root, GROCERIES)
    marks = [mark.removeprefix("dataset/") for mark in GROCERIES.marks]
    cloned = "GroceryStoreDataset"  # as git clone calls it
    folders = (root, root / "dataset", root / GROCERIES.folder / "dataset", root / cloned / "dataset")
    packed = (root / GROCERIES.archives[0].name).exists()
    try:
        for folder in folders:
            missing = [mark for mark in marks if not (folder / mark).exists()]
            if not missing:
                return folder
            if len(missing) < len(marks) and not packed:
                raise ValueError(f"{folder} is incomplete: it lacks {missing[0]}. {GROCERIES.source}")
    except PermissionError as error:
        raise forbidden(error) from error
    return locate(root, GROCERIES, unpack) / "dataset"


def read_kinds(path: Path) -> dict[int, Kind]:
    """The classes of classes.csv: fine id -> kind. Further columns, as the whole set has them, are left aside."""
    lines = list(read_lines(path))
    if not lines:
        raise ValueError(f"{path} is empty: unpack the archive again")
    try:
        header, *rows = csv.reader((line for _, line in lines), strict=True)
        if len(rows) != len(lines) - 1:
            raise csv.Error("a field goes on over the end of its line")
    except csv.Error as error:
        raise ValueError(f"{path} is not a table of comma-separated values ({error})") from error
    header = [name.strip() for name in header]
    if absent := [name for name in COLUMNS if name not in header]:
        raise ValueError(f"{path} has no column {absent[0]!r}: its first line must name {', '.join(COLUMNS)}")
    columns = [header.index(name) for name in COLUMNS]
    kinds: dict[int, Kind] = {}
    coarse: dict[int, str] = {}
    for (number, line), row in zip(lines[1:], rows, strict=True):
        try:
            fine_name, fine, coarse_name, group = (row[column].strip() for column in columns)
            kind = Kind(int(fine), fine_name, int(group), coarse_name)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}, line {number}: {line!r:.60} has not the columns of the first line") from error
        if kind.fine in kinds:
            raise ValueError(f"{path}, line {number}: class {kind.fine} stands there twice")
        if coarse.setdefault(kind.coarse, kind.coarse_name) != kind.coarse_name:
            raise ValueError(
                f"{path}, line {number}: coarse class {kind.coarse} is {coarse[kind.coarse]!r} and {kind.coarse_name!r}"
            )
        kinds[kind.fine] = kind
    if not kinds:
        raise ValueError(f"{path} names no class: unpack the archive again")
    return kinds


def read_list(path: Path, kinds: dict[int, Kind]) -> dict[str, Kind]:
    """A list of lines "path, fine id, coarse id": path -> kind. Raises ValueError where it disagrees with ``kinds``."""
    images: dict[str, Kind] = {}
    for number, line in read_lines(path):
        name, *ids = (field.strip() for field in line.rsplit(",", 2))
        try:
            fine, coarse = map(int, ids)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line!r:.60} is not of the form 'path, id, coarse id'") from error
        if fine not in kinds:
            raise ValueError(f"{path}, line {number}: {name!r:.80} has class {fine}, which classes.csv does not name")
        if coarse != kinds[fine].coarse:
            raise ValueError(
                f"{path}, line {number}: {name!r:.80} has coarse class {coarse}, but classes.csv says "
                f"{kinds[fine].coarse} of class {fine}"
            )
        if name in images:
            raise ValueError(f"{path}, line {number}: image {name!r:.80} stands there twice")
        images[name] = kinds[fine]
    if not images:
        raise ValueError(f"{path} is empty: unpack the archive again")
    return images
