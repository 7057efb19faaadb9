"""The archives of a set: whether a file is the official one, and unpacking it whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
class Job:
    """Archives that are unpacked together into the folder ``into``, which must then hold the entries ``marks``."""

    archives: tuple[tuple[Path, Archive], ...]
    into: Path
    marks: tuple[str, ...] = ()


class Packed(ValueError):
    """A set is there, and its archives, those of ``jobs``, are still to be unpacked."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = tuple(jobs)
        super().__init__(f"{', '.join(str(path) for job in jobs for path, _ in job.archives)}: not unpacked yet")


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
    with one_line(path):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    check_name(path, name)
                archive.extractall(into)
            return
        with tarfile.open(path) as archive:
            archive.extractall(into, filter=inside)
            read_on(archive)


def contents(path: Path, into: Path) -> dict[str, int]:
    """Names and sizes in bytes of the files in an archive, read through as unpacking it below ``into`` would, and with
    the same errors; nothing is written.
    """
    with one_line(path):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    check_name(path, name)
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"Bad CRC-32 for file {broken!r}")
                return {each.filename: each.file_size for each in archive.infolist() if not each.is_dir()}
        with tarfile.open(path) as archive:
            found = {member.name: member.size for member in archive if inside(member, str(into)) and member.isfile()}
            read_on(archive)
            return found


def check_name(path: Path, name: str) -> None:
    """Raise ValueError when the member ``name`` of a zip would land outside."""
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ValueError(f"{path} is refused: its member {name!r} would be written outside the folder")


def read_on(archive: tarfile.TarFile) -> None:
    """Read to the end, where a compressed file has its checksum."""
    while archive.fileobj.read(CHUNK):
        pass


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Raises ValueError for whatever a damaged archive, or a hostile one, raises."""
    try:
        yield
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
