"""The command ``cra-smra``."""

import sys
from importlib import import_module

USAGE = """usage: cra-smra COMMAND ...

Fine-grained visual classification with channel re-attention and spatial multi-region attention.

commands, each with --help:
  train NAME             train a network by a named recipe; any field of the recipe is an option
  eval RUN               evaluate a trained run directory; with a second run, compare the protocols
  predict RUN IMAGE ...  the most probable classes of images
  explain RUN IMAGE      what a trained run says about an image file, and where it looks
  measure RUN ...        how much of the maps of trained runs lies on parts, object and background
  ablate GRID            train the rows of an ablation with several seeds, and compare them
  export RUN             a network as one file for other programs, ONNX or torch.export
  data make NAME ROOT    draw a small set in an official layout, to try things out
  data get NAME ROOT     download and unpack a set, where an address is alive
  data check ROOT        look at every list and image of a set and say whether training can start
  data cache NAME ROOT   decode the photographs once, for trainings with --cache
  bench data             measure how fast training images are loaded
"""
COMMANDS = ("train", "eval", "predict", "explain", "measure", "ablate", "export", "data", "bench")


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
        import_module(f"cra_smra.commands.{argv[0]}").run(argv[1:])
    except KeyboardInterrupt:
        print(
            "cra-smra: interrupted; a training goes on when the same command is given again",
            file=sys.stderr,
        )
        sys.exit(130)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"cra-smra: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


def one_line(error: Exception) -> str:
    """The message of an error. One that a process which loads images sent has its traceback before it."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())
