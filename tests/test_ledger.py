"""The ledger points to sections, functions and tests that exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cra_smra import Recipe

ROOT = Path(__file__).resolve().parents[1]
LEDGER = yaml.safe_load((ROOT / "book" / "ledger.yml").read_text())
ROWS = [row for section in ("equations", "open", "ours") for row in LEDGER[section]]


def slug(heading: str) -> str:
    """The anchor that the book and GitHub give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def find(name: str) -> object:
    """The object called ``cram.suppression_mask`` or ``smram.SMRAM.attention`` in the package."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module("cra_smra." + ".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("tool", ["ledger.py", "status.py"])
def test_a_generated_page_is_what_its_source_makes(tool):
    command = [sys.executable, ROOT / "book" / "_tools" / tool, "--check"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_equations_1_to_11_are_there_once():
    assert [int(re.match(r"\((\d+)\)", row["point"])[1]) for row in LEDGER["equations"]] == list(range(1, 12))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["point"])
def test_a_row_names_section_code_and_test_that_exist(row):
    chapter, anchor = row["section"].split("#")
    twin = (ROOT / "book" / chapter).with_suffix(".md")
    prose = re.sub(r"(?ms)^```.*?^```$", "", twin.read_text())
    assert anchor in {slug(heading) for heading in re.findall(r"(?m)^#+ (.*)$", prose)}
    assert find(row["code"]) is not None
    file, name = row["test"].split("::")
    names = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)}
    assert name in names
    if "switch" in row:
        fields = {field.name for field in dataclasses.fields(Recipe)}
        assert row["switch"] in fields | set(inspect.signature(find(row["code"])).parameters)


def test_every_open_point_gives_the_reading_the_others_and_the_reason():
    for row in LEDGER["open"]:
        assert row["paper"] and row["reading"] and row["other"] and row["why"], row["point"]
