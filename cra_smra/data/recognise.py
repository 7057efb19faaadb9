"""Which data set lies below a root, and what lies there when it is none of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cra_smra.data.aircraft import AIRCRAFT, find_data
from cra_smra.data.archives import Job, Packed, contents, what_is_wrong
from cra_smra.data.cars import CARS, PACKAGINGS, UNPACKED_FROM, find_parts
from cra_smra.data.cub import CUB
from cra_smra.data.dogs import DOGS
from cra_smra.data.files import UNFINISHED, Official, existing_folder, forbidden, locate
from cra_smra.data.folder import FOLDER, read_folder, visible_folder
from cra_smra.data.groceries import GROCERIES, find_dataset
from cra_smra.data.report import Finding, below, some

OFFICIALS = {each.name: each for each in (CUB, AIRCRAFT, CARS, DOGS, GROCERIES, FOLDER)}
# Of each set that has a layout of its own, a function (root, unpack) -> where its parts lie; it raises ValueError with
# what is missing, and Packed in place of unpacking.
FINDERS: dict[str, Callable[[Path, bool], list[Path]]] = {
    "cub": lambda root, unpack: [locate(root, CUB, unpack)],
    "aircraft": lambda root, unpack: [find_data(root, unpack)],
    "cars": lambda root, unpack: list(find_parts(root, unpack)[1].values()),
    "dogs": lambda root, unpack: [locate(root, DOGS, unpack)],
    "groceries": lambda root, unpack: [find_dataset(root, unpack)],
}
WEAK = {"images", "train"}  # entries that say little: sets of all kinds have them
ANY = Official("", "a data set", "", (), (), "cra-smra data get and data make fetch and draw one", 0)


@dataclass(frozen=True)
class Found:
    """A recognised set: its ``name``, the folder that it lies in, and ``jobs``, what is to be unpacked first. Without a
    name, ``findings`` say what is wrong; with one, what is unusual.
    """

    name: str | None = None
    folder: Path | None = None
    jobs: tuple[Job, ...] = ()
    findings: tuple[Finding, ...] = ()


def recognise(root: Path, name: str | None = None) -> Found:
    """What lies below ``root``; with ``name``, only whether it is that set. Nothing is unpacked or written."""
    try:
        existing_folder(root, OFFICIALS[name] if name else ANY)
    except ValueError as error:
        return Found(findings=(Finding("root", str(error)),))
    if name == "folder":
        return Found("folder", class_folders(root))
    try:
        return official(root, [name] if name else list(FINDERS))
    except PermissionError as error:
        return Found(findings=(Finding("root", str(forbidden(error))),))


def official(root: Path, names: list[str]) -> Found:
    """One of the official sets, or class folders when ``names`` are all of them."""
    there: dict[str, Found] = {}
    lines: dict[str, str] = {}  # why it is not this set
    for name in names:
        try:
            places = FINDERS[name](root, False)
            there[name] = Found(name, Path(os.path.commonpath(places)), (), tuple(remarks(root, name, places)))
        except Packed as packed:
            there[name] = Found(name, root, packed.jobs)
        except ValueError as error:
            lines[name] = str(error)
    if len(there) == 1:
        return next(iter(there.values()))
    if there:
        listed = ", ".join(f"{OFFICIALS[name].title} ({name})" for name in there)
        command = f"cra-smra data check {root} --name {next(iter(there))}"
        return Found(findings=(Finding("several", f"{root} holds {listed}: say which is meant, as in {command}"),))
    nearest = max(names, key=lambda name: evidence(root, name))
    if len(names) == 1 or evidence(root, nearest):
        return Found(findings=(*archive_faults(root, nearest), Finding("set", lines[nearest])))
    return unknown(root)


def evidence(root: Path, name: str) -> int:
    """How many entries below ``root`` speak for a set."""
    known = OFFICIALS[name]
    archives = {archive.name for archive in known.archives}
    signs = {known.folder, *known.traps, *known.marks, *(mark.partition("/")[2] for mark in known.marks)}
    if name == "cars":
        archives |= set(UNPACKED_FROM.values())
        signs |= set(PACKAGINGS["old"]) | set(UNPACKED_FROM)
    signs |= archives | {archive + suffix for archive in archives for suffix in UNFINISHED}
    signs -= WEAK | {""}
    count = 0
    for folder in filter(Path.is_dir, (root, root / known.folder)):
        names = set(os.listdir(folder))  # a disk that takes "images" for "Images" must not decide
        count += sum(sign.split("/")[0] in names and (folder / sign).exists() for sign in signs)
    return count


def archive_faults(root: Path, name: str) -> list[Finding]:
    """What is wrong with the archives of an incomplete set, at a glance: size and a page saved by mistake."""
    found = []
    for archive in OFFICIALS[name].archives:
        path = root / archive.name
        if path.is_file() and (fault := what_is_wrong(path, replace(archive, md5=None))):
            found.append(Finding("archive", f"{path} {fault}: remove it and download it again", (archive.name,)))
    return found


def remarks(root: Path, name: str, places: list[Path]) -> list[Finding]:
    """What is unusual about where a set lies, and harmless."""
    found = []
    for place in places:
        parts = (root.resolve().name, *place.relative_to(root).parts)
        if any(one == other for one, other in zip(parts, parts[1:], strict=False)):
            found.append(Finding("doubled", f"{place} lies in a folder of the same name: read all the same"))
            break
    if name == "cars":
        other = "new" if any(place.name == "cars_annos.mat" for place in places) else "old"
        folder = Path(os.path.commonpath(places))
        if beside := [part for part in PACKAGINGS[other] if (folder / part).exists()]:
            text = f"beside it lies {some(beside)} of the {other} packaging: not read, its numbers are others"
            found.append(Finding("packaging", text))
    return found


def unknown(root: Path) -> Found:
    """Class folders, or one line on what else there is."""
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    if not visible:
        return Found(findings=(Finding("root", f"{root} is empty: put a data set there; {ANY.source}"),))
    try:
        read_folder(root, "train")
        return Found("folder", class_folders(root))
    except ValueError as error:
        reason = str(error)
    if unfinished := [entry.name for entry in visible if entry.name.endswith(UNFINISHED)]:
        text = f"{root / unfinished[0]} is a download that was not finished: run the download again"
        return Found(findings=(Finding("set", text, tuple(unfinished)),))
    folders = [Path(entry.path) for entry in visible if visible_folder(entry)]
    inner = [f"{OFFICIALS[name].title} in {folder}" for folder in folders for name in FINDERS if holds(folder, name)]
    if inner:
        kind, advice = ("several", "one of these folders") if len(inner) > 1 else ("set", "that folder")
        text = f"{root} is not the folder of a set, but holds {', '.join(inner)}: give {advice}"
        return Found(findings=(Finding(kind, text),))
    text = f"{root} holds none of {', '.join(FINDERS)}, and as class folders it does not pass: {reason}"
    return Found(findings=(Finding("set", text),))


def holds(root: Path, name: str) -> bool:
    """Whether a set lies below ``root``, unpacked or not."""
    try:
        FINDERS[name](root, False)
    except Packed:
        return True
    except ValueError:
        return False
    return True


def class_folders(root: Path) -> Path:
    """The folder that holds the class folders or their splits."""
    folders = [entry.name for entry in os.scandir(root) if visible_folder(entry)]
    return root / FOLDER.folder if folders == [FOLDER.folder] else root


def examine(jobs: tuple[Job, ...], title: str, root: Path, fast: bool) -> list[Finding]:
    """What is wrong with archives that are still to be unpacked; nothing is written. With ``fast`` only their sizes are
    looked at, and whether they are web pages; otherwise md5 sums are taken and the archives read through.
    """
    found, room = [], 0
    for job in jobs:
        members: set[str] = set()
        sound = not fast
        for path, archive in job.archives:
            try:
                if fault := what_is_wrong(path, replace(archive, md5=None) if fast else archive):
                    raise ValueError(f"{path} {fault}: remove it and download it again")
                if not fast:
                    sizes = contents(path, job.into)
                    members |= {member.removeprefix("./") for member in sizes}
                    room += sum(sizes.values())
            except PermissionError as error:
                found.append(Finding("archive", str(forbidden(error)), (below(root, path),)))
            except ValueError as error:
                found.append(Finding("archive", str(error), (below(root, path),)))
            else:
                continue
            sound = False
        if sound and (absent := absent_marks(job, members)):
            names = [below(root, path) for path, _ in job.archives]
            found.append(Finding("archive", f"{root}: {some(names)} does not hold {title}: no {absent} in it", names))
    into = jobs[0].into.parent
    if not os.access(into, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        found.append(Finding("room", f"{into} may not be written to, and the archives are unpacked there"))
    elif (free := shutil.disk_usage(into).free) < room:
        found.append(Finding("room", f"{into} has {free:,} bytes free, and unpacking takes {room:,}: make room"))
    return found


def absent_marks(job: Job, members: set[str]) -> str | None:
    """The first mark that will not be where the reader looks for it; ``members`` are names in the archives."""
    own = f"{job.into.name}/"
    if all(member.startswith(own) for member in members):  # then this folder becomes ``into``
        members = {member.removeprefix(own) for member in members}
    folders = {member.rsplit("/", k)[0] for member in members for k in range(1, member.count("/") + 1)}
    lacking = [[mark for mark in job.marks if inner + mark not in members | folders] for inner in ("", own)]
    return next(iter(min(lacking, key=len)), None)
