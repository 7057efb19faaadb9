"""The data sets behind one door, ``load_dataset``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cra_smra.data.aircraft import read_aircraft
from cra_smra.data.birds import Birds
from cra_smra.data.cache import Cached
from cra_smra.data.cars import read_cars
from cra_smra.data.cub import read_cub
from cra_smra.data.dogs import read_dogs
from cra_smra.data.folder import read_folder
from cra_smra.data.groceries import read_groceries
from cra_smra.data.photographs import Photographs

PROTOCOLS = ("clean", "paper")
# One function for each set: (root, split, **options) -> Listing, or None for a "val" that the set has not.
READERS = {
    "cub": read_cub,
    "aircraft": read_aircraft,
    "cars": read_cars,
    "dogs": read_dogs,
    "folder": read_folder,
    "groceries": read_groceries,
}
DATASETS = ("birds", *READERS)
HELD_OUT = (
    0.1  # the share of each class's training images that protocol "clean" keeps for validation
)


class Split(Dataset):
    """Some images of a set, seen through a transform; ``base`` is the set, ``indices``
    say which of its images.
    """

    def __init__(
        self, base: Dataset, indices: Sequence[int], transform: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.base, self.indices, self.transform = base, list(indices), transform
        self.classes, self.class_to_idx = base.classes, base.class_to_idx
        self.targets = base.targets[self.indices]  # (N,)
        self.fingerprint = base.fingerprint
        self._seed: Tensor | None = None  # int64

    def seed_draws(self, seed: int) -> None:
        """From now on let what the transform draws for an image depend on ``seed`` and the image alone: not on the
        process that loads it, nor on what was drawn before. To be called before every epoch, first before processes
        that load images are started; those learn of a new seed through shared memory.
        """
        if self._seed is None:
            self._seed = torch.zeros((), dtype=torch.int64).share_memory_()
        self._seed.fill_(seed % 2**63)

    @property
    def boxes(self) -> Tensor | None:
        """Bounding boxes (N, 4) in pixels: left, top, width, height; None for a set without."""
        return None if self.base.boxes is None else self.base.boxes[self.indices]

    @property
    def part_locations(self) -> Tensor | None:
        """Centres of the parts (N, P, 3) in pixels: x, y, and 1 where the part is visible; None for a set without."""
        return None if self.base.part_locations is None else self.base.part_locations[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.base[self.indices[index]]
        if self.transform is None:
            return image, label
        if self._seed is None:
            return self.transform(image), label
        with torch.random.fork_rng(devices=()):
            mixed = np.random.SeedSequence((self._seed.item(), index)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(mixed[0]))
            return self.transform(image), label


def hold_out(
    targets: Tensor, share: float = HELD_OUT, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Split images by class: indices to train on, and indices held out, at least one of
    every class.

    ``targets`` (N,) are the labels. The choice depends on ``seed`` alone. Raises
    ValueError when a class has fewer than two images, since it could then not be in
    both parts.
    """
    generator = torch.Generator().manual_seed(seed)
    held: list[int] = []
    for label in targets.unique().tolist():
        members = (targets == label).nonzero().flatten()  # indices of this class
        if len(members) < 2:
            raise ValueError(
                f"class {label} has {len(members)} training image: at least 2 are needed to hold one out"
            )
        order = torch.randperm(len(members), generator=generator)
        held += members[order[: max(1, round(share * len(members)))]].tolist()
    kept = set(range(len(targets))) - set(held)
    return sorted(kept), sorted(held)


@lru_cache(maxsize=4)
def _birds(split: str, **options: object) -> Birds:
    """Rendered birds, kept, so that the training and the held-out part of one set are
    rendered once.
    """
    return Birds(split, **options)


def load_dataset(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    protocol: str = "clean",
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    cache: str | Path | None = None,
    image_size: int = 448,
    **options: object,
) -> Split:
    """A torch Dataset of (uint8 tensor (3, H, W), or ``transform`` of it, label),
    labels from 0.

    ``name`` is one of DATASETS. "birds" are drawn, not read, and need no ``root``;
    ``options`` go to ``Birds`` (num_classes, per_class, size, difficulty, seed). The
    others are photographs below ``root``, in their official layout; ``options`` go to
    the reader, for instance ``level="family"`` of "aircraft".

    ``split`` is "train", "val" or "test". Protocol "clean" trains on a part of the
    training images and keeps the rest as "val": a tenth of each class, or the set's own
    validation list where it has one ("groceries", "folder"). Protocol "paper" trains on
    all training images and has no "val". The test images are the same in both.

    With ``cache``, a folder, photographs are decoded once and kept there: ``transform``
    gets them resized to 550/448 of ``image_size`` in both directions, see ``Cached``.

    The result has ``classes``, ``class_to_idx``, ``targets``, ``fingerprint`` and,
    where the set has them, ``boxes`` and ``part_locations``.

    Raises ValueError for an unknown name, split or protocol, for a root that does
    not hold the set, and for a cache of the birds, which are not decoded.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if cache is not None and name == "birds":
        raise ValueError(f"birds are drawn, not decoded, so there is nothing to keep in {cache}: give no cache")
    if split == "val" and protocol == "paper":
        raise ValueError(
            "protocol 'paper' trains on all training images, so it has no split 'val': use 'clean'"
        )

    def whole(part: str) -> Dataset | None:
        if name == "birds":
            return None if part == "val" else _birds(part, **options)
        listing = READERS[name](root, part, **options)
        if listing is None:
            return None
        return Photographs(listing) if cache is None else Cached(listing, image_size, cache)

    if split == "test":
        base, indices = whole("test"), None
    elif own := whole("val"):  # the set's own validation images
        base, indices = own if split == "val" else whole("train"), None
    else:
        base = whole("train")
        indices = None if protocol == "paper" else hold_out(base.targets)[split == "val"]
    return Split(base, range(len(base)) if indices is None else indices, transform)
