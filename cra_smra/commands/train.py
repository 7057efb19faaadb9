"""``cra-smra train``."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from cra_smra.commands.eval import print_metrics
from cra_smra.recipes import Recipe
from cra_smra.runs import read_run
from cra_smra.train import train


def run(argv: list[str]) -> None:
    """Train by a named recipe, then print what the run directory says."""

    @dataclass
    class Train:
        recipe: Annotated[Recipe, tyro.conf.arg(name="")]
        out: str | None = None
        """The run directory; by default runs/ and a name made of data set, method,
        backbone and seed. An interrupted run in it goes on after its last whole epoch.
        """

    choices = {
        "birds": (
            "CRA-SMRA on the drawn birds, minutes on two CPU cores.",
            Train(Recipe.quick("birds")),
        ),
        "birds-plain": (
            "The plain backbone on the drawn birds.",
            Train(Recipe.quick("birds", method="plain")),
        ),
        "groceries": (
            "CRA-SMRA on the Grocery Store Dataset, minutes on two CPU cores; --root is its folder.",
            Train(Recipe.quick("groceries")),
        ),
        "groceries-plain": (
            "The plain backbone on the Grocery Store Dataset.",
            Train(Recipe.quick("groceries", method="plain")),
        ),
    }
    for name, text in (
        ("cub", "CUB-200-2011 with the paper's recipe; --root is its folder."),
        ("aircraft", "FGVC-Aircraft with the paper's recipe; --root is its folder."),
        ("cars", "Stanford Cars with the paper's recipe; --root is its folder."),
        ("dogs", "Stanford Dogs with the paper's recipe; --root is its folder."),
        ("folder", "Photographs of your own: --root holds train/CLASS/*.jpg and test/CLASS/*.jpg."),
    ):
        choices[name] = (text, Train(Recipe(dataset=name)))
    options = tyro.extras.overridable_config_cli(
        choices, prog="cra-smra train", args=argv, config=(tyro.conf.OmitArgPrefixes,)
    )
    recipe = options.recipe
    folder = train(
        recipe,
        options.out or f"runs/{recipe.dataset}-{recipe.method}-{recipe.backbone}-seed{recipe.seed}",
    )
    record = read_run(folder)
    print(
        f"{folder}: trained {recipe.epochs} epochs, chosen: {record['result']['chosen_epoch']} ({recipe.protocol})"
    )
    print_metrics(record["result"]["test"])
    if "upper_bound_best_test_epoch" in record["result"]:
        print(
            f"upper bound, best test epoch      {record['result']['upper_bound_best_test_epoch']:7.2%}"
        )
    waiting = record.get("waiting")  # None in a run of an older version
    share = "" if waiting is None else f", {waiting:.0%} of the time waiting for images"
    print(f"{record['wall_time_s']:.0f} s, {record['images_per_s']:.0f} training images/s{share}")
