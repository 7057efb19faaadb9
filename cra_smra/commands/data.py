"""``cra-smra data``."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cra_smra.data.fetch import fetch
from cra_smra.data.make import MADE, make


def run(argv: list[str]) -> None:
    """Make or fetch a data set and print the folder it lies in."""
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

    options = tyro.extras.subcommand_cli_from_dict({"make": Make, "get": Get}, prog="cra-smra data", args=argv)
    if isinstance(options, Make):
        print(make(**vars(options)))
    else:
        print(fetch(options.root, MADE[options.name][0]))
