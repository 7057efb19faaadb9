"""Tables in the chapters: no number without a result file behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import chapters
from cra_smra import runs
from cra_smra.attention_tables import by_row, rows_table
from cra_smra.grids import GRIDS, NETWORKS, base_recipe, grid
from cra_smra.tables import ACCURACY, ATTENTION, COST, HELD_OUT, markdown, table

EXPERIMENTS = [f"{dataset}/{name}" for dataset in ("birds", "groceries") for name in GRIDS]
RESULT = re.compile(r"(?<![\d.(\[^_])[-+−]?\d+\.\d+(?![\d.)\]])|\d ?%")  # a decimal, or a percentage


def rows_of(text: str) -> list[list[str]]:
    """The cells of every line of the Markdown tables in a text."""
    lines = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shown_tables(path: Path) -> list[list[list[str]]]:
    """The tables among a chapter's stored outputs."""
    outputs = [
        output["data"]["text/markdown"]
        for cell in chapters.read_notebook(path).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    return [found for text in outputs if (found := rows_of("".join(text)))]


def accuracies() -> dict[str, set[str]]:
    """For every row name what its result files say, by arithmetic of our own: mean and deviation in percent."""
    groups: dict[tuple[str, str], list[float]] = {}
    for path in runs.RESULTS.glob("*/*/*.json"):
        result = json.loads(path.read_text())
        if result.get("status") == "finished" and "row" in result:
            groups.setdefault((str(path.parent), result["row"]), []).append(result["result"]["test"]["accuracy"])
    said: dict[str, set[str]] = {}
    for (_, row), values in groups.items():
        spread = f"± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else "(one seed)"
        said.setdefault(row, set()).add(f"{100 * np.mean(values):.1f} {spread}")
    return said


@pytest.mark.parametrize(
    "path", [path for path in chapters.chapter_paths() if path.stem >= "06"], ids=lambda path: path.stem
)
def test_no_table_in_the_prose_has_a_number_that_was_typed_in(path):
    """The chapters before derive what stands in theirs."""
    text = "\n\n".join(cell.source for cell in chapters.read_notebook(path).cells if cell.cell_type == "markdown")
    assert [row for row in rows_of(text) if any(RESULT.search(cell) for cell in row)] == []


def test_the_search_for_typed_numbers_finds_them():
    found = rows_of("| row | CUB |\n|---|---|\n| heads | 87.7 |\n| both | 89 % |\n| stage 3 | (5) | 12 |")
    assert [bool(RESULT.search(" ".join(row))) for row in found] == [False, False, True, True, False]


def test_every_accuracy_that_a_chapter_shows_is_that_of_result_files():
    said, checked = accuracies(), 0
    for path in chapters.chapter_paths():
        for head, _, *rows in shown_tables(path):
            if "accuracy, %" not in head:
                continue
            for row in rows:
                shown = row[head.index("accuracy, %")]
                assert shown == "not run" or shown in said[row[0]], (path.stem, row)
                checked += shown != "not run"
    assert checked > 20


def test_every_table_of_measured_attention_counts_the_files_that_it_has():
    found = by_row(runs.stored_results("birds/attention"), grid("table3", base_recipe("birds")))
    shown = [rows for rows in shown_tables(chapters.chapter_paths()[12]) if "overlap of the stages" in rows[0]]
    assert len(shown) >= 4
    for head, _, *rows in shown:
        for row in rows:
            if row[0] in found and row[head.index("overlap of the stages")] != "no such map":
                assert int(row[head.index("seeds")]) == len(found[row[0]]) >= 3, row


def test_without_result_files_no_table_has_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    for experiment in EXPERIMENTS:
        for columns in (ACCURACY, COST, ATTENTION, HELD_OUT):
            for row in rows_of(markdown(table(experiment), columns))[2:]:
                assert not any(re.search(r"[1-9]", cell) for cell in row[1:] if cell not in row_names(experiment)), row
    empty = rows_table(by_row([], grid("table3", base_recipe("birds"))))
    assert all(row[1:3] == ["0", "not run"] and not any(row[3:]) for row in rows_of(empty)[2:])
    assert len(rows_of(empty)) == 2 + len(NETWORKS)


def row_names(experiment: str) -> set[str]:
    dataset, _, name = experiment.partition("/")
    return {row.name for row in grid(name, base_recipe(dataset))}
