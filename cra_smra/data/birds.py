"""The embedded data set: procedural birds whose species differ by where a colour or a shape sits.

A species is one value for each entry of ``ATTRIBUTES``. All species wear the same four colours on the head and
the same four on the body, on parts of similar size: counting colours says next to nothing about the species.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cra_smra.data.drawing import ATTRIBUTES, NOISE, NOISE_SIZE, PARTS, VERSION, Scene, render

__all__ = ["ATTRIBUTES", "DIFFICULTIES", "NOISE_SIZE", "PARTS", "Birds", "Scene", "noise",
           "portraits", "render", "species", "species_names"]

DIFFICULTIES: dict[str, int] = {"easy": 3, "medium": 2, "hard": 1}  # parts in which the nearest species differ
SPLITS: tuple[str, ...] = ("train", "val", "test")
FAMILY, BATCH_PIXELS = 10, 32 * 96 * 96
_OWNERS = np.array([PARTS.index(part) for part, _ in ATTRIBUTES.values()])  # attribute -> part


def _batch(size: int) -> int:
    return max(1, BATCH_PIXELS // size**2)


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: counters in, well-mixed 64-bit numbers out, the same on every machine."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(*keys: int | np.ndarray, columns: int) -> np.ndarray:
    """(..., columns) in [0, 1), a function of the keys alone; keys broadcast against each other."""
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = _mix(state ^ np.asarray(key, np.uint64))
    state = _mix(state[..., None] + np.arange(columns, dtype=np.uint64))
    return (state >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def noise(split: str, label: Tensor | int, number: Tensor | int, seed: int = 0) -> Tensor:
    """The random numbers (B, NOISE_SIZE) of images ``number`` (B,) of classes ``label`` (B,) in a split."""
    draw = _uniform(seed, 1 + SPLITS.index(split), np.atleast_1d(label), np.atleast_1d(number), columns=NOISE_SIZE)
    return torch.from_numpy(draw)


def _differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Codes (..., A), (..., A) -> (..., P) bool: the parts in which they differ."""
    return np.stack([(a != b)[..., _OWNERS == p].any(-1) for p in range(len(PARTS))], -1)


@lru_cache(maxsize=16)
def _codes(num_classes: int, difficulty: str, seed: int) -> np.ndarray:
    apart, tries = DIFFICULTIES[difficulty], 0

    def draw(n: int) -> np.ndarray:
        nonlocal tries
        tries += 1
        return _uniform(seed, 0, apart, tries, columns=n)[0]

    sizes = [len(values) for _, values in ATTRIBUTES.values()]
    codes = np.zeros((0, len(sizes)), np.int64)
    while len(codes) < num_classes:
        member = len(codes) % FAMILY
        if member == 0:  # a new family, far from the others
            code = (draw(len(sizes)) * sizes).astype(np.int64)
            code[:4], code[4:8] = draw(4).argsort(), draw(4).argsort()
            floor = apart + 3
        else:  # a sibling: exactly `apart` parts from one of its family
            parent = codes[len(codes) - 1 - int(draw(1)[0] * member)]
            code, floor = parent.copy(), apart
            while _differing(code, parent).sum() < apart:
                move = draw(4)
                if move[0] < 0.5:  # two parts of the head, or of the body, swap their colours
                    i, j = (4 if move[1] < 0.5 else 0) + draw(4).argsort()[:2]
                    code[[i, j]] = code[[j, i]]
                else:
                    i = 8 + int(move[1] * (len(sizes) - 8))
                    code[i] = int(move[2] * sizes[i])
            if _differing(code, parent).sum() != apart:
                continue
        if not len(codes) or _differing(codes, code).sum(-1).min() >= floor:
            codes = np.concatenate([codes, code[None]])
    return codes


def check_options(num_classes: int, size: int, difficulty: str, **counts: int) -> None:
    """Raise ValueError, in one line, for an option of the birds that is out of range."""
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {difficulty!r}")
    if not 2 <= num_classes <= 200:
        raise ValueError(f"num_classes must be from 2 to 200, got {num_classes}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    for name, count in counts.items():
        if count < (low := int(name != "seed")):
            raise ValueError(f"{name} must be at least {low}, got {count}")


def species(num_classes: int = 20, difficulty: str = "medium", seed: int = 0) -> Tensor:
    """Codes (K, A) of the species, one column per entry of ``ATTRIBUTES``; fewer classes are a prefix of more.

    No two species differ in fewer than ``DIFFICULTIES[difficulty]`` parts; the nearest differ in exactly as many.
    """
    check_options(num_classes, 32, difficulty, seed=seed)
    return torch.from_numpy(_codes(num_classes, difficulty, seed).copy())


_WORN = {"crown": "crowned", "forehead": "fronted", "nape": "naped", "throat": "throated",
         "breast": "breasted", "belly": "bellied", "back": "backed", "wing": "winged"}
_SHAPED = {"crest": ("", "Crested"), "breast marks": ("", "Streaked", "Banded"),
           "wing marks": ("Bar-winged", "Patch-winged", "Stripe-winged"),
           "tail": ("Square-tailed", "Fork-tailed", "Long-tailed", "Fan-tailed"),
           "eye": ("", "Spectacled", "Masked", "Browed"), "leg": ("Dark-legged", "Orange-legged")}
_NOUNS = ("Finch", "Warbler", "Sunbird", "Starling")  # by the beak


def species_names(codes: Tensor) -> list[str]:
    """A name for each code (K, A), true of the bird and used once: the first free one of its field marks."""
    names: dict[str, None] = {}
    for code in codes.tolist():
        value = dict(zip(ATTRIBUTES, code, strict=True))
        colours = [(ATTRIBUTES[part][1][value[part]], end) for part, end in _WORN.items()]
        colours = sorted((c for c in colours if c[0] != "plain"), key=lambda c: (c[0] == "cream", c[0] == "slate"))
        words = [f"{colour.title()}-{end}" for colour, end in colours]
        words += [kinds[value[name]] for name, kinds in _SHAPED.items() if kinds[value[name]]]
        options = (" ".join([*marks[::-1], _NOUNS[value["beak"]]])
                   for n in range(1, len(words) + 1) for marks in combinations(words, n))
        names[next(name for name in options if name not in names)] = None
    return list(names)


def portraits(num_classes: int = 20, size: int = 256, difficulty: str = "medium", seed: int = 0) -> Tensor:
    """Each species at ease on plain paper, as in a field guide: (K, 3, size, size) float in [0, 1]."""
    check_options(num_classes, size, difficulty, seed=seed)
    neutral = torch.full((1, NOISE_SIZE), 0.5)
    neutral[:, list(NOISE).index("scale")] = 1.0  # as large as it gets
    return torch.cat([render(codes, neutral.expand(len(codes), -1), size, scenery=False, parts=False).image
                      for codes in species(num_classes, difficulty, seed).split(_batch(size))])


class Birds(Dataset):
    """Birds of ``num_classes`` species, ``per_class`` images each, sorted by class; (uint8 CHW tensor, label).

    split        "train", "val" or "test"; no two share an image
    num_classes  2 to 200
    size         pixels per side, at least 32
    difficulty   "easy", "medium" or "hard": the nearest species differ in 3, 2 or 1 parts
    seed         of the species and of the images, at least 0
    transform    applied to the uint8 tensor (3, size, size)
    device       where images are rendered; they are kept on the CPU

    Image j of a class is a function of (seed, split, class, j): more images or classes leave it as it is, and
    another size shows the same scene. All are rendered once, at the first access. ``images`` (N, 3, S, S)
    uint8; ``boxes`` (N, 4) x, y, width, height in pixels around what shows of the bird; ``part_locations``
    (N, P, 3) x, y and 1 where the part shows, zeros where it is covered or outside. Pixel i spans [i, i + 1).

    Raises ValueError for a value outside its range.
    """

    def __init__(self, split: str = "train", *, num_classes: int = 20, per_class: int = 100, size: int = 96,
                 difficulty: str = "medium", seed: int = 0, transform: Callable[[Tensor], Tensor] | None = None,
                 device: str | torch.device = "cpu") -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        check_options(num_classes, size, difficulty, per_class=per_class, seed=seed)
        self.split, self.num_classes, self.per_class, self.size = split, num_classes, per_class, size
        self.difficulty, self.seed, self.transform, self.device = difficulty, seed, transform, device
        self.codes = species(num_classes, difficulty, seed)  # (K, A)
        self.classes = species_names(self.codes)
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        self.targets = torch.arange(num_classes).repeat_interleave(per_class)  # (N,)
        self._rendered: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a set of {len(self)} images")
        image = self.images[index]
        return image if self.transform is None else self.transform(image), int(self.targets[index])

    images = property(lambda self: self._all()[0], doc="(N, 3, S, S) uint8")
    boxes = property(lambda self: self._all()[1], doc="(N, 4) float: x, y, width, height in pixels")
    part_locations = property(lambda self: self._all()[2], doc="(N, P, 3) float: x, y in pixels, visible 0 or 1")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything that changes a pixel."""
        facts = (VERSION, self.split, self.num_classes, self.per_class, self.size, self.seed, self.codes.tolist())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def scenes(self, indices: Sequence[int] | Tensor) -> Iterator[Scene]:
        """The images ``indices`` as rendered, with their parts, in batches."""
        for chosen in torch.as_tensor(indices, dtype=torch.long).reshape(-1).split(_batch(self.size)):
            labels = self.targets[chosen]
            draw = noise(self.split, labels, chosen % self.per_class, self.seed)
            with torch.no_grad():
                yield render(self.codes[labels].to(self.device), draw.to(self.device), self.size)

    def masks(self, indices: Sequence[int] | Tensor) -> Tensor:
        """What shows of each part, (B, P, S, S) bool; no pixel belongs to two parts."""
        indices = torch.as_tensor(indices, dtype=torch.long).reshape(-1) % len(self)
        shape = (0, len(PARTS), self.size, self.size)
        none = torch.zeros(shape, dtype=torch.bool)
        return torch.cat([none, *((scene.parts > 0.5).cpu() for scene in self.scenes(indices))])

    def neighbours(self, label: int) -> tuple[int, ...]:
        """The species nearest to ``label``, by the number of parts in which they differ."""
        distance = _differing(self.codes.numpy(), self.codes[label].numpy()).sum(-1)
        distance[label] = len(PARTS) + 1
        return tuple(np.flatnonzero(distance == distance.min()).tolist())

    def distinguishing_parts(self, a: int, b: int | None = None) -> tuple[str, ...]:
        """The parts in which species ``a`` and ``b`` differ; without ``b``, all that tell it from its neighbours."""
        others = self.codes[list(self.neighbours(a) if b is None else (b,))]
        differ = _differing(others.numpy(), self.codes[a].numpy()).any(0)
        return tuple(part for part, yes in zip(PARTS, differ, strict=True) if yes)

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, boxes and part locations of all images, rendered once."""
        from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

        if self._rendered is None:
            parts = torch.arange(len(self)).split(_batch(self.size))
            hidden = {"disable": True} if len(self) <= 1000 else {}  # left out, TQDM_DISABLE decides
            # A thread for each batch is several times faster than all threads on each of a thousand small steps.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with (
                    ThreadPoolExecutor(threads) as pool,
                    tqdm(total=len(parts), desc=f"drawing birds ({self.split})", leave=False, **hidden) as bar,
                ):
                    done = []
                    for measured in pool.map(self._measured, parts):
                        done.append(measured)
                        bar.update()
            finally:
                torch.set_num_threads(threads)
            self._rendered = tuple(torch.cat(column) for column in zip(*done, strict=True))
        return self._rendered

    def _measured(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One batch of ``_all``."""
        return _measure(next(self.scenes(indices)))


def _measure(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as uint8 images (B, 3, S, S), boxes (B, 4) and part locations (B, P, 3)."""
    size = scene.image.shape[-1]
    at = torch.arange(size, device=scene.image.device) + 0.5
    mask = (scene.parts > 0.5).float()  # (B, P, S, S)
    area = mask.sum((2, 3))
    x, y = (mask.sum(2) @ at) / area.clamp_min(1), (mask.sum(3) @ at) / area.clamp_min(1)
    seen = (area > 0) & (scene.parts.sum((2, 3)) > 0.35 * scene.uncovered)
    location = torch.stack([x, y, torch.ones_like(x)], -1) * seen[..., None]
    bird = scene.bird > 0.5
    sides = []
    for line in (bird.any(1), bird.any(2)):  # columns, rows: (B, S)
        first, last = line.float().argmax(1), size - line.flip(1).float().argmax(1)
        sides.append((first, (last - first) * line.any(1)))
    (left, width), (top, height) = sides
    box = torch.stack([left, top, width, height], 1).float()
    image = (scene.image * 255).round().to(torch.uint8)
    return image.cpu(), box.cpu(), location.cpu()
