"""What the readers of all sets share: finding a set below a root, and reading lists and .mat files, each failing with
one line that says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cra_smra.data.archives import Archive, Job, Packed, unpack_all

UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2")  # ours, and those of browsers


@dataclass(frozen=True)
class Official:
    """What is known of a set: ``folder`` is the folder its archives unpack to, ``marks`` are entries that lie in it,
    ``classes`` and ``counts`` are those of the complete set, ``per_class`` the least and the most images of a class,
    ``source`` says in words where to get it. ``traps`` are entries by which a usual wrong thing is known, each with
    what to say then.
    """

    name: str
    title: str
    folder: str
    marks: tuple[str, ...]
    archives: tuple[Archive, ...]
    source: str
    classes: int
    counts: dict[str, int] = field(default_factory=dict)
    per_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    traps: dict[str, str] = field(default_factory=dict)

    def check_counts(self, split: str, classes: int, images: int, where: Path) -> None:
        """Raise ValueError when a set with all official classes has not the official number of images."""
        if classes == self.classes and images != self.counts[split]:
            raise ValueError(
                f"{where}: {self.title} has {self.counts[split]:,} {split} images, here are {images:,}: "
                "the copy is incomplete or changed; unpack the official archive again"
            )


# --- finding


def locate(root: str | Path, official: Official, unpack: bool = True) -> Path:
    """The folder of the set: ``root`` itself, the official folder in it, or one doubled by unpacking into a folder of
    the same name. Archives that lie in ``root`` are unpacked there first.

    Raises ValueError when nothing is found or may not be read, RuntimeError when unpacking fails, and without
    ``unpack`` Packed instead of unpacking.
    """
    root = existing_folder(root, official)
    try:
        if found := complete_folder(root, official):
            return found
        if official.archives and all((root / archive.name).exists() for archive in official.archives):
            into = root / official.folder
            if into.exists():
                lacking = missing_marks(nearest_folder(root, official), official)
                raise ValueError(f"{into} is incomplete: it lacks {lacking}; remove it, and it is unpacked anew")
            archives = tuple((root / archive.name, archive) for archive in official.archives)
            if not unpack:
                raise Packed([Job(archives, into, official.marks)])
            unpack_all(archives, into)
            if found := complete_folder(root, official):
                return found
            lacking = missing_marks(nearest_folder(root, official), official)
            raise ValueError(f"{root}: the archives do not hold {official.title}: no {lacking} in them")
        raise ValueError(f"{root} does not hold {official.title}: {what_is_missing(root, official)}. {official.source}")
    except PermissionError as error:
        raise forbidden(error) from error


def candidates(root: Path, official: Official) -> list[Path]:
    """The folders in which the set is looked for."""
    return [root, root / official.folder, root / official.folder / official.folder]


def complete_folder(root: Path, official: Official) -> Path | None:
    """The first of the candidates that has every mark."""
    found = (each for each in candidates(root, official) if all((each / mark).exists() for mark in official.marks))
    return next(found, None)


def nearest_folder(root: Path, official: Official) -> Path:
    """The candidate with the most marks; ``root`` when none has any."""
    return max(candidates(root, official), key=lambda each: sum((each / mark).exists() for mark in official.marks))


def forbidden(error: PermissionError) -> ValueError:
    """One line for a file or folder that may not be read."""
    return ValueError(f"{error.filename} may not be read: its permissions forbid it; change them or copy the set")


def existing_folder(root: str | Path | None, official: Official) -> Path:
    """``root`` as a folder that exists; raises ValueError otherwise."""
    if root is None:
        raise ValueError(f"{official.title} needs a root, the folder it lies in. {official.source}")
    root = Path(root)
    try:
        os.listdir(root)
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no folder {root}: give the one that {official.title} lies in. {official.source}"
        ) from error
    except NotADirectoryError as error:
        raise ValueError(
            f"{root} is a file: give the folder that {official.title} lies in. {official.source}"
        ) from error
    except PermissionError as error:
        raise forbidden(error) from error
    return root


def missing_marks(folder: Path, official: Official) -> str:
    """The first entry of the official layout that ``folder`` lacks."""
    return next(mark for mark in official.marks if not (folder / mark).exists())


def what_is_missing(root: Path, official: Official) -> str:
    """Why ``root`` is not taken for the set, in a few words."""
    names = sorted(entry.name for entry in root.iterdir())
    if not names:
        return "the folder is empty"
    for folder in (root, root / official.folder):
        for entry, text in official.traps.items():
            if (folder / entry).exists():
                return text
    if part := [name for name in names if name.endswith(UNFINISHED)]:
        return f"{part[0]} is a download that was not finished; run the download again"
    absent = [archive.name for archive in official.archives if archive.name not in names]
    if official.archives and len(absent) < len(official.archives):
        return f"{', '.join(absent)} is not there"
    nearest = nearest_folder(root, official)
    lacking = missing_marks(nearest, official)
    if not any((nearest / mark).exists() for mark in official.marks):
        return f"no {lacking} in it, nor in {official.folder}"
    return f"no {lacking} in {'it' if nearest == root else nearest.relative_to(root)}"


# --- lists and .mat files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number from 1 and text of the lines of a list, without blank lines and line ends. Raises ValueError when the
    file is missing or is not text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: the copy is incomplete; unpack the archive again") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, not a list: unpack the archive again") from error
    except PermissionError as error:
        raise forbidden(error) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file: byte {error.start} is not UTF-8; unpack the archive again"
        ) from error
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line.strip(" \t")


def read_table(path: Path, *columns: Callable[[str], Any]) -> dict[int, tuple]:
    """A list whose lines are an id and then ``columns``: id -> values. The last column takes the rest of the line.

    Raises ValueError for a line of another form, and for an id that stands there twice.
    """
    rows: dict[int, tuple] = {}
    for number, line in read_lines(path):
        fields = line.split(maxsplit=len(columns))
        try:
            key, *values = int(fields[0]), *(kind(text) for kind, text in zip(columns, fields[1:], strict=True))
        except ValueError as error:
            expected = " ".join(["id", *(kind.__name__ for kind in columns)])
            raise ValueError(f"{path}, line {number}: {line!r:.60} is not of the form {expected!r}") from error
        if key in rows:
            raise ValueError(f"{path}, line {number}: id {key} stands there twice")
        rows[key] = tuple(values)
    if not rows:
        raise ValueError(f"{path} is empty: unpack the archive again")
    return rows


def read_mat(path: Path, *keys: str) -> dict[str, Any]:
    """The variables ``keys`` of a MATLAB file. Raises ValueError when the file is missing, damaged or lacks one."""
    from scipy.io import loadmat  # late: half a second, and two of the sets need it

    if not path.is_file():
        raise ValueError(f"{path} is missing: the copy is incomplete; unpack the archive again")
    try:
        with open(path, "rb") as file:  # given a name, loadmat would call a forbidden file a missing one
            found = loadmat(file)
    except PermissionError as error:
        raise forbidden(error) from error
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(f"{path} is not a MATLAB file that can be read: unpack the archive again") from error
    if absent := [key for key in keys if key not in found]:
        raise ValueError(f"{path} has no variable {absent[0]!r}: it is not the official file")
    return found
