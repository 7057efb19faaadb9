"""FGVC-Aircraft 2013b: 100 variants of aircraft in 70 families of 30 manufacturers, 10,000 photographs, with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cra_smra.data.archives import Archive
from cra_smra.data.files import Official, existing_folder, forbidden, locate, read_lines
from cra_smra.data.photographs import Listing, opened

AIRCRAFT = Official(
    name="aircraft",
    title="FGVC-Aircraft 2013b",
    folder="fgvc-aircraft-2013b",
    marks=(
        "data/images",
        "data/images_box.txt",
        "data/variants.txt",
        "data/images_variant_trainval.txt",
        "data/images_variant_test.txt",
    ),
    archives=(
        Archive(
            "fgvc-aircraft-2013b.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        ),
    ),
    source="Get fgvc-aircraft-2013b.tar.gz (2.75 GB) from www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft and put it, "
    "unpacked or not, into the root",
    classes=100,
    counts={"train": 6667, "test": 3333},
    per_class={"train": (66, 67), "test": (33, 34)},
    traps={
        "fgvc-aircraft-2013b-annotations.tar.gz": "this is the archive of the annotations alone, without images",
        "fgvc-aircraft-2013b-annotations": "this is the archive of the annotations alone, without images",
        "train": "these are class folders that somebody has split already; use the official archive, or "
        "the data set 'folder'",
    },
)
LEVELS = {"variant": ("variants.txt", 100), "family": ("families.txt", 70), "manufacturer": ("manufacturers.txt", 30)}
BANNER = 20  # rows at the bottom of every image that name its owner
HEADER = frozenset(
    "aircraft class classes family families id label labels list manufacturer manufacturers name names number of the "
    "variant variants".split()
)


def read_aircraft(
    root: str | Path, split: str, *, level: str = "variant", banner: bool = False
) -> Listing | None:
    """The images of "train", which is the official list "trainval", or of "test", with boxes (N, 4); None for "val":
    the two halves of "trainval" are not used apart.

    ``level`` is "variant", "family" or "manufacturer". Without ``banner`` the bottom 20 rows of every image, which
    name its owner, are cut off, and boxes end where the image then ends. ``root`` is the folder fgvc-aircraft-2013b,
    the one above it, its folder data, or one that holds fgvc-aircraft-2013b.tar.gz, which is then unpacked. Labels
    count from 0 in the order of variants.txt, families.txt or manufacturers.txt; images are in the order of their
    numbers. Raises ValueError for anything that is not the official layout.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    folder = find_data(root)
    if split == "val":
        return None
    labels = {part: read_labels(folder / f"images_{level}_{part}.txt") for part in ("trainval", "test")}
    if both := sorted(labels["trainval"].keys() & labels["test"].keys()):
        raise ValueError(f"{folder}: image {both[0]} stands in both of images_{level}_trainval.txt and _test.txt")
    file, complete = LEVELS[level]
    classes = read_classes(folder / file, {label for part in labels.values() for label in part.values()})
    place = {name: k for k, name in enumerate(classes)}
    for part, table in labels.items():
        for name, label in table.items():
            if label not in place:
                raise ValueError(
                    f"{folder / f'images_{level}_{part}.txt'}: image {name} has label {label!r}, which {file} does "
                    "not name"
                )
    chosen = labels["trainval" if split == "train" else "test"]
    names = sorted(chosen)
    listing = Listing(
        folder=folder / "images",
        paths=tuple(f"{name}.jpg" for name in names),
        targets=torch.tensor([place[chosen[name]] for name in names]),
        classes=classes,
        banner=0 if banner else BANNER,
    )
    replace(AIRCRAFT, classes=complete).check_counts(split, len(classes), len(names), folder)
    listing.check_classes(split)
    boxes = read_boxes(folder / "images_box.txt", names)
    if not banner:
        listing.check_files()
        boxes = without_banner(boxes, listing)
    return replace(listing, boxes=boxes)


def find_data(root: str | Path, unpack: bool = True) -> Path:
    """The folder "data" of the set. Without ``unpack`` raises Packed instead of unpacking."""
    root = existing_folder(root, AIRCRAFT)
    official = root / AIRCRAFT.folder
    packed = (root / AIRCRAFT.archives[0].name).exists()
    marks = [mark.removeprefix("data/") for mark in AIRCRAFT.marks]
    try:
        for folder in (root, root / "data", official / "data", official / AIRCRAFT.folder / "data"):
            missing = [mark for mark in marks if not (folder / mark).exists()]
            if not missing:
                return folder
            if any((folder / mark).is_file() for mark in marks) and not packed:
                images = " (fgvc-aircraft-2013b-annotations has the lists alone)" if missing[0] == "images" else ""
                raise ValueError(f"{folder} is incomplete: it lacks {missing[0]}{images}. {AIRCRAFT.source}")
    except PermissionError as error:
        raise forbidden(error) from error
    return locate(root, AIRCRAFT, unpack) / "data"


def read_labels(path: Path) -> dict[str, str]:
    """A list of lines "number label": number, as it is written -> label, which may hold spaces and slashes."""
    labels: dict[str, str] = {}
    for number, line in read_lines(path):
        name, *label = line.split(maxsplit=1)
        if not (label and name.isascii() and name.isdecimal()):
            raise ValueError(f"{path}, line {number}: {line!r:.60} is not of the form 'number label'")
        if name in labels:
            raise ValueError(f"{path}, line {number}: image {name} stands there twice")
        labels[name] = label[0]
    if not labels:
        raise ValueError(f"{path} is empty: unpack the archive again")
    return labels


def read_classes(path: Path, used: set[str]) -> tuple[str, ...]:
    """The names of the classes, one a line. ``used`` are the labels that images have.

    The first line of some copies is a header. It is taken for one, and left out, when no image uses it and it is not
    written like a name: it has neither a capital letter nor a digit, begins with # or %, has no other words than
    those of HEADER, or is the number of the lines after it.
    """
    names = [line for _, line in read_lines(path)]
    if not names:
        raise ValueError(f"{path} is empty: unpack the archive again")
    first = names[0]
    unlike_a_name = (
        first[0] in "#%"
        or not any(letter.isupper() or letter.isdigit() for letter in first)
        or set(first.lower().strip(":").split()) <= HEADER
        or first == str(len(names) - 1)
    )
    if first not in used and unlike_a_name:
        del names[0]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return tuple(names)


def read_boxes(path: Path, names: Sequence[str]) -> Tensor:
    """Boxes (N, 4) left, top, width, height of the images ``names``. The file has the first and the last column and
    row that belong to the box, counted from 1.
    """
    boxes: dict[str, tuple[float, ...]] = {}
    for number, line in read_lines(path):
        name, *corners = line.split()
        try:
            left, top, right, bottom = map(int, corners)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {line!r:.60} is not of the form 'number xmin ymin xmax ymax'"
            ) from error
        if not (1 <= left <= right and 1 <= top <= bottom):
            raise ValueError(f"{path}, line {number}: {line!r:.60} is no box: values count from 1, min to max")
        if name in boxes:
            raise ValueError(f"{path}, line {number}: image {name} stands there twice")
        boxes[name] = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    if absent := [name for name in names if name not in boxes]:
        raise ValueError(f"{path} has no box of image {absent[0]}: unpack the archive again")
    return torch.tensor([boxes[name] for name in names], dtype=torch.float32)


def without_banner(boxes: Tensor, listing: Listing) -> Tensor:
    """Boxes (N, 4) that end where the images do once ``listing.banner`` rows are cut off."""
    with ThreadPoolExecutor(8) as pool:  # thousands of files, each waited for: the threads wait together
        heights = list(pool.map(height, (listing.folder / path for path in listing.paths)))
    bottom = torch.tensor(heights, dtype=torch.float32) - listing.banner
    left, top, width, tall = boxes.unbind(1)
    outside = (top >= bottom).nonzero().flatten().tolist()
    if outside:
        raise ValueError(
            f"{listing.folder / listing.paths[outside[0]]} is {heights[outside[0]]} pixels high: nothing of its box is "
            f"left above the banner's {listing.banner} rows; put the original back, or give banner=True"
        )
    return torch.stack([left, top, width, torch.minimum(tall, bottom - top)], 1)


def height(path: Path) -> int:
    """Height of an image in pixels, from its header. Raises ValueError as ``decode`` does."""
    with opened(path) as image:
        return image.height
