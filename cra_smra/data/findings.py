"""What the numbers and the bytes of a set's images say, as findings of a report."""

from __future__ import annotations

import re
from pathlib import Path

from cra_smra.data.cub import CUB
from cra_smra.data.dogs import DOGS
from cra_smra.data.files import Official
from cra_smra.data.photographs import ADVICE, Listing
from cra_smra.data.report import Report, below, number, some
from cra_smra.data.scan import SMALL, Look, same_bytes

SCARCE = 5  # a class with fewer training images is named
# What is harmless about an image: what it is called, and what becomes of it.
ODD = {
    "grey": ("grey image", "three equal channels are made of each"),
    "16-bit": ("16-bit image", "scaled to 8 bits"),
    "cmyk": ("CMYK image", "printing colours are turned into red, green and blue"),
    "alpha": ("transparent image", "the transparency is dropped"),
    "palette": ("palette image", "colours are looked up"),
    "small": ("small image", f"a side is shorter than {SMALL} pixels; enlarged for the network"),
    "suffix": ("misnamed image", "the format is not what the suffix says; read as what it is"),
}
# Folders that are called like the classes of an official set were made of it, by a split that nobody can tell.
MADE_OF = {CUB.title: r"\d{3}\.\w", DOGS.title: r"n\d{8}-\w"}


def count_classes(report: Report, listings: dict[str, Listing], known: Official) -> None:
    """Images of each class, beside those of the complete set."""
    report.official_classes, report.official = known.classes, dict(known.counts)
    report.official_per_class = dict(known.per_class)
    for split, listing in listings.items():
        report.classes = len(listing.classes)
        counts = listing.targets.bincount(minlength=len(listing.classes)).tolist()
        report.per_class[split] = dict(zip(listing.classes, counts, strict=True))
    for split, numbers in report.per_class.items():
        low, high = known.per_class.get(split, (0, 0))
        outside = [f"{name} ({n})" for name, n in numbers.items() if high and not low <= n <= high]
        if outside and report.classes == known.classes:
            text = f"{some(outside)}: the complete set has {low} to {high} {split} images a class"
            report.add("counts", f"{text}; somebody changed the lists, get them again")
    if listings and known.classes and report.classes != known.classes:
        text = f"the complete set has {known.classes} classes: this is a part of it or a made set. Training works, but "
        report.add("part", text + "its accuracies are not comparable with those of the set")
    if report.classes == 1:
        report.add("few", "there is one class only: at least 2 are needed")
    if report.set == "folder":
        for title, pattern in MADE_OF.items():
            names = [name for numbers in report.per_class.values() for name in numbers]
            if names and all(re.match(pattern, name) for name in names):
                text = f"the folders are called like the classes of {title}, whose official split is lost in them"
                report.add("split", f"{text}; use the official archives to compare with anything")
    train = report.per_class.get("train", {})
    lone = [f"{name} ({n})" for name, n in train.items() if n < 2] if "val" not in report.per_class else []
    if lone:
        text = f"{some(lone)}: a class needs at least 2 training images, one of which is held out for validation; add "
        report.add("few", text + "some, or train with --protocol paper")
    if few := [f"{name} ({n})" for name, n in train.items() if n < SCARCE and f"{name} ({n})" not in lone]:
        report.add("scarce", f"{some(few)}: fewer than {SCARCE} training images; little can be learnt from them")
    if none := [name for name, n in report.per_class.get("val", {}).items() if n == 0]:
        report.add("validation", f"{some(none)}: no validation image; the epoch is chosen by the other classes")


def describe_images(report: Report, root: Path, looks: list[Look]) -> None:
    """Images that cannot be read, and those that are unusual."""
    report.images = len(looks)
    if broken := [each for each in looks if each.fault]:
        named = [f"{below(root, each.path)} {each.fault}" for each in broken]
        text = f"{number(len(broken), 'image')} that cannot be read{ADVICE} ({some(named)})"
        report.add("unreadable", text, [below(root, each.path) for each in broken])
    if whole := [each for each in looks if not each.fault]:
        sides = [side for each in whole for side in each.size]
        report.sides = (min(sides), max(sides))
    for kind, (thing, text) in ODD.items():
        if names := [below(root, each.path) for each in looks if kind in each.odd]:
            report.add(kind, f"{number(len(names), thing)}: {text} ({some(names)})", names)


def compare_images(report: Report, root: Path, looks: list[Look], listings: dict[str, Listing]) -> None:
    """Images with the same bytes: under two labels, in two splits, twice in one."""
    place = {
        listing.folder / path: (split, listing.classes[label])
        for split, listing in listings.items()
        for path, label in zip(listing.paths, listing.targets.tolist(), strict=True)
    }
    pairs: dict[str, list[tuple[Path, Path]]] = {"conflict": [], "leak": [], "repeated": []}
    for group in same_bytes(looks):
        # Each file beside the first that it contradicts: a group of n has n - 1 pairs at most, not n * n.
        for kind, index in (("conflict", 1), ("leak", 0)):
            others = [path for path in group[1:] if place[path][index] != place[group[0]][index]]
            pairs[kind] += [(group[0], path) for path in others]
        seen: dict[tuple[str, str], Path] = {}
        for path in group:
            if path != (first := seen.setdefault(place[path], path)):
                pairs["repeated"].append((first, path))
    texts = {
        "conflict": "under two labels, one of which is wrong; put it right in the lists, or take both out",
        "leak": "in two splits: what is measured on it is memory; take it out of one",
        "repeated": "twice in one class; take it out once",
    }
    for kind, text in texts.items():
        if pairs[kind]:
            named = [f"{below(root, one)} = {below(root, other)}" for one, other in pairs[kind]]
            files = sorted({below(root, path) for pair in pairs[kind] for path in pair})
            report.add(kind, f"{number(len(named), 'image')} {text} ({some(named)})", files)
