"""Small archives in the official layouts, drawn here, for trying the readers out and for the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cra_smra.data.birds import PARTS, Birds, check_options, noise

CUB_PARTS: tuple[str, ...] = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg",
                              "left wing", "nape", "right eye", "right leg", "right wing", "tail", "throat")


def write_cub(root: str | Path, *, num_classes: int = 20, train_per_class: int = 30, test_per_class: int = 30,
              size: int = 96, difficulty: str = "medium", seed: int = 0) -> Path:
    """Write the birds in CUB-200-2011's official layout to ``root``/CUB_200_2011; return that folder.

    A bird facing right shows its right eye, leg and wing; the left ones count as invisible. The folder appears
    complete or not at all. Raises FileExistsError if it is there, ValueError for a value out of range.
    """
    counts = {"train_per_class": train_per_class, "test_per_class": test_per_class, "seed": seed}
    check_options(num_classes, size, difficulty, **counts)
    target = Path(root) / "CUB_200_2011"
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove it or choose another root")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".CUB_200_2011-", dir=target.parent))
    try:
        options = {"num_classes": num_classes, "size": size, "difficulty": difficulty, "seed": seed}
        _fill_cub(draft, [Birds(split, per_class=n, **options)
                          for split, n in (("train", train_per_class), ("test", test_per_class))])
        draft.chmod(0o755)
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _fill_cub(folder: Path, sets: Sequence[Birds]) -> None:
    folders = [f"{k:03d}.{name.replace(' ', '_')}" for k, name in enumerate(sets[0].classes, 1)]
    rows: dict[str, list[str]] = {name: [] for name in (
        "images", "image_class_labels", "train_test_split", "bounding_boxes", "parts/part_locs")}
    number = 0
    for k, name in enumerate(folders):
        (folder / "images" / name).mkdir(parents=True)
        for ds, j in ((each, j) for each in sets for j in range(each.per_class)):
            number, i = number + 1, k * ds.per_class + j
            file = f"{name}/{name[4:]}_{j:04d}_{number}.jpg"
            Image.fromarray(ds.images[i].permute(1, 2, 0).numpy()).save(folder / "images" / file, quality=95)
            rows["images"].append(f"{number} {file}")
            rows["image_class_labels"].append(f"{number} {k + 1}")
            rows["train_test_split"].append(f"{number} {int(ds.split == 'train')}")
            rows["bounding_boxes"].append(" ".join([str(number), *(f"{v:.1f}" for v in ds.boxes[i].tolist())]))
            side = "left " if noise(ds.split, k, j, ds.seed)[0, 0] < 0.5 else "right "  # the first is the flip
            at = dict(zip(PARTS, ds.part_locations[i].tolist(), strict=True))
            for p, part in enumerate(CUB_PARTS, 1):
                x, y, seen = at.get(part.removeprefix(side), (0, 0, 0))
                rows["parts/part_locs"].append(f"{number} {p} {x:.2f} {y:.2f} {int(seen)}")
    rows["classes"] = [f"{k} {name}" for k, name in enumerate(folders, 1)]
    rows["parts/parts"] = [f"{p} {part}" for p, part in enumerate(CUB_PARTS, 1)]
    (folder / "parts").mkdir()
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
