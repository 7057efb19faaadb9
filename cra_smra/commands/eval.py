"""``cra-smra eval``."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cra_smra.evaluate import compare_protocols, evaluate
from cra_smra.runs import read_run


def run(argv: list[str]) -> None:
    """Evaluate a run directory and print the accuracies."""

    @dataclass
    class Eval:
        """Evaluate a trained run: print its accuracies and write its predictions into
        the run directory. With a run of protocol clean and one of protocol paper, print
        both side by side, with the gap.
        """

        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """The run directory, as written by train."""
        beside: Annotated[
            str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN-OF-PROTOCOL-PAPER")
        ] = None
        """A run of the same recipe by protocol paper; the first is then of clean."""
        split: Literal["test", "val"] = "test"
        """val exists in protocol clean only."""
        checkpoint: Literal["chosen", "last"] = "chosen"
        """chosen: the epoch that the protocol chose."""

    options = tyro.cli(Eval, prog="cra-smra eval", args=argv)
    if options.beside is not None:
        print_protocols(compare_protocols(options.run, options.beside))
        return
    if read_run(options.run)["status"] != "finished":
        print(f"cra-smra: {options.run} is not finished; these are the numbers so far", file=sys.stderr)
    print_metrics(evaluate(options.run, options.split, options.checkpoint))


def print_metrics(found: dict[str, float | int | list[float]]) -> None:
    """One line per accuracy, in percent."""
    error = f"+- {found['standard_error']:.2%}, one standard error on {found['images']} images"
    print(f"accuracy, mean of softmax         {found['accuracy']:7.2%}  {error}")
    print(f"accuracy, sum of logits           {found['accuracy_logits']:7.2%}")
    print(f"accuracy, mean over classes       {found['accuracy_classes']:7.2%}")
    for stage, accuracy in enumerate(found["accuracy_stages"], start=3):
        print(f"accuracy, classifier of stage {stage}   {accuracy:7.2%}")
    print(f"accuracy, joint classifier        {found['accuracy_overall']:7.2%}")


def print_protocols(found: dict[str, float | int]) -> None:
    """The two protocols side by side, in percent of the test images."""
    print(f"one recipe, {found['images']} test images, one standard error {found['standard_error']:.2%}")
    print(f"clean: epoch {found['clean_epoch']}, chosen on held-out images      {found['clean']:7.2%}")
    print(f"paper: epoch {found['paper_epoch']}, the last, no image held out     {found['paper']:7.2%}")
    print(f"paper, best test epoch: an upper bound          {found['best']:7.2%}")
    print(f"gap: upper bound less clean                     {100 * found['gap']:+7.2f} points")
    print(f"  of it by choosing the epoch on the test set   {100 * found['selection']:+7.2f} points")
