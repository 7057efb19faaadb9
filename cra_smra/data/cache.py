"""Photographs decoded and resized once, into a file that later epochs, runs and loading processes map into memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from cra_smra.data.photographs import Listing, Photographs
from cra_smra.data.transforms import enlarged, resize

VERSION = 1  # of the pixels: to be raised when decoding or resizing changes what it returns
READERS = 8  # files read at once: on a network disk each is waited for


class Cached(Photographs):
    """The images of a listing as uint8 tensors (3, L, L), resized as ``resize_and_crop`` does; L is 550/448 of
    ``image_size``. Everything else is as in ``Photographs``: boxes and part locations stay in pixels of the originals.

    The pixels come from one file in ``folder``, which is made first where it is not there: N * 3 * L * L bytes. Its
    name follows from the contents of the images, in their order, and from what was done to them, so a changed image
    leads to another file, and the old one is removed. A file of another time or size than before counts as changed
    until its contents have been compared. Labels are never stored.

    Raises ValueError for a broken image, RuntimeError when the disk is full or ``folder`` may not be written to;
    nothing half-written is ever taken for a cache.
    """

    def __init__(self, listing: Listing, image_size: int, folder: str | Path) -> None:
        super().__init__(listing)
        self.shape = (len(self), 3, enlarged(image_size), enlarged(image_size))
        small = resize(image_size)
        self.file = find_or_make(listing, self.shape, Path(folder), lambda i: small(self.original(i)))
        self._pixels: np.memmap | None = None

    def original(self, index: int) -> Tensor:
        """The image (3, H, W) as ``Photographs`` returns it."""
        return super().__getitem__(index)[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} images")
        if self._pixels is None:
            self._pixels = np.memmap(self.file, np.uint8, "r", shape=self.shape)
        return torch.from_numpy(np.array(self._pixels[index])), int(self.targets[index])  # a copy, which may be changed

    def __getstate__(self) -> dict[str, object]:
        # A pickled memmap would carry all pixels to the loading process, which is to map the file itself.
        return self.__dict__ | {"_pixels": None}


def find_or_make(
    listing: Listing, shape: tuple[int, int, int, int], folder: Path, image: Callable[[int], Tensor]
) -> Path:
    """The file of the pixels ``shape`` (N, 3, L, L) of a listing in ``folder``; ``image(i)`` makes those of image i.

    Beside it lies a list of the digests of the images, which belongs to this listing in this place: it spares reading
    all images again as long as their sizes and times are the same.
    """
    facts = (VERSION, shape, listing.banner, listing.upright)
    index = folder / f"index-{shape[-1]}px-{short_digest(facts, str(listing.folder.resolve()), listing.paths)}.json"
    before = read_index(index, len(listing.paths))
    stamps = file_stamps(listing)
    digests = image_digests(listing, stamps, before)
    path = folder / f"images-{shape[-1]}px-{short_digest(facts, digests)}.uint8"
    if not is_whole(path, shape):
        make(listing, path, shape, stamps, image)
    after = {"folder": str(listing.folder.resolve()), "file": path.name, "stamps": stamps, "digests": digests}
    if after != before:
        # In a folder that may only be read the list stays as it is, and the digests are taken again each time.
        with suppress(OSError, ValueError):
            write_index(index, after)
            remove_unused(folder, before.get("file"))
    return path


def short_digest(*facts: object) -> str:
    """16 hexadecimal digits that change with the facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def file_stamps(listing: Listing) -> list[list[int]]:
    """Size, time of the last change of content and time of the last change of any kind (ns) of every image."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(os.stat, (listing.folder / path for path in listing.paths))
        return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns] for each in found]


def image_digests(listing: Listing, stamps: list[list[int]], before: dict) -> list[str]:
    """The digest of every image's bytes; what has the stamp it had ``before`` is not read again."""
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    known = zip(before["digests"], before["stamps"], stamps, strict=True) if before else [(None, 0, 0)] * len(stamps)
    digests = [digest if old == new else None for digest, old, new in known]
    unknown = [i for i, digest in enumerate(digests) if digest is None]

    def take(i: int) -> str:
        try:
            with open(listing.folder / listing.paths[i], "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except PermissionError as error:
            raise ValueError(f"{error.filename} may not be read: its permissions forbid it") from error

    if not unknown:
        return digests
    with ThreadPoolExecutor(READERS) as pool:
        taken = tqdm(pool.map(take, unknown), "compare", len(unknown), unit="image")
        for i, digest in zip(unknown, taken, strict=True):
            digests[i] = digest
    return digests


def is_whole(path: Path, shape: tuple[int, int, int, int]) -> bool:
    """Whether a file of pixels is there in full; it gets its name only when it is, but may have been cut since."""
    return path.is_file() and path.stat().st_size == math.prod(shape)


def make(listing: Listing, path: Path, shape: tuple[int, int, int, int], stamps: list[list[int]],
         image: Callable[[int], Tensor]) -> None:
    """Write the pixels of all images to ``path``, which appears in full or not at all. Processes that fill the same
    folder wait for each other.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for rest in folder.glob("*.part"):  # of processes that were killed: who writes has the lock
                rest.unlink(missing_ok=True)
            if is_whole(path, shape):  # another process was faster
                return
            free, needed = shutil.disk_usage(folder).free, math.prod(shape)
            if free < needed:
                raise RuntimeError(
                    f"{folder} has {free / 1e9:.2f} GB free and the cache of {len(listing.paths):,} photographs needs "
                    f"{needed / 1e9:.2f} GB: make room or choose another folder"
                )
            part = path.with_name(path.name + ".part")
            try:
                write_pixels(part, len(stamps), image)
                if file_stamps(listing) != stamps:
                    raise RuntimeError(f"{listing.folder}: photographs were changed while they were read; start again")
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"the cache {path} cannot be written ({error.strerror or error}): see to the room and the permissions of "
            "its folder; nothing of it was left there"
        ) from error


def write_pixels(path: Path, number: int, image: Callable[[int], Tensor]) -> None:
    """Write images 0 to ``number`` - 1 one after the other. Not through a memory map: on a full disk that would kill
    the process.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    threads, torch_threads = os.cpu_count() or 1, torch.get_num_threads()
    step = 8 * threads  # images in memory at a time
    torch.set_num_threads(1)  # in each of the threads; more of them would wait for each other three times as long
    try:
        with (
            open(path, "wb") as file,
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=number, desc="decode", unit="image") as bar,
        ):
            for start in range(0, number, step):
                for pixels in pool.map(image, range(start, min(start + step, number))):
                    file.write(pixels.contiguous().numpy())
                    bar.update()
            file.flush()
            os.fsync(file.fileno())
    finally:
        torch.set_num_threads(torch_threads)


def read_index(path: Path, number: int) -> dict:
    """The list of the digests of ``number`` images; empty when there is none, or a damaged one: then they are taken
    anew.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(len(found.get(key, ())) == number for key in ("stamps", "digests"))
    return found if whole else {}


def write_index(path: Path, index: dict) -> None:
    """Write the list of digests, in full or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(json.dumps(index))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def remove_unused(folder: Path, name: str | None) -> None:
    """Remove a file of pixels to which no list refers any more. Who has it mapped keeps it until the end."""
    if name and all(json.loads(index.read_text())["file"] != name for index in folder.glob("index-*.json")):
        (folder / name).unlink(missing_ok=True)
