"""The data sets behind one door, ``load_dataset``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cra_smra.data.birds import Birds

PROTOCOLS = ("clean", "paper")
DATASETS = ("birds",)
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

    @property
    def boxes(self) -> Tensor:
        """Bounding boxes (N, 4) in pixels: left, top, width, height."""
        return self.base.boxes[self.indices]

    @property
    def part_locations(self) -> Tensor:
        """Centres of the parts (N, P, 3) in pixels: x, y, and 1 where the part is visible."""
        return self.base.part_locations[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.base[self.indices[index]]
        return image if self.transform is None else self.transform(image), label


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
    root: str | None = None,
    split: str = "train",
    protocol: str = "clean",
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    **options: object,
) -> Split:
    """A torch Dataset of (uint8 tensor (3, H, W), or ``transform`` of it, label),
    labels from 0.

    ``name`` is "birds", which is drawn, not read, and needs no ``root``; ``options`` go
    to ``Birds`` (num_classes, per_class, size, difficulty, seed). ``split`` is
    "train", "val" or "test". Protocol "clean" holds out a tenth of each class's
    training images as "val"; protocol "paper" trains on all of them and has no "val".
    The test images are the same in both. The result has ``classes``, ``class_to_idx``,
    ``targets``, ``fingerprint``, ``boxes`` and ``part_locations``.

    Raises ValueError for an unknown name, split or protocol.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if split == "val" and protocol == "paper":
        raise ValueError(
            "protocol 'paper' trains on all training images, so it has no split 'val': use 'clean'"
        )
    base = _birds("test" if split == "test" else "train", **options)
    if split == "test" or protocol == "paper":
        indices: Sequence[int] = range(len(base))
    else:
        indices = hold_out(base.targets)[0 if split == "train" else 1]
    return Split(base, indices, transform)
