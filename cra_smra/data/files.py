"""What the readers of all sets share: finding a set below a root, unpacking its archives, and reading lists and .mat
files, each failing with one line that says what to do.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """An official file of a set: its name, where it can be fetched (None: nowhere any more), md5 and size in bytes
    where they are known.
    """

    name: str
    url: str | None = None
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Official:
    """What is known of a set: ``folder`` is the folder its archives unpack to, ``marks`` are entries that lie in it,
    ``classes`` and ``counts`` are those of the complete set, ``source`` says in words where to get it. ``traps`` are
    entries by which a usual wrong thing is known, each with what to say then.
    """

    name: str
    title: str
    folder: str
    marks: tuple[str, ...]
    archives: tuple[Archive, ...]
    source: str
    classes: int
    counts: dict[str, int] = field(default_factory=dict)
    traps: dict[str, str] = field(default_factory=dict)

    def check_counts(self, split: str, classes: int, images: int, where: Path) -> None:
        """Raise ValueError when a set with all official classes has not the official number of images."""
        if classes == self.classes and images != self.counts[split]:
            raise ValueError(
                f"{where}: {self.title} has {self.counts[split]:,} {split} images, here are {images:,}: "
                "the copy is incomplete or changed; unpack the official archive again"
            )


# --- finding and unpacking


def locate(root: str | Path, official: Official) -> Path:
    """The folder of the set: ``root`` itself, the official folder in it, or one doubled by unpacking into a folder of
    the same name. Archives that lie in ``root`` are unpacked there first.

    Raises ValueError when nothing is found or may not be read, RuntimeError when unpacking fails.
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
            unpack_all([(root / archive.name, archive) for archive in official.archives], into)
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
    if any(part := [name for name in names if name.endswith(".part")]):
        return f"{part[0]} is a download that was not finished; run the download again"
    absent = [archive.name for archive in official.archives if archive.name not in names]
    if official.archives and len(absent) < len(official.archives):
        return f"{', '.join(absent)} is not there"
    nearest = nearest_folder(root, official)
    lacking = missing_marks(nearest, official)
    if not any((nearest / mark).exists() for mark in official.marks):
        return f"no {lacking} in it, nor in {official.folder}"
    return f"no {lacking} in {'it' if nearest == root else nearest.relative_to(root)}"


def unpack_all(archives: Sequence[tuple[Path, Archive]], into: Path) -> None:
    """Unpack archives, checked first, into the folder ``into``, which appears complete or not at all.

    Where all members lie below one folder called as ``into``, that folder becomes ``into``. Raises ValueError for a
    wrong or damaged archive, RuntimeError when the disk is full or may not be written to.
    """
    draft = None
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        for path, archive in archives:
            verify(path, archive)
            unpack(path, draft)
        inner = draft / into.name
        draft.chmod(0o755)
        os.rename(inner if inner.is_dir() and len(list(draft.iterdir())) == 1 else draft, into)
    except OSError as error:
        if into.exists():  # another process unpacked the same archives and was faster
            return
        raise RuntimeError(
            f"{', '.join(str(path) for path, _ in archives)} cannot be unpacked into {into.parent} "
            f"({error.strerror or error}): see to its room and its permissions; nothing of it was left there"
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def verify(path: Path, archive: Archive) -> None:
    """Raise ValueError when the file is not the official archive: its size, its md5, or a page saved by mistake."""
    if fault := what_is_wrong(path, archive):
        raise ValueError(f"{path} {fault}: remove it and download it again")


def what_is_wrong(path: Path, archive: Archive) -> str | None:
    """Why a file is not the official archive, in a few words; None when nothing speaks against it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if size == 0:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page saved under the archive's name"
    if archive.size is not None and size != archive.size:
        return f"has {size:,} instead of {archive.size:,} bytes"
    if archive.md5 is not None and (found := md5(path)) != archive.md5:
        return f"has the md5 sum {found} instead of {archive.md5}"
    return None


def md5(path: Path) -> str:
    """The md5 sum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(path: Path, into: Path) -> None:
    """Unpack a .tar, .tar.gz, .tgz or .zip below ``into``. Raises ValueError when it is damaged, or when a member
    would land outside.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                        raise ValueError(f"{path} is refused: its member {name!r} would be written outside the folder")
                archive.extractall(into)
            return
        with tarfile.open(path) as archive:
            archive.extractall(into, filter=inside)
            while archive.fileobj.read(CHUNK):  # to the end, where a compressed file has its checksum
                pass
    except tarfile.FilterError as error:
        raise ValueError(f"{path} is refused: its member {error.tarinfo.name!r} points outside the folder") from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # zipfile's RuntimeError: of a kind that it does not unpack
        raise ValueError(f"{path} is damaged or no archive ({reason}): remove it and download it again") from error


def inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """tarfile's filter "data", which in addition refuses absolute names instead of stripping the slash."""
    if member.name.startswith(("/", "\\")):
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, folder)


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
