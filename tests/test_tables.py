"""Tables, from results made by hand."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy import stats

from conftest import refused
from cra_smra import Recipe, runs
from cra_smra.grids import BOTH, HEADS, NETWORKS, PLAIN, base_recipe, grid
from cra_smra.tables import ACCURACY, ATTENTION, COST, HELD_OUT, comma_separated, compare, markdown, sources, table

NAMES = [PLAIN, HEADS, BOTH]
ATTENTION_LOG = {"suppressed": [0.25, 0.5, 1.0], "overlap": 0.5, "entropy": [1.0, 0.5, 0.0], "diversity_loss": 0.4}


def result(row: str, seed: int, right: str, against: str | None = None, **changes) -> dict[str, object]:
    """A result file's content; ``right`` has a letter for each test image, x where the run was right."""
    bits = np.array([letter == "x" for letter in right])
    recipe = Recipe.quick("birds", **NETWORKS[row], seed=seed)
    test = {"accuracy": bits.mean().item(), "standard_error": 0.05, "images": len(bits)}
    return {
        "row": row,
        "against": against,
        "rows": NAMES,
        "status": "finished",
        "recipe": recipe.to_dict(),
        "seed": seed,
        "dataset": {"name": "birds", "fingerprint": "abc"},
        "images": {"train": 90, "val": 10},
        "parameters": 5_000_000,
        "commit": "0123456789abcdef",
        "device": {"type": "cpu", "name": "abacus", "threads": 2},
        "wall_time_s": 100.0 + seed,
        "images_per_s": 50.0,
        "result": {"test": test},
        "held_out_accuracy": 0.5,
        "last_epoch": ATTENTION_LOG if row == BOTH else {},
        "flops": 2_000_000_000,
        "peak_memory_bytes": None,
        "right": np.packbits(bits).tobytes().hex(),
    } | changes


THREE = [
    result(HEADS, 0, "xxxx......", PLAIN),
    result(HEADS, 1, "xxxxx.....", PLAIN),
    result(BOTH, 0, "xxxxxx....", HEADS),
    result(BOTH, 1, "xxxxxx....", HEADS),
    result(BOTH, 2, "xxxxxxx...", HEADS),
]


def rows_of(results, **options) -> dict[str, dict]:
    return {row["row"]: row for row in table(results, **options)}


def cells_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_means_deviations_and_pairs_by_hand():
    rows = rows_of(THREE)
    assert list(rows) == NAMES
    assert rows[HEADS]["mean"] == pytest.approx(0.45) and rows[HEADS]["deviation"] == pytest.approx(0.05 * 2**0.5)
    both = rows[BOTH]
    assert both["mean"] == pytest.approx(1.9 / 3) and both["deviation"] == pytest.approx(0.1 / 3**0.5)
    assert both["seeds"] == [0, 1, 2] and both["paired_seeds"] == [0, 1]  # seed 2 has no partner
    assert both["difference"] == pytest.approx(0.15)  # 0.2 and 0.1
    low, high, p = both["over_seeds"]
    theirs = stats.ttest_rel([0.6, 0.6], [0.4, 0.5])
    interval = theirs.confidence_interval()
    assert (low, high, p) == pytest.approx((interval.low, interval.high, theirs.pvalue))
    assert both["mcnemar"] == pytest.approx([0.5, 1.0])  # two gained, one gained; none lost
    assert both["over_both"][1] - both["over_both"][0] > 0
    assert both["wall_time_s"] == 101 and both["suppressed"] == [0.25, 0.5, 1.0] and both["overlap"] == 0.5
    assert rows[HEADS]["suppressed"] is None and rows[HEADS]["diversity_loss"] is None


def test_a_row_that_was_not_run_and_one_without_a_partner():
    rows = rows_of(THREE)
    assert rows[PLAIN]["seeds"] == [] and rows[PLAIN]["mean"] is None and rows[PLAIN]["difference"] is None
    assert rows[HEADS]["against"] == PLAIN and rows[HEADS]["difference"] is None and rows[HEADS]["mcnemar"] == []
    _, _, plain, heads, both = cells_of(markdown(list(rows.values())))
    assert plain == [PLAIN, "0", "not run", "", "", "", "", ""]
    assert heads[:5] == [HEADS, "2", "45.0 ± 7.1", "5.0", f"{PLAIN}: no seed in common"]
    assert both[:6] == [BOTH, "3", "63.3 ± 5.8", "5.0", HEADS, "+15.0"]
    assert both[6] == "-48.5 to +78.5, p = 0.2"


def test_one_seed_has_no_deviation_and_only_the_images_to_judge_by():
    first, second = result(HEADS, 0, "xx.." * 10), result(BOTH, 0, "xxx." * 10, HEADS)
    rows = rows_of([first, second])
    assert rows[BOTH]["deviation"] is None and rows[BOTH]["over_seeds"] == [None, None, None]
    assert rows[BOTH]["mcnemar"] == pytest.approx([2 / 2**10])
    *_, line = cells_of(markdown(list(rows.values())))
    assert line[2] == "75.0 (one seed)" and line[6] == ""
    half = 100 * stats.t.ppf(0.975, 39) * (0.25 * 0.75 / 39) ** 0.5
    assert line[7] == f"one seed: {25 - half:+.1f} to {25 + half:+.1f}, p < 0.001"


def test_rows_that_are_alike_differ_by_nothing():
    rows = rows_of([result(row, seed, "xxx...", HEADS if row == BOTH else None) for row in NAMES for seed in range(3)])
    assert rows[BOTH]["deviation"] == 0 and rows[BOTH]["difference"] == 0
    assert rows[BOTH]["over_seeds"] == rows[BOTH]["over_both"] == [0, 0, 1] and rows[BOTH]["mcnemar"] == [1, 1, 1]
    assert "+0.0 to +0.0, p = 1" in markdown(list(rows.values()))


def test_nothing_run_is_an_empty_table_or_one_of_the_planned_rows():
    assert table([]) == [] and sources([]) == "Nothing has been run yet."
    assert markdown([]).count("\n") == 1 and comma_separated([]) == "\n"
    planned = table([], ["one", "two"])
    assert [row["row"] for row in planned] == ["one", "two"]
    for columns in (ACCURACY, COST, ATTENTION, HELD_OUT):
        assert all(line[0] in ("one", "two") for line in cells_of(markdown(planned, columns))[2:])


def test_the_order_of_the_results_changes_nothing_and_newer_rows_are_kept():
    longer = THREE[0] | {"rows": [PLAIN, HEADS, BOTH, "newer"]}
    rows = table([*THREE[1:], longer])
    assert [row["row"] for row in rows] == [PLAIN, HEADS, BOTH, "newer"]
    assert rows == table([longer, *reversed(THREE[1:])])
    assert [row["row"] for row in table(THREE, [BOTH, "other"])] == [BOTH, "other", HEADS]  # no result is passed over


def test_results_that_are_no_pair_or_no_row_are_refused():
    refused("has two results of seed 0", table, [THREE[0], THREE[0]])
    other = result(HEADS, 2, "xx........")
    other["recipe"] |= {"epochs": 99, "delta": 0.5}
    refused("'heads' holds runs that differ in delta, epochs", table, [*THREE, other])
    refused("tested on different images", table, [THREE[0], result(BOTH, 0, "xxxx", HEADS)])
    changed = result(BOTH, 0, "x.........", HEADS, dataset={"name": "birds", "fingerprint": "def"})
    refused("tested on different images", table, [THREE[0], changed])


def test_another_folder_of_the_images_makes_no_other_row():
    elsewhere = result(HEADS, 2, "xx........", PLAIN)
    elsewhere["recipe"] |= {"root": "elsewhere", "cache": "elsewhere"}
    assert rows_of([*THREE, elsewhere])[HEADS]["seeds"] == [0, 1, 2]


def test_a_run_that_diverged_is_counted_and_never_averaged():
    kept = ("row", "against", "rows", "recipe", "seed", "dataset", "images", "parameters", "commit", "device")
    lost = {key: value for key, value in result(HEADS, 2, "x").items() if key in kept} | {"status": "diverged"}
    rows = rows_of([*THREE, lost])
    assert rows[HEADS]["mean"] == pytest.approx(0.45) and rows[HEADS]["diverged"] == [2]
    assert rows[BOTH]["paired_seeds"] == [0, 1]
    assert cells_of(markdown(list(rows.values())))[3][1] == "2, 1 diverged"
    only = cells_of(markdown(table([lost])))[3]
    assert only[1:3] == ["0, 1 diverged", "diverged"]
    assert sources(table([lost])).startswith("Runs: 1;")


def test_the_best_rate_is_that_of_the_held_out_images_alone():
    def tried(row, rate, held_out, right):
        one = result(row, 0, right, held_out_accuracy=held_out)
        one["recipe"] |= {"lr_backbone": rate}
        return one | {"row": f"{row}, rate {rate}", "rows": []}

    results = [
        *(tried(PLAIN, 1e-3, 0.4, "xxxx"), tried(PLAIN, 2e-3, 0.6, "...."), tried(PLAIN, 4e-3, 0.6, "xxxx")),
        *(tried(BOTH, 1e-3, 0.7, "...."), tried(BOTH, 2e-3, 0.6, "xxxx"), tried(BOTH, 4e-3, 0.5, "xxxx")),
    ]
    rows = table(results, [one["row"] for one in results])
    assert [row["row"] for row in rows if row["best"]] == [f"{PLAIN}, rate 0.002", f"{BOTH}, rate 0.001"]
    lines = cells_of(markdown(rows, HELD_OUT))[2:]
    assert [line[4] for line in lines] == ["", "best", "", "best, at the edge of what was tried", "", ""]
    assert [line[3] for line in lines] == ["40.0", "60.0", "60.0", "70.0", "60.0", "50.0"]


def test_costs_and_attention_are_shown_in_their_units():
    rows = table([*THREE, result(PLAIN, 0, "x.........", peak_memory_bytes=3_000_000_000)])
    cost = cells_of(markdown(rows, COST))
    assert cost[2] == [PLAIN, "5.00", "2.00", "50", "100", "3.00"]
    assert cost[4] == [BOTH, "5.00", "2.00", "50", "101", "not measured"]
    assert cells_of(markdown(rows, ATTENTION))[4] == [BOTH, "0.25, 0.50, 1.00", "0.50", "1.00, 0.50, 0.00", "0.40"]
    dirty = result(PLAIN, 1, "x.........", commit="fedcba9876543210-dirty")
    said = sources(table([*THREE, dirty]))
    assert said == "Runs: 6; commits: 0123456, fedcba9-dirty; devices: abacus (threads: 2)."


def test_csv_and_json_hold_the_numbers_unrounded():
    rows = table(THREE)
    read = list(csv.DictReader(comma_separated(rows).splitlines()))
    assert float(read[2]["mean"]) == rows[2]["mean"] and read[0]["mean"] == ""
    assert [float(value) for value in read[2]["accuracies"].split()] == rows[2]["accuracies"]
    assert json.loads(json.dumps(rows)) == rows


def test_any_two_rows_can_be_compared():
    found = compare(THREE[2:], THREE[:2])
    assert found["difference"] == pytest.approx(-0.15) and found["paired_seeds"] == [0, 1]


def test_experiments_kept_with_the_package_are_called_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    planned = [row.name for row in grid("table3", base_recipe("birds"))]
    assert [(row["row"], row["mean"]) for row in table("birds/table3")] == [(name, None) for name in planned]
    assert table("birds/nothing") == []
    (tmp_path / "birds" / "table3").mkdir(parents=True)
    for one in THREE:
        (tmp_path / "birds" / "table3" / f"{one['row']}{one['seed']}.json").write_text(json.dumps(one))
    rows = table("birds/table3")
    assert [row["row"] for row in rows] == planned
    assert {row["row"]: len(row["seeds"]) for row in rows if row["seeds"]} == {HEADS: 2, BOTH: 3}
