"""``cra-smra bench``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cra_smra.bench import REFERENCE, bench_data
from cra_smra.runs import write_json


def run(argv: list[str]) -> None:
    """Measure, and print a table."""

    @dataclass
    class Data:
        """How fast training images are loaded by one core: torchvision's older transforms, ours, and the cache."""

        name: Literal["cub", "aircraft", "cars", "dogs", "folder", "groceries"] | None = None
        """The set whose first training images are taken; by default images of the size of CUB's are drawn."""
        root: str | None = None
        """Folder of the set."""
        image_size: int = 448
        """Side of the network's input."""
        images: int = 100
        batch_size: int = 20
        repeats: int = 7
        """Rounds in which every way is measured once."""
        out: str | None = None
        """A JSON file for the numbers, with versions and device."""

    options = tyro.extras.subcommand_cli_from_dict({"data": Data}, prog="cra-smra bench", args=argv)
    values = vars(options)
    out = values.pop("out")
    found = bench_data(**values)
    print_data(found)
    if out:
        write_json(Path(out), found)
        print(out)


def print_data(found: dict[str, object]) -> None:
    """One line for each way of loading an image."""
    print(
        f"{found['images']} images of {found['file_bytes'] / 1000:.0f} kB on average to {found['image_size']} px, in "
        f"batches of {found['batch_size']}, one process with one thread; median (range) of {found['repeats']} rounds"
    )
    for chain, row in found["chains"].items():
        low, high = row["ms_per_image_range"]
        line = f"{chain:28}{row['ms_per_image']:7.3f} ms ({low:.3f} to {high:.3f}) {row['images_per_s']:8.0f} images/s"
        if chain != REFERENCE:
            low, high = row["times_faster_range"]
            line += f" {row['times_faster']:6.1f} times as fast ({low:.1f} to {high:.1f})"
        print(line)
