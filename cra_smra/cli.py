"""The command ``cra-smra``."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Run the command; exits with 0, 1 (it failed, one line says why), 2 (wrong usage),
    130 (interrupted) or 143 (told to end).
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
        with terminable():
            import_module(f"cra_smra.commands.{argv[0]}").run(argv[1:])
    except (KeyboardInterrupt, Terminated) as stop:
        what, code = ("interrupted", 130) if isinstance(stop, KeyboardInterrupt) else ("told to end", 143)
        print(
            f"cra-smra: {what}; a training goes on after its last whole epoch if its command is given again",
            file=sys.stderr,
        )
        sys.exit(code)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        print(f"cra-smra: {one_line(error)}", file=sys.stderr)
        sys.exit(1)


class Terminated(BaseException):
    """SIGTERM came. No Exception, so that nothing takes it for a failure and goes on."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, end the work as Ctrl-C does: what is half-written is
    removed. Elsewhere than in the main thread it stays as it is.
    """

    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def one_line(error: Exception) -> str:
    """The message of an error. One that a process which loads images sent has its traceback before it."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())
