"""The command ``cra-smra``."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

USAGE = """usage: cra-smra COMMAND ...

Fine-grained visual classification with channel re-attention and spatial multi-region attention.

commands, each with --help:
  train NAME   train a network by a named recipe; any field of the recipe is an option
  eval RUN     evaluate a trained run directory
  data make NAME ROOT   draw a small set in an official layout, to try things out
  data get NAME ROOT    download and unpack a set, where an address is alive
"""


def train_command(argv: list[str]) -> None:
    """Train by a named recipe, then print what the run directory says."""
    import tyro

    from cra_smra.recipes import Recipe
    from cra_smra.runs import read_run
    from cra_smra.train import train

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
    }
    for name, text in (
        ("cub", "CUB-200-2011 with the paper's recipe; --root is its folder."),
        ("aircraft", "FGVC-Aircraft with the paper's recipe; --root is its folder."),
        ("cars", "Stanford Cars with the paper's recipe; --root is its folder."),
        ("dogs", "Stanford Dogs with the paper's recipe; --root is its folder."),
        ("groceries", "The Grocery Store Dataset; --root is its folder."),
        ("folder", "Photographs of your own: --root holds train/CLASS/*.jpg and test/CLASS/*.jpg."),
    ):
        choices[name] = (text, Train(Recipe(dataset=name)))
    options = tyro.extras.overridable_config_cli(
        choices, prog="cra-smra train", args=argv, config=(tyro.conf.OmitArgPrefixes,)
    )
    recipe = options.recipe
    run = train(
        recipe,
        options.out or f"runs/{recipe.dataset}-{recipe.method}-{recipe.backbone}-seed{recipe.seed}",
    )
    record = read_run(run)
    print(
        f"{run}: trained {recipe.epochs} epochs, chosen: {record['result']['chosen_epoch']} ({recipe.protocol})"
    )
    print_metrics(record["result"]["test"])
    if "upper_bound_best_test_epoch" in record["result"]:
        print(
            f"upper bound, best test epoch      {record['result']['upper_bound_best_test_epoch']:7.2%}"
        )
    print(f"{record['wall_time_s']:.0f} s, {record['images_per_s']:.0f} training images/s")


def eval_command(argv: list[str]) -> None:
    """Evaluate a run directory and print the accuracies."""
    import tyro

    from cra_smra.evaluate import evaluate
    from cra_smra.runs import read_run

    @dataclass
    class Eval:
        """Evaluate a trained run: print its accuracies and write its predictions into
        the run directory.
        """

        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """The run directory, as written by train."""
        split: Literal["test", "val"] = "test"
        """val exists in protocol clean only."""
        checkpoint: Literal["chosen", "last"] = "chosen"
        """chosen: the epoch that the protocol chose."""

    options = tyro.cli(Eval, prog="cra-smra eval", args=argv)
    if read_run(options.run)["status"] != "finished":
        print(f"cra-smra: {options.run} is not finished; these are the numbers so far", file=sys.stderr)
    print_metrics(evaluate(options.run, options.split, options.checkpoint))


def data_command(argv: list[str]) -> None:
    """Make or fetch a data set and print the folder it lies in."""
    import tyro

    from cra_smra.data.files import fetch
    from cra_smra.data.make import MADE, make

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


def print_metrics(found: dict[str, float | int | list[float]]) -> None:
    """One line per accuracy, in percent."""
    error = f"+- {found['standard_error']:.2%}, one standard error on {found['images']} images"
    print(f"accuracy, mean of softmax         {found['accuracy']:7.2%}  {error}")
    print(f"accuracy, sum of logits           {found['accuracy_logits']:7.2%}")
    print(f"accuracy, mean over classes       {found['accuracy_classes']:7.2%}")
    for stage, accuracy in enumerate(found["accuracy_stages"], start=3):
        print(f"accuracy, classifier of stage {stage}   {accuracy:7.2%}")
    print(f"accuracy, joint classifier        {found['accuracy_overall']:7.2%}")


COMMANDS = {"train": train_command, "eval": eval_command, "data": data_command}


def main(argv: list[str] | None = None) -> None:
    """Run the command; exits with 0, 1 (it failed, one line says why), 2 (wrong usage)
    or 130 (interrupted).
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        sys.exit(0 if argv else 2)
    if argv[0] not in COMMANDS:
        print(
            f"cra-smra: unknown command {argv[0]!r}; there are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        COMMANDS[argv[0]](argv[1:])
    except KeyboardInterrupt:
        print(
            "cra-smra: interrupted; a training goes on when the same command is given again",
            file=sys.stderr,
        )
        sys.exit(130)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"cra-smra: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
