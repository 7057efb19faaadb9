"""Checking a data set before training on it: what lies there, whether it is whole, and what is odd about its images."""

from __future__ import annotations

from pathlib import Path

from cra_smra.data import READERS, load_dataset
from cra_smra.data.dogs import read_list as read_dogs_list
from cra_smra.data.files import read_table
from cra_smra.data.findings import compare_images, count_classes, describe_images
from cra_smra.data.groceries import read_kinds
from cra_smra.data.photographs import Listing
from cra_smra.data.recognise import FINDERS, OFFICIALS, Found, examine, recognise
from cra_smra.data.report import Report, below, number, some
from cra_smra.data.scan import compare, look_at_all

SPLITS = ("train", "val", "test")
BATCH = 20  # the recipe's own batch_size


def check(
    root: str | Path, name: str | None = None, *, fast: bool = False, unpack: bool = False, progress: bool = True
) -> Report:
    """Look at everything below ``root`` that a training needs, and say whether one can start.

    The set is recognised, or is ``name``: one of cub, aircraft, cars, dogs, groceries, folder. Its lists are read by
    its own reader; images of each class are counted; every image is decoded, in threads, and its bytes are compared
    with those of all others. Whatever is wrong on the disk is a finding of the report, not an error. Archives that
    are not unpacked yet are read through, and stay as they are unless ``unpack``; the images in them are not looked
    at. With ``fast`` only sizes and headers are read: an image that is cut short is not noticed then, nor one that is
    there twice. ``progress`` shows a bar.

    Raises ValueError for an unknown name.
    """
    if name is not None and name not in READERS:
        raise ValueError(f"name must be one of {', '.join(READERS)}, got {name!r}")
    report = Report(str(root), fast=fast)
    root = Path(root)
    found = recognise(root, name)
    for finding in found.findings:
        report.add(finding.kind, finding.text, finding.files)
    if found.name is None:
        return report
    known = OFFICIALS[found.name]
    report.set, report.title, report.folder = found.name, known.title, str(found.folder)
    if found.jobs:
        if not open_archives(report, root, found, unpack):
            return report
        report.folder = str(recognise(root, found.name).folder)
    listings = read_lists(report, root)
    count_classes(report, listings, known)
    look_at_files(report, root, listings, progress)
    if report.can_train:
        try_to_load(report, root)
    return report


def open_archives(report: Report, root: Path, found: Found, unpack: bool) -> bool:
    """Look at archives that are not unpacked, and unpack them if asked for; whether the set lies open then."""
    for finding in examine(found.jobs, report.title, root, report.fast):
        report.add(finding.kind, finding.text, finding.files)
    if report.can_train and unpack:
        try:
            FINDERS[found.name](root, True)
            return True
        except (ValueError, RuntimeError) as error:
            report.add("archive", str(error))
    elif report.can_train:
        names = [below(root, path) for job in found.jobs for path, _ in job.archives]
        text = f"{some(names)}: not unpacked yet; training does it, and --unpack does it now and looks at the images"
        report.add("packed", text, names)
    return False


def read_lists(report: Report, root: Path) -> dict[str, Listing]:
    """The listings of the splits that can be read; what a reader refuses becomes a finding."""
    options = {"banner": True} if report.set == "aircraft" else {}  # then its reader opens no image
    listings = {}
    for split in SPLITS:
        try:
            if listing := READERS[report.set](root, split, **options):
                listings[split] = listing
        except ValueError as error:
            if str(error) not in [finding.text for finding in report.of("layout")]:
                report.add("layout", str(error))
    if listings and (ids := class_ids(report.set, Path(report.folder))):
        if absent := sorted(set(range(min(ids), max(ids))) - ids):
            text = f"the ids of the classes have gaps ({some(map(str, absent))}); labels count from 0 without them"
            report.add("gaps", text)
    return listings


def class_ids(name: str, folder: Path) -> set[int]:
    """The numbers that the lists give to classes; empty for a set without. The reader has passed the lists before."""
    if name == "cub":
        return set(read_table(folder / "classes.txt", str))
    if name == "groceries":
        return set(read_kinds(folder / "classes.csv"))
    if name == "dogs":
        return {label for part in ("train", "test") for label in read_dogs_list(folder / f"{part}_list.mat").values()}
    return set()


def look_at_files(report: Report, root: Path, listings: dict[str, Listing], progress: bool) -> None:
    """Which files are there, what is in them, and which are the same."""
    try:
        missing, unlisted = compare(listings.values())
    except ValueError as error:
        report.add("unreadable", str(error))
        return
    if missing:
        names = [below(root, path) for path in missing]
        text = f"{number(len(names), 'image')} listed and not there: unpack the archive again ({some(names)})"
        report.add("missing", text, names)
    if unlisted and not report.of("layout"):  # the images of a list that could not be read are not too many
        names = [below(root, path) for path in unlisted]
        text = f"{number(len(names), 'image')} that no list names: not used, perhaps of another set ({some(names)})"
        report.add("unlisted", text, names)
    files = {listing.folder / path: listing.upright for listing in listings.values() for path in listing.paths}
    looks = look_at_all({path: files[path] for path in sorted(files.keys() - set(missing))}, report.fast, progress)
    describe_images(report, root, looks)
    compare_images(report, root, looks, listings)


def try_to_load(report: Report, root: Path) -> None:
    """Load the splits as training does: whatever was not thought of here is refused there."""
    try:
        sizes = {split: len(load_dataset(report.set, root, split)) for split in SPLITS}
    except ValueError as error:
        report.add("layout", str(error))
    else:
        report.batch = sizes["train"] if sizes["train"] < BATCH else None
