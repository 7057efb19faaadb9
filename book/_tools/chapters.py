"""The chapters: keep each notebook and its Markdown twin the same, execute them, store their outputs.

A chapter is `book/NN_name.ipynb` with outputs, for readers, Colab and the build, and `book/NN_name.md`
(jupytext md:myst) with the same cells without outputs, which is the one to edit and to review.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

import status

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHAPTER = "[0-9][0-9]_*"

# Chapters that the tests do not execute, each with its reason: {"05_cub": "needs the CUB images"}.
NOT_TESTED: dict[str, str] = {}

# For the kernels: the Python of this environment and not one of the same name in the user's home; and no
# warning, with a path of this machine in it, that a progress bar will be text.
KERNEL = {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONWARNINGS": "ignore:IProgress"}

# The same in every chapter, whichever machine wrote it.
METADATA = {
    "jupytext": {"formats": "ipynb,md:myst"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
# A chapter with a cell tagged "gpu" asks Colab for a GPU.
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
# Metadata of a cell that say how it was last shown or run.
TRANSIENT = ("execution", "collapsed", "scrolled")
HEADER = """\
---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


class ChapterError(Exception):
    """Something in the book that its author has to mend; the message is one line."""


# --- reading and writing


def chapter_paths(book: Path = BOOK) -> list[Path]:
    """Return the notebook of every chapter in order, whether it or only its twin is there yet."""
    found = [*book.glob(f"{CHAPTER}.ipynb"), *book.glob(f"{CHAPTER}.md")]
    return sorted({path.with_suffix(".ipynb") for path in found})


def find_chapters(names: Sequence[str], book: Path = BOOK) -> list[Path]:
    """Return the notebooks called ``names`` ("01", "01_birds" or a path); all without names."""
    paths = chapter_paths(book)
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb").removesuffix(".md")
        found = [path for path in paths if path.stem == stem or path.stem.split("_")[0] == stem]
        if not found:
            raise ChapterError(f"no chapter {name}; there are: {', '.join(p.stem for p in paths) or 'none'}")
        chosen += found
    return chosen or paths


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook file."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ChapterError(f"{path.name} cannot be read as a notebook: {reason}") from error


def read_twin(path: Path) -> NotebookNode:
    """Read the cells of a Markdown twin."""
    try:
        return jupytext.read(path, fmt="md:myst")
    except Exception as error:  # jupytext raises whatever its parsers raise
        raise ChapterError(f"{path.name} cannot be read as MyST Markdown: {error}") from error


def write_notebook(notebook: NotebookNode, path: Path) -> bool:
    """Write a normalised notebook if that changes the file; return whether it did."""
    normalise(notebook)
    return write_text(path, nbformat.writes(notebook) + "\n")


def write_twin(notebook: NotebookNode, path: Path) -> bool:
    """Write the Markdown twin of a notebook if that changes the file; return whether it did."""
    text = jupytext.writes(notebook, fmt="md:myst")
    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    return write_text(path, HEADER + body)


def write_text(path: Path, text: str) -> bool:
    """Write a file only if its contents change, so that what depends on it is not made again."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


# --- normal form


def normalise(notebook: NotebookNode) -> None:
    """Remove from a notebook, in place, what differs from one execution or machine to the next."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    gpu = any("gpu" in cell.metadata.get("tags", []) for cell in notebook.cells)
    notebook.metadata = nbformat.from_dict(METADATA | (GPU if gpu else {}))
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        # From the contents and not the position: a new cell then leaves the others' ids alone.
        digest = hashlib.sha1(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] += 1
        cell.id = f"{digest}-{seen[digest]}"
        for key in TRANSIENT:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = normal_outputs(cell.outputs)
        else:
            cell.pop("attachments", None)


def normal_outputs(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Drop progress bars, and join the pieces of a stream, which the kernel cuts at any place."""
    errors = "".join(output.text for output in outputs if output.get("name") == "stderr")
    # A whole line, for a bar is written over and over; what other lines say stays, in one piece.
    errors = re.sub(r"[^\n]*\r[^\n]*\n?", "", errors.replace("\r\n", "\n"))
    kept: list[NotebookNode] = []
    for output in map(nbformat.from_dict, outputs):
        if output.get("name") == "stderr":
            output.text, errors = errors, ""
            if not output.text.strip():
                continue
        elif output.get("name") == "stdout" and kept and kept[-1].get("name") == "stdout":
            kept[-1].text += output.text
            continue
        kept.append(output)
    return kept


# --- pairs


def inputs(cell: NotebookNode) -> tuple[str, str, dict[str, Any]]:
    """Return what both files of a pair hold of a cell: type, source, metadata."""
    metadata = {key: value for key, value in cell.metadata.items() if key not in TRANSIENT}
    return cell.cell_type, cell.source, metadata


def differences(path: Path) -> list[str]:
    """Compare the cells of a notebook with those of its twin; one line for the first difference."""
    twin = path.with_suffix(".md")
    for file in (path, twin):
        if not file.is_file():
            return [f"{path.stem}: {file.name} is missing"]
    ours, theirs = read_notebook(path).cells, read_twin(twin).cells
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), start=1):
        for what, x, y in zip(("type", "source", "metadata"), inputs(a), inputs(b), strict=True):
            if x != y:
                return [f"{path.stem}: cell {number}: the {what} differs: .ipynb {x!r:.60}, .md {y!r:.60}"]
    if len(ours) != len(theirs):
        return [f"{path.stem}: {path.name} has {len(ours)} cells, {twin.name} has {len(theirs)}"]
    return []


def keep_outputs(new: NotebookNode, old: NotebookNode) -> None:
    """Give the cells of ``new`` the outputs of the cells of ``old`` with exactly the same source."""
    keys = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (old, new)]
    for start, target, length in SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks():
        for a, b in zip(old.cells[start : start + length], new.cells[target : target + length], strict=True):
            if b.cell_type == "code":
                b.outputs, b.execution_count = a.outputs, a.execution_count


def pair(path: Path, from_notebook: bool = False) -> str:
    """Make the two files of a chapter equal, by default to the twin; return what happened, or ""."""
    twin = path.with_suffix(".md")
    if from_notebook or not twin.is_file():
        if not path.is_file():
            raise ChapterError(f"{path.stem}: there is no {path.name} to make {twin.name} from")
        notebook = read_notebook(path)
        changed = [write_notebook(notebook, path), write_twin(notebook, twin)]
        return f"{path.stem}: {twin.name} written from {path.name}" if any(changed) else ""
    notebook = read_twin(twin)
    if path.is_file():
        keep_outputs(notebook, read_notebook(path))
    changed = [write_notebook(notebook, path), write_twin(notebook, twin)]
    if not any(changed):
        return ""
    message = f"{path.stem}: {path.name} written from {twin.name}"
    stale = sum(cell.cell_type == "code" and cell.execution_count is None for cell in notebook.cells)
    return f"{message}; {stale} new cells, execute the chapter" if stale else message


# --- execution


class Progress:
    """Show what runs: one line that is written over in a terminal, now and then a new line elsewhere."""

    def __init__(self, pause: float = 5.0) -> None:
        self.terminal = sys.stdout.isatty()
        self.pause = pause
        self.last = 0.0

    def show(self, text: str) -> None:
        """Show the present state; where each state takes a line, at most one every ``pause`` seconds."""
        now = time.monotonic()
        if self.terminal:
            print("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif now - self.last >= self.pause:
            print(text, flush=True)
            self.last = now

    def close(self, text: str) -> None:
        """Show a line that stays."""
        print(("\r\x1b[K" if self.terminal else "") + text, flush=True)
        self.last = time.monotonic()


class Client(NotebookClient):
    """A notebook client that shows which cell runs and the newest line that the cell printed."""

    def __init__(self, notebook: NotebookNode, label: str, progress: Progress, folder: Path) -> None:
        super().__init__(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(folder)}},
        )
        code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        self.places = {index: f"{label}  cell {i}/{len(code)}" for i, index in enumerate(code, start=1)}
        self.progress = progress
        self.on_cell_start = self.started

    def started(self, cell: NotebookNode, cell_index: int) -> None:
        """Show that a cell begins."""
        if cell_index in self.places:
            self.progress.show(self.places[cell_index])

    def output(self, outs: list, msg: dict, display_id: str, cell_index: int) -> NotebookNode | None:
        """Show the newest line of what the cell prints, and store it as usual."""
        if msg["msg_type"] == "stream":
            lines = [line.strip() for line in re.split(r"[\r\n]", msg["content"]["text"]) if line.strip()]
            if lines:
                self.progress.show(f"{self.places[cell_index]}  {lines[-1]}")
        return super().output(outs, msg, display_id, cell_index)


def execute(paths: Sequence[Path], into: Path | None = None) -> None:
    """Execute chapters in place, or into copies in another folder, and store their outputs in normal form."""
    os.environ.update(KERNEL)
    progress = Progress()
    for number, path in enumerate(paths, start=1):
        label = f"[{number}/{len(paths)}] {path.stem}"
        notebook = read_notebook(path)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        start = time.monotonic()
        progress.close(f"{label}  starting")
        try:
            # In the chapter's own folder, where Jupyter and the tests execute it too.
            Client(notebook, label, progress, path.parent).execute()
        except CellExecutionError as error:
            progress.close(str(error))
            ran = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count]
            raise ChapterError(f"{path.stem}: cell {len(ran)} failed with {error.ename}") from error
        except DeadKernelError as error:
            raise ChapterError(f"{path.stem}: the kernel died, perhaps for want of memory") from error
        write_notebook(notebook, (into or path.parent) / path.name)
        seconds = time.monotonic() - start
        if into is None:
            status.record(path.stem, seconds, path.parent)
        progress.close(f"{label}  done in {seconds:.0f} s")


# --- command line


def test() -> int:
    """Execute the chapters with nbval, compare with the stored outputs; return the exit status."""
    paths = [path for path in chapter_paths() if path.stem not in NOT_TESTED]
    for name, reason in NOT_TESTED.items():
        print(f"{name} is not executed: {reason}")
    if not paths:
        return 0
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", *paths]
    # A progress bar is no output to compare.
    return subprocess.run(command, cwd=ROOT, env=os.environ | KERNEL | {"TQDM_DISABLE": "1"}).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("pair", help="make notebooks equal to their edited twins")
    command.add_argument("names", nargs="*", metavar="NAME", help="01 or 01_name; all by default")
    command.add_argument("--from-notebook", action="store_true", help="the notebook was edited")
    commands.add_parser("check", help="compare the cells of every pair")
    command = commands.add_parser("execute", help="execute chapters and store their outputs")
    command.add_argument("names", nargs="*", metavar="NAME", help="01 or 01_name; all by default")
    command.add_argument("--into", type=Path, metavar="DIR", help="write copies into this folder")
    commands.add_parser("test", help="execute the chapters and compare with their stored outputs")
    options = parser.parse_args(arguments)
    try:
        if options.command == "pair":
            for path in find_chapters(options.names):
                if message := pair(path, options.from_notebook):
                    print(message)
        elif options.command == "check":
            lines = [line for path in chapter_paths() for line in differences(path)]
            print(*lines, sep="\n", end="\n" if lines else "")
            return 1 if lines else 0
        elif options.command == "execute":
            if options.into and not options.into.is_dir():
                raise ChapterError(f"--into {options.into}: no such folder")
            execute(find_chapters(options.names), options.into)
        else:
            return test()
    except ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
