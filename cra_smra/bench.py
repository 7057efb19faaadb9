"""How long things take: measured here and now, several times in turn, and kept with what they were measured on."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms as v1

from cra_smra.data import READERS, Split
from cra_smra.data.cache import Cached
from cra_smra.data.photographs import Listing, Photographs
from cra_smra.data.transforms import STATISTICS, crop_and_flip, enlarged, normalise, resize_and_crop
from cra_smra.runs import provenance

REFERENCE = "torchvision v1, normalised"
CUB_SIZE = (500, 375)  # pixels of a usual photograph of CUB-200-2011, whose files have 98 kB on average


def v1_chain(size: int, train: bool = True) -> v1.Compose:
    """What most code for these sets does to a PIL image: float32 (3, size, size), normalised, image by image. The
    geometry is that of ``resize_and_crop``.
    """
    cut = [v1.RandomCrop(size), v1.RandomHorizontalFlip()] if train else [v1.CenterCrop(size)]
    large = enlarged(size)
    return v1.Compose([v1.Resize((large, large)), *cut, v1.ToTensor(), v1.Normalize(*STATISTICS["imagenet"])])


def draw_photographs(folder: Path, number: int, seed: int = 0) -> Listing:
    """JPEG files of the size in pixels and in bytes that photographs of CUB-200-2011 have: soft colours and grain."""
    rng = np.random.default_rng(seed)
    width, height = CUB_SIZE
    paths = []
    for i in range(number):
        soft = Image.fromarray(rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8))
        pixels = np.asarray(soft.resize(CUB_SIZE, Image.Resampling.BICUBIC)) + rng.normal(0, 13, (height, width, 3))
        paths.append(f"{i:05d}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / paths[-1], quality=90)
    return Listing(folder, tuple(paths), torch.zeros(number, dtype=torch.int64), ("a", "b"))


def data_chains(listing: Listing, image_size: int, cache: Path) -> dict[str, Callable[[list[int]], Tensor]]:
    """Name -> function of the numbers of some images that loads them as a training batch (B, 3, S, S): from the files
    by torchvision's older transforms, by ours, and from a cache; ours uint8, and normalised on this core as well.
    """
    chain = v1_chain(image_size)
    photographs = Split(Photographs(listing), range(len(listing.paths)), resize_and_crop(image_size, train=True))
    cached = Split(Cached(listing, image_size, cache), range(len(listing.paths)), crop_and_flip(image_size, train=True))

    def reference(indices: list[int]) -> Tensor:
        pictures = [Image.open(listing.folder / listing.paths[i]).convert("RGB") for i in indices]
        return default_collate([(chain(picture), 0) for picture in pictures])[0]

    def load(split: Split, indices: list[int]) -> Tensor:
        return default_collate([split[i] for i in indices])[0]

    return {
        REFERENCE: reference,
        "without cache": lambda indices: load(photographs, indices),
        "without cache, normalised": lambda indices: normalise(load(photographs, indices)),
        "with cache": lambda indices: load(cached, indices),
        "with cache, normalised": lambda indices: normalise(load(cached, indices)),
    }


def bench_data(
    name: str | None = None,
    root: str | Path | None = None,
    *,
    image_size: int = 448,
    images: int = 100,
    batch_size: int = 20,
    repeats: int = 7,
) -> dict[str, object]:
    """How fast training images are loaded by one process with one thread: milliseconds for an image and what
    ``data_chains`` are worth against ``torchvision v1``, with provenance, ready for JSON.

    The images are the first of the training list of the set ``name`` in ``root``, or drawn ones of the size of CUB's.
    All chains load all images once before it begins, so files and cache are in memory, then ``repeats`` times in turn.
    Raises ValueError for numbers below 1 and for a set that cannot be read.
    """
    for what, value in (("images", images), ("batch_size", batch_size), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, got {value}")
    if (name is None) != (root is None) or name not in (None, *READERS):
        raise ValueError(f"give a set ({', '.join(READERS)}) and its root, or neither; got {name!r} and {root!r}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            if name is None:
                listing = draw_photographs(Path(temporary), images)
            else:
                listing = READERS[name](root, "train")
                listing = replace(listing, paths=listing.paths[:images], targets=listing.targets[:images], boxes=None)
            sizes = [(listing.folder / path).stat().st_size for path in listing.paths]
            chains = data_chains(listing, image_size, Path(temporary) / "cache")
            seconds = in_turn(chains, len(sizes), batch_size, repeats)
            return {
                "benchmark": "data",
                "dataset": name or "drawn",
                "images": len(sizes),
                "file_bytes": sum(sizes) / len(sizes),
                "image_size": image_size,
                "batch_size": batch_size,
                "repeats": repeats,
                "chains": {chain: summary(seconds[chain], seconds[REFERENCE], len(sizes)) for chain in chains},
                **provenance(torch.device("cpu")),
            }
    finally:
        torch.set_num_threads(threads)


def in_turn(
    chains: dict[str, Callable[[list[int]], Tensor]], number: int, batch_size: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds that each chain takes for ``number`` images, for each of the ``repeats``; the chains alternate, so that
    what else the machine does meets all of them.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    batches = [list(range(start, min(start + batch_size, number))) for start in range(0, number, batch_size)]
    seconds: dict[str, list[float]] = {name: [] for name in chains}
    for repeat in tqdm(range(-1, repeats), desc="bench data", leave=False):
        for name, load in chains.items():
            began = time.perf_counter()
            for indices in batches:
                load(indices)
            if repeat >= 0:  # the round before fills the memory
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: list[float], reference: list[float], images: int) -> dict[str, object]:
    """Median and range of the milliseconds for an image, and of how many times faster than the reference it is in the
    same round.
    """
    milliseconds = [1000 * each / images for each in seconds]
    times = [other / each for each, other in zip(seconds, reference, strict=True)]
    return {
        "ms_per_image": statistics.median(milliseconds),
        "ms_per_image_range": [min(milliseconds), max(milliseconds)],
        "images_per_s": 1000 / statistics.median(milliseconds),
        "times_faster": statistics.median(times),
        "times_faster_range": [min(times), max(times)],
    }
