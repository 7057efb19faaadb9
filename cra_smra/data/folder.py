"""Images in class folders, such as photographs of one's own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from cra_smra.data.files import Official, existing_folder, forbidden
from cra_smra.data.photographs import Listing

FOLDER = Official(
    name="folder",
    title="a set of class folders",
    folder="class_folders",
    marks=(),
    archives=(),
    source="Put the images of a class into train/CLASS and test/CLASS below it, or into CLASS alone",
    classes=0,
)
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
UNREAD = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".nef", ".cr2", ".arw", ".svg", ".psd")
VALIDATION = ("val", "valid", "validation")
TEST_SHARE = 5  # without a folder "test", one image of so many of each class is a test image


def read_folder(root: str | Path, split: str) -> Listing | None:
    """The images of "train", "val" or "test", without boxes; None for "val" where there is none.

    ``root`` holds train/CLASS/image and test/CLASS/image, and val/CLASS/image if wanted (also called valid or
    validation). Or it holds CLASS/image alone: then a fifth of each class, at least one image, are test images,
    chosen by a hash of class and file name, the same on every machine and in every order. A root whose only set lies
    in a folder class_folders is taken too. Labels count from 0 in the order of the sorted class names, and train and
    test must have the same classes; "val" may lack some. Images are turned as their camera noted.

    Images are files with one of the suffixes in IMAGES, in upper or lower case. Hidden files and files of another
    kind, such as Thumbs.db or README.txt, are left alone; images of a kind that is not read (UNREAD), images outside
    the class folders, folders inside them and classes without images raise ValueError, since images would be lost.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    root = existing_folder(root, FOLDER)
    try:
        if [entry.name for entry in os.scandir(root) if visible_folder(entry)] == [FOLDER.folder]:
            root = root / FOLDER.folder
        return read_split(root, split) if split_folders(root) else read_share(root, split)
    except PermissionError as error:
        raise forbidden(error) from error


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder; empty when ``root`` holds the classes themselves."""
    there = {entry.name for entry in os.scandir(root) if visible_folder(entry)}
    validation = [name for name in VALIDATION if name in there]
    if len(validation) > 1:
        raise ValueError(f"{root} has both of {validation[0]} and {validation[1]}: remove or rename one of them")
    names = {"train": "train", "test": "test", "val": validation[0] if validation else "val"}
    found = {split: root / name for split, name in names.items() if name in there}
    if found and not {"train", "test"} <= found.keys():
        lacking = "test" if "train" in found else "train"
        raise ValueError(
            f"{root} has {min(path.name for path in found.values())} but no {lacking}: it must have train and test, or "
            "the class folders alone"
        )
    return found


def read_split(root: Path, split: str) -> Listing | None:
    """The images of a split that has a folder of its own."""
    folders = split_folders(root)
    if split not in folders:
        return None
    classes = {part: class_images(folder) for part, folder in folders.items()}
    for part, other in (("test", "train"), ("train", "test"), ("val", "train")):
        unknown = sorted(classes.get(part, {}).keys() - classes[other].keys())
        if unknown:
            raise ValueError(
                f"{folders[part] / unknown[0]} is a class that {folders[other]} has not: both must have the same "
                "folders, in the same upper and lower case"
            )
    check_number(folders["train"], classes["train"])
    return as_listing(folders[split], classes[split], sorted(classes["train"]))


def read_share(root: Path, split: str) -> Listing | None:
    """The images of a split where ``root`` holds the class folders themselves."""
    if split == "val":
        return None
    classes = class_images(root)
    check_number(root, classes)
    chosen: dict[str, list[str]] = {}
    for name, images in classes.items():
        if len(images) < 2:
            raise ValueError(f"{root / name} has one image: at least 2 are needed, one to train on and one to test on")
        drawn = sorted(images, key=lambda image, name=name: hashlib.sha256(f"{name}/{image}".encode()).digest())
        count = max(1, round(len(images) / TEST_SHARE))
        chosen[name] = sorted(drawn[:count] if split == "test" else drawn[count:])
    return as_listing(root, chosen, sorted(classes))


def class_images(folder: Path) -> dict[str, list[str]]:
    """The class folders in a folder, and the sorted names of the images in each."""
    classes: dict[str, list[str]] = {}
    for entry in os.scandir(folder):
        if visible_folder(entry):
            classes[entry.name] = images_in(Path(entry.path))
        elif entry.name.lower().endswith(IMAGES) and not entry.name.startswith("."):
            raise ValueError(f"{entry.path} lies in no class folder: {FOLDER.source}")
    return classes


def check_number(folder: Path, classes: dict[str, list[str]]) -> None:
    """Raise ValueError when a folder has fewer than two classes."""
    if len(classes) < 2:
        raise ValueError(f"{folder} has {len(classes)} class folders: at least 2 are needed. {FOLDER.source}")


def images_in(folder: Path) -> list[str]:
    """The sorted names of the images in a class folder."""
    names = []
    for entry in os.scandir(folder):
        if visible_folder(entry):
            raise ValueError(f"{entry.path} is a folder inside a class: put its images into {folder} itself")
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(UNREAD):
            raise ValueError(f"{entry.path} cannot be read: convert it to one of {' '.join(IMAGES)}, or remove it")
        if entry.name.lower().endswith(IMAGES):
            names.append(entry.name)
    if not names:
        raise ValueError(f"{folder} has no image ({' '.join(IMAGES)}): put some there, or remove it")
    return sorted(names)


def visible_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder that belongs to the set; an archive packed on a Mac brings __MACOSX along."""
    return entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"


def as_listing(folder: Path, images: dict[str, list[str]], classes: list[str]) -> Listing:
    """The listing of the images of each class below a folder."""
    return Listing(
        folder=folder,
        paths=tuple(f"{name}/{image}" for name in sorted(images) for image in images[name]),
        targets=torch.tensor([classes.index(name) for name in sorted(images) for _ in images[name]]),
        classes=tuple(classes),
        upright=True,
    )
