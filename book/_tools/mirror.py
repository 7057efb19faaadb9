"""Prove that the code in the chapters is the code in the package, and copy it either way.

A cell tagged `export` holds one top-level definition, and its metadata name the file of the package that
holds it too: `cra_smra: {file: cram.py}`. The texts are compared, comments included: equal syntax trees may
hide a comment that is no longer true. As soon as one cell is exported to a file, every public function and
class of that file must be exported by one cell.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from nbformat import NotebookNode

from chapters import (
    BOOK,
    ROOT,
    ChapterError,
    chapter_paths,
    differences,
    read_notebook,
    write_notebook,
    write_twin,
)

PACKAGE = ROOT / "cra_smra"


@dataclass
class Definition:
    """A top-level definition with the comment lines directly above it: ``lines[start:stop]`` of a file."""

    name: str
    start: int
    stop: int
    text: str
    must_be_shown: bool


@dataclass
class Exported:
    """An exported cell, and the file and the name of its counterpart in the package."""

    notebook: Path
    number: int
    cell: NotebookNode
    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.notebook.stem}: cell {self.number}"


def definitions(source: str) -> list[Definition]:
    """Return the functions, classes and assignments at the top level of a source text."""
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name, first = node.name, min([node.lineno, *(item.lineno for item in node.decorator_list)])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if not isinstance(target, ast.Name):
                continue
            name, first = target.id, node.lineno
        else:
            continue
        start, stop = first - 1, node.end_lineno or node.lineno
        while start > 0 and lines[start - 1].startswith("#"):
            start -= 1
        # A comment that ends a body is no part of the syntax tree: take the indented lines that follow.
        for index in range(stop, len(lines)):
            if lines[index].strip() and not lines[index].startswith((" ", "\t")):
                break
            if lines[index].strip():
                stop = index + 1
        must = not name.startswith("_") and not isinstance(node, ast.Assign | ast.AnnAssign)
        found.append(Definition(name, start, stop, "\n".join(lines[start:stop]), must))
    return found


def exported_cells(book: Path = BOOK) -> list[Exported]:
    """Return the exported cells of all chapters; each must hold one definition and nothing else."""
    found = []
    for path in chapter_paths(book):
        if not path.is_file():
            continue
        for number, cell in enumerate(read_notebook(path).cells, start=1):
            if "export" not in cell.metadata.get("tags", []):
                continue
            where = f"{path.stem}: cell {number}"
            file = cell.metadata.get("cra_smra", {}).get("file")
            if not file:
                raise ChapterError(f"{where}: tagged export, but its metadata lack cra_smra: {{file: ...}}")
            try:
                inside = definitions(cell.source)
            except SyntaxError as error:
                raise ChapterError(f"{where}: {error.msg}") from error
            if len(inside) != 1 or inside[0].text != cell.source.strip("\n"):
                raise ChapterError(f"{where}: tagged export, but does not hold exactly one definition")
            found.append(Exported(path, number, cell, file, inside[0].name))
    return found


def package_definitions(file: str, package: Path) -> list[Definition]:
    """Return the definitions of one file of the package."""
    path = package / file
    if not path.is_file():
        raise ChapterError(f"there is no {package.name}/{file}, which an exported cell names")
    try:
        return definitions(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ChapterError(f"{package.name}/{file}, line {error.lineno}: {error.msg}") from error


def check(book: Path = BOOK, package: Path = PACKAGE) -> list[str]:
    """Compare chapters and package in both directions; one line for each difference."""
    lines = []
    first: dict[tuple[str, str], Exported] = {}
    for item in exported_cells(book):
        key = (item.file, item.name)
        if key in first:
            lines.append(f"{item}: {item.name} is exported already by {first[key]}")
            continue
        first[key] = item
        texts = [d.text for d in package_definitions(item.file, package) if d.name == item.name]
        if not texts:
            lines.append(f"{item}: {package.name}/{item.file} does not define {item.name}")
        elif texts[0] != item.cell.source.strip("\n"):
            rows = zip_longest(item.cell.source.strip("\n").splitlines(), texts[0].splitlines())
            row = next(i for i, (a, b) in enumerate(rows, start=1) if a != b)
            lines.append(f"{item}: {item.name} differs from {package.name}/{item.file} in its line {row}")
    for file in sorted({file for file, _ in first}):
        for definition in package_definitions(file, package):
            if definition.must_be_shown and (file, definition.name) not in first:
                lines.append(f"{package.name}/{file}: {definition.name} is exported by no chapter")
    return lines


def to_package(book: Path = BOOK, package: Path = PACKAGE) -> list[str]:
    """Copy the exported cells into the package, new ones to the end of their file; say what changed."""
    changed = []
    for item in exported_cells(book):
        there = {d.name: d for d in package_definitions(item.file, package)}
        path, text = package / item.file, item.cell.source.strip("\n")
        lines = path.read_text(encoding="utf-8").rstrip("\n").splitlines()
        if item.name not in there:
            lines += ["", "", *text.splitlines()]
        elif there[item.name].text != text:
            lines[there[item.name].start : there[item.name].stop] = text.splitlines()
        else:
            continue
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        changed.append(f"{package.name}/{item.file}: {item.name} written from {item}")
    return changed


def to_book(book: Path = BOOK, package: Path = PACKAGE) -> list[str]:
    """Copy the definitions of the package into the chapters that export them; say what changed."""
    changed = []
    for path in chapter_paths(book):
        mine = [item for item in exported_cells(book) if item.notebook == path]
        if not mine:
            continue
        notebook, before = read_notebook(path), len(changed)
        for item in mine:
            there = {d.name: d.text for d in package_definitions(item.file, package)}
            if item.name not in there:
                raise ChapterError(f"{item}: {package.name}/{item.file} does not define {item.name}")
            if there[item.name] != item.cell.source.strip("\n"):
                notebook.cells[item.number - 1].source = there[item.name]
                changed.append(f"{item}: {item.name} written from {package.name}/{item.file}")
        if len(changed) > before:
            write_notebook(notebook, path)
            write_twin(notebook, path.with_suffix(".md"))
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="list the differences, one line each; exit status 1 if there are any")
    commands.add_parser("to-package", help="copy the exported cells into the package")
    commands.add_parser("to-book", help="copy the definitions of the package into the chapters")
    options = parser.parse_args(arguments)
    try:
        # Both files of a pair are written below, so neither may hold an edit that the other lacks.
        for path in chapter_paths():
            if path.is_file() and (lines := differences(path)):
                raise ChapterError(f"{lines[0]}; run make sync first")
        lines = {"check": check, "to-package": to_package, "to-book": to_book}[options.command]()
    except ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    for line in lines:
        print(line)
    return 1 if lines and options.command == "check" else 0


if __name__ == "__main__":
    sys.exit(main())
