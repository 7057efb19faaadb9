"""Photographs on disk as a data set: what a reader returns, and the Dataset that decodes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

ADVICE = ": put the original back, or remove it, and its line where a list names it"


@dataclass(frozen=True)
class Listing:
    """The images of one split, as a reader finds them.

    ``paths`` (N) are relative to ``folder``, with slashes; ``targets`` (N,) count from 0 in the order of ``classes``;
    ``boxes`` (N, 4) are left, top, width, height in pixels; ``part_locations`` (N, P, 3) x, y and 1 where the part
    ``part_names[p]`` is visible. ``banner`` rows at the bottom of every image are cut off. ``upright`` turns images
    as their camera noted, which the boxes of the official sets do not expect.
    """

    folder: Path
    paths: tuple[str, ...]
    targets: Tensor
    classes: tuple[str, ...]
    boxes: Tensor | None = None
    part_locations: Tensor | None = None
    part_names: tuple[str, ...] = ()
    banner: int = 0
    upright: bool = False

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError(f"{self.folder}: the list names no image")
        if len(self.paths) != len(self.targets):
            raise ValueError(f"{self.folder}: {len(self.paths)} images, but {len(self.targets)} labels")
        twice = len(self.paths) - len(set(self.paths))
        if twice:
            seen: set[str] = set()
            name = next(path for path in self.paths if path in seen or seen.add(path))
            raise ValueError(f"{self.folder}: the list names {name} more than once")
        if len(set(self.classes)) < len(self.classes):
            name = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"{self.folder}: two classes are called {name!r}")
        if self.boxes is not None and not (len(self.boxes) == len(self.paths) and self.boxes.isfinite().all()):
            raise ValueError(f"{self.folder}: {len(self.boxes)} boxes of {len(self.paths)} images, or one is no number")

    def check_files(self) -> None:
        """Raise ValueError for the first image that is named and not there."""
        there: dict[str, set[str]] = {}  # a folder is read once: thousands of single questions are slow on a network
        for path in self.paths:
            parent, _, name = path.rpartition("/")
            if parent not in there:
                try:
                    there[parent] = set(os.listdir(self.folder / parent))
                except (FileNotFoundError, NotADirectoryError):
                    there[parent] = set()
                except PermissionError as error:
                    raise ValueError(f"{error.filename} may not be read: its permissions forbid it") from error
            if name not in there[parent]:
                raise ValueError(f"{self.folder / path} is listed and not there: unpack the archive again")

    def check_classes(self, split: str) -> None:
        """Raise ValueError when a class has no image."""
        counts = torch.bincount(self.targets, minlength=len(self.classes))
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"{self.folder}: class {self.classes[empty[0]]!r} has no {split} image")


def decode(path: str | Path, upright: bool = False) -> Tensor:
    """An image file as uint8 (3, H, W), whatever its mode: grey, CMYK, palette, transparent (the alpha channel is
    dropped), 16 bits (scaled to 8).

    Raises ValueError, with the file's name, when it is missing, empty, cut short or no image.
    """
    with opened(path) as image:
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, whose range is not known")
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip all of it to white
            grey = np.asarray(image, dtype=np.int64).clip(0, 65535) >> 8
            pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        else:
            if image.mode in ("P", "PA", "LA"):
                image = image.convert("RGBA")
            pixels = np.array(image.convert("RGB"))  # (H, W, 3); a copy, for torch wants to write to it
    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file whose header was read. Raises ValueError, with the file's name, for whatever is wrong with it,
    also when that shows in the block.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not there") from error
    except PermissionError as error:
        raise ValueError(f"{path} may not be read: its permissions forbid it") from error
    except (OSError, SyntaxError, ValueError, EOFError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        what = "is empty" if os.path.getsize(path) == 0 else f"cannot be decoded ({' '.join(str(error).split())})"
        raise ValueError(f"{path} {what}{ADVICE}") from error


class Photographs(Dataset):
    """The images of a listing: (uint8 tensor (3, H, W), label), each of its own size.

    Has ``classes``, ``class_to_idx``, ``targets`` (N,), ``boxes``, ``part_locations``, ``part_names``,
    ``fingerprint`` and ``listing``. Reading a broken image raises ValueError with its name: there is no substitute
    image and no skipping.
    """

    def __init__(self, listing: Listing) -> None:
        listing.check_files()
        self.listing = listing
        self.classes = list(listing.classes)
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        self.targets, self.boxes = listing.targets, listing.boxes
        self.part_locations, self.part_names = listing.part_locations, listing.part_names

    def __len__(self) -> int:
        return len(self.targets)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.listing.folder / self.listing.paths[index]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} images")
        image = decode(self.path(index), self.listing.upright)
        if self.listing.banner:
            if image.shape[1] <= self.listing.banner:
                raise ValueError(
                    f"{self.path(index)} is {image.shape[1]} pixels high: nothing is left below the banner's "
                    f"{self.listing.banner} rows"
                )
            image = image[:, : -self.listing.banner]
        return image, int(self.targets[index])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the names, labels and sizes of the files. Raises ValueError for a
        link to nowhere.
        """
        listing = self.listing
        try:
            sizes = [os.path.getsize(self.path(i)) for i in range(len(self))]
        except FileNotFoundError as error:  # its name was found: a link
            raise ValueError(f"{error.filename} is a link to a file that is not there{ADVICE}") from error
        facts = (listing.paths, listing.targets.tolist(), listing.classes, listing.banner, listing.upright, sizes)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
