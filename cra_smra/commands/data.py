"""``cra-smra data``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cra_smra.data import load_dataset
from cra_smra.data.files import fetch
from cra_smra.data.make import MADE, make


def run(argv: list[str]) -> None:
    """Make or fetch a data set and print the folder it lies in; or cache it and print the files."""
    Name = Literal["cub", "aircraft", "cars", "dogs", "folder", "groceries"]

    @dataclass
    class Make:
        """Draw a small set in the official layout, with the odd cases of the real one."""

        name: Annotated[Name, tyro.conf.Positional]
        root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
        """The folder in which the set's own folder is made."""
        num_classes: int = 5
        train_per_class: int = 8
        test_per_class: int = 4
        size: int = 96
        """Side of the images in pixels."""
        seed: int = 0

    @dataclass
    class Get:
        """Download a set and unpack it; what was begun goes on."""

        name: Annotated[Name, tyro.conf.Positional]
        root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
        """The folder in which the archives and the set's own folder are put."""

    @dataclass
    class Cache:
        """Decode and resize the photographs of a set once, for trainings with the same --cache."""

        name: Annotated[Name, tyro.conf.Positional]
        root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
        """The folder of the set."""
        cache: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
        """The folder of the cache."""
        image_size: int = 448
        """Side of the network's input; photographs are kept at 550/448 of it."""

    kinds = {"make": Make, "get": Get, "cache": Cache}
    options = tyro.extras.subcommand_cli_from_dict(kinds, prog="cra-smra data", args=argv)
    if isinstance(options, Make):
        print(make(**vars(options)))
    elif isinstance(options, Cache):
        parts = [
            load_dataset(options.name, options.root, split, cache=options.cache, image_size=options.image_size).base
            for split in ("train", "val", "test")
        ]
        for file, images in {part.file: len(part) for part in parts}.items():  # "val" may be a part of "train"
            print(f"{file}  {images:,} photographs, {file.stat().st_size / 1e9:.2f} GB")
    else:
        print(fetch(options.root, MADE[options.name][0]))
