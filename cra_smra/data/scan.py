"""Looking at every image file of a set: whether it can be read, what is odd about it, and what its bytes are."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cra_smra.data.files import forbidden
from cra_smra.data.folder import IMAGES, UNREAD, visible_folder
from cra_smra.data.photographs import ADVICE, Listing, decode, opened

SMALL = 64  # pixels: a photograph with a shorter side says little, at least once it is enlarged to 448
# What a suffix promises, in Pillow's words; MPO is what some cameras write: a JPEG with further pictures behind it.
FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".bmp": ("BMP", "DIB"),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".gif": ("GIF",),
}


@dataclass(frozen=True)
class Look:
    """What one file is. ``fault`` says why it cannot be read, or is None; ``odd`` holds kinds of findings; ``size`` is
    width, height in pixels, ``digest`` the SHA-256 of the bytes, where they were read.
    """

    path: Path
    fault: str | None = None
    odd: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    digest: str | None = None


def look(path: Path, upright: bool = False, fast: bool = False) -> Look:
    """Read an image as training does, or with ``fast`` its header alone."""
    try:
        if not fast:
            decode(path, upright)
        with opened(path) as image:
            odd, size = oddities(image, path.suffix.lower()), image.size
        if fast:
            return Look(path, None, odd, size)
        with open(path, "rb") as file:
            return Look(path, None, odd, size, hashlib.file_digest(file, "sha256").hexdigest())
    except ValueError as error:
        return Look(path, str(error).removeprefix(f"{path} ").removesuffix(ADVICE))


def oddities(image: Image.Image, suffix: str) -> tuple[str, ...]:
    """What is unusual about an image whose header was read."""
    mode = image.mode
    # Pillow reads colours of 16 bits as 8; how they are packed in the file still tells.
    sixteen = mode.startswith("I") or re.search(";16[BLN]", str(image.tile)) is not None
    found = {
        "16-bit": sixteen,
        "grey": mode in ("1", "L", "LA", "La") and not sixteen,
        "cmyk": mode == "CMYK",
        "palette": mode in ("P", "PA"),
        "alpha": mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info,
        "small": min(image.size) < SMALL,
        "suffix": suffix in FORMATS and image.format not in FORMATS[suffix],
    }
    return tuple(kind for kind, true in found.items() if true)


def look_at_all(files: Mapping[Path, bool], fast: bool, progress: bool) -> list[Look]:
    """Look at many files, each with whether it is to be turned upright; the looks are in the same order."""
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    hidden = {} if progress else {"disable": True}
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(8) as pool,  # a network's files are waited for, and decoding leaves Python's lock
        tqdm(total=len(files), unit="image", desc="reading", **hidden) as bar,
    ):
        warnings.simplefilter("ignore")  # what Pillow warns of is damage of notes that a camera left
        looks = []
        for each in pool.map(lambda path: look(path, files[path], fast), files):
            looks.append(each)
            bar.update()
        return looks


def compare(listings: Iterable[Listing]) -> tuple[list[Path], list[Path]]:
    """The images that are listed and not there, and those that are there and not listed, sorted. Raises ValueError
    when a folder may not be read.

    Folders are those that a listing names and those directly below the listing's own.
    """
    listed: set[Path] = set()
    folders: set[Path] = set()
    there: set[Path] = set()
    try:
        for listing in listings:
            paths = {listing.folder / path for path in listing.paths}
            listed |= paths
            folders |= {path.parent for path in paths}
            folders |= {Path(entry.path) for entry in os.scandir(listing.folder) if visible_folder(entry)}
        for folder in folders:
            if folder.is_dir():
                there |= {Path(entry.path) for entry in os.scandir(folder)}
    except PermissionError as error:
        raise forbidden(error) from error
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is not there: unpack the archive again") from error
    unlisted = [path for path in there - listed if path.name.lower().endswith((*IMAGES, *UNREAD))]
    return sorted(listed - there), sorted(path for path in unlisted if not path.name.startswith("."))


def same_bytes(looks: Iterable[Look]) -> list[list[Path]]:
    """Groups of files with the same bytes, each sorted, in the order of their first."""
    groups: dict[str, list[Path]] = {}
    for each in looks:
        if each.digest is not None:
            groups.setdefault(each.digest, []).append(each.path)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
