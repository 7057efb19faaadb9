"""CUB-200-2011: 200 bird species, 11,788 photographs, with boxes and parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cra_smra.data.archives import Archive
from cra_smra.data.files import Official, locate, read_lines, read_table
from cra_smra.data.photographs import Listing

CUB = Official(
    name="cub",
    title="CUB-200-2011",
    folder="CUB_200_2011",
    marks=("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images"),
    archives=(
        Archive(
            "CUB_200_2011.tgz",
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            1_150_585_339,
        ),
    ),
    source="Get CUB_200_2011.tgz from data.caltech.edu/records/65de6-vp158 and put it, unpacked or not, into the root",
    classes=200,
    counts={"train": 5994, "test": 5794},
    per_class={"train": (29, 30), "test": (11, 30)},
    traps={
        "lists/train.txt": "this is the older set of 2010 (CUB-200), with other images and another split",
        "train": "these are class folders that somebody has split already; use the official archive, or "
        "the data set 'folder'",
    },
)


def read_cub(root: str | Path, split: str) -> Listing | None:
    """The images of the official split "train" or "test", with boxes (N, 4) and the 15 parts (N, 15, 3); None for
    "val", which the set has not.

    ``root`` is the folder CUB_200_2011, the one above it, or one that holds CUB_200_2011.tgz, which is then unpacked.
    Labels count from 0 in the order of classes.txt. Raises ValueError for anything that is not the official layout.
    """
    folder = locate(root, CUB)
    if split == "val":
        return None
    names = read_table(folder / "images.txt", str)  # id -> path
    tables = {
        "image_class_labels.txt": read_table(folder / "image_class_labels.txt", int),
        "train_test_split.txt": read_table(folder / "train_test_split.txt", int),
        "bounding_boxes.txt": read_table(folder / "bounding_boxes.txt", float, float, float, float),
    }
    for file, table in tables.items():
        if odd := sorted(names.keys() ^ table.keys()):
            raise ValueError(f"{folder}: image {odd[0]} stands in only one of images.txt and {file}")
    labels, parts_of_split, boxes = tables.values()
    classes = read_table(folder / "classes.txt", str)  # id -> NNN.Name
    place = {number: k for k, number in enumerate(sorted(classes))}  # ids of a part of the set may have gaps
    for number, (label,) in labels.items():
        if label not in place:
            raise ValueError(f"{folder}: image {number} has label {label}, which classes.txt does not name")
        if names[number][0].split("/")[0] != classes[label][0]:
            raise ValueError(
                f"{folder}: image {number} lies in {names[number][0].split('/')[0]} but is labelled {classes[label][0]}"
            )
    for number, (flag,) in parts_of_split.items():
        if flag not in (0, 1):
            raise ValueError(f"{folder}: train_test_split.txt says {flag} of image {number}: 0 and 1 are allowed")
    chosen = sorted(number for number, (flag,) in parts_of_split.items() if flag == (split == "train"))
    locations, part_names = read_parts(folder, chosen)
    listing = Listing(
        folder=folder / "images",
        paths=tuple(names[number][0] for number in chosen),
        targets=torch.tensor([place[labels[number][0]] for number in chosen]),
        classes=tuple(classes[number][0].split(".", 1)[-1].replace("_", " ") for number in sorted(classes)),
        boxes=torch.tensor([boxes[number] for number in chosen]),
        part_locations=locations,
        part_names=part_names,
    )
    CUB.check_counts(split, len(classes), len(chosen), folder)
    listing.check_classes(split)
    return listing


def read_parts(folder: Path, chosen: list[int]) -> tuple[Tensor, tuple[str, ...]]:
    """Part locations (N, P, 3) of the images ``chosen``, and the names of the parts."""
    names = read_table(folder / "parts" / "parts.txt", str)  # id -> name with spaces
    column = {number: p for p, number in enumerate(sorted(names))}
    row = {number: i for i, number in enumerate(chosen)}
    locations = np.full((len(chosen), len(column), 3), np.nan, np.float32)  # NaN: no line of it was read yet
    path = folder / "parts" / "part_locs.txt"
    for number, line in read_lines(path):
        try:
            image, part, *place = line.split()
            x, y, visible = map(float, place)
            i, p = row.get(int(image)), column[int(part)]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: {line!r:.60} is not of the form 'id part x y visible'") from error
        if i is not None:
            locations[i, p] = x, y, visible
    if (absent := np.argwhere(np.isnan(locations))).size:
        i, p = absent[0, :2]
        part = names[sorted(names)[p]][0]
        raise ValueError(f"{path} has no place of the {part} of image {chosen[i]}: unpack the archive again")
    return torch.from_numpy(locations), tuple(names[number][0] for number in sorted(names))
