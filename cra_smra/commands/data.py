"""``cra-smra data``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cra_smra.data import load_dataset
from cra_smra.data.check import check
from cra_smra.data.fetch import fetch
from cra_smra.data.make import MADE, make
from cra_smra.runs import write_json


def run(argv: list[str]) -> None:
    """Make, fetch, cache or check a data set, and print what was done or found."""
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

    @dataclass
    class Check:
        """Look at a set before training on it: lists, counts, every image, doubles. Exits with 0 if training can
        start, else with 1.
        """

        root: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROOT")]
        """The folder in which the set lies, as training gets it."""
        name: Name | None = None
        """The set that it should be; by default it is recognised."""
        fast: bool = False
        """Read sizes and headers alone."""
        unpack: bool = False
        """Unpack archives that are still packed."""
        json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
        """Write the report into this file too."""

    commands = {"make": Make, "get": Get, "check": Check, "cache": Cache}
    options = tyro.extras.subcommand_cli_from_dict(commands, prog="cra-smra data", args=argv)
    if isinstance(options, Make):
        print(make(**vars(options)))
    elif isinstance(options, Get):
        print(fetch(options.root, MADE[options.name][0]))
    elif isinstance(options, Cache):
        parts = [
            load_dataset(options.name, options.root, split, cache=options.cache, image_size=options.image_size).base
            for split in ("train", "val", "test")
        ]
        for file, images in {part.file: len(part) for part in parts}.items():  # "val" may be a part of "train"
            print(f"{file}  {images:,} photographs, {file.stat().st_size / 1e9:.2f} GB")
    else:
        report = check(options.root, options.name, fast=options.fast, unpack=options.unpack)
        print(report, flush=True)
        if options.json:
            write_json(Path(options.json), report.to_dict())
        sys.exit(0 if report.can_train else 1)
