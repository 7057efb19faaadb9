"""The door that makes small archives in the official layouts, for trying the readers out and for the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cra_smra.data.aircraft import AIRCRAFT
from cra_smra.data.birds import check_options
from cra_smra.data.cars import CARS
from cra_smra.data.cub import CUB
from cra_smra.data.dogs import DOGS
from cra_smra.data.folder import FOLDER
from cra_smra.data.groceries import GROCERIES
from cra_smra.data.made_birds import fill_cub, fill_dogs, fill_folder, fill_groceries
from cra_smra.data.made_vehicles import fill_aircraft, fill_cars

# What is made, and what fills its folder: a function of (folder, *, num_classes, train_per_class, test_per_class, size,
# seed), with the folder there and empty.
MADE = {
    "cub": (CUB, fill_cub),
    "aircraft": (AIRCRAFT, fill_aircraft),
    "cars": (CARS, fill_cars),
    "dogs": (DOGS, fill_dogs),
    "folder": (FOLDER, fill_folder),
    "groceries": (GROCERIES, fill_groceries),
}
MOST_CLASSES = 60  # fewer than any of the official sets has: what is made is never taken for one of them


def make(
    name: str,
    root: str | Path,
    *,
    num_classes: int = 5,
    train_per_class: int = 8,
    test_per_class: int = 4,
    size: int = 96,
    seed: int = 0,
) -> Path:
    """Draw a small set ``name`` in its official layout, with the odd cases of the real one, into a folder of the
    official name below ``root``; return that folder. Both it and ``root`` can be given to the reader.

    ``num_classes`` is from 2 to 60, ``size`` at least 32 pixels for each side of an image, the counts at least 1. The
    folder appears complete or not at all. Raises FileExistsError if it is there, ValueError for an unknown name and
    for a value out of range.
    """
    if name not in MADE:
        raise ValueError(f"name must be one of {', '.join(MADE)}, got {name!r}")
    if not 2 <= num_classes <= MOST_CLASSES:
        raise ValueError(f"num_classes must be from 2 to {MOST_CLASSES}, got {num_classes}")
    counts = {"train_per_class": train_per_class, "test_per_class": test_per_class}
    check_options(num_classes, size, "medium", **counts, seed=seed)
    official, fill = MADE[name]
    target = Path(root) / official.folder
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove it or choose another root")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{official.folder}-", dir=target.parent))
    try:
        fill(draft, num_classes=num_classes, size=size, seed=seed, **counts)
        draft.chmod(0o755)
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target
