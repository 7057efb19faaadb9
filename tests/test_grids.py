"""Which recipes stand in which table."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest

from conftest import refused
from cra_smra import CRASMRA, Recipe
from cra_smra.grids import GRIDS, NETWORKS, base_recipe, grid, with_rate
from cra_smra.model import PlainNetwork

BIRDS = base_recipe("birds")


def changed(one: Recipe, other: Recipe) -> set[str]:
    return {field.name for field in fields(Recipe) if getattr(one, field.name) != getattr(other, field.name)}


def test_the_birds_of_an_ablation_leave_less_than_a_point_of_error():
    images = BIRDS.num_classes * BIRDS.test_per_class
    assert images == 3000 and (0.5 * 0.5 / images) ** 0.5 < 0.01
    assert (BIRDS.protocol, BIRDS.epochs, BIRDS.precision) == ("clean", 12, "bf16")
    assert base_recipe("groceries") == Recipe.quick("groceries") and base_recipe("cub") == Recipe.paper("cub")


def test_table_3_switches_the_modules_in_the_paper_s_order_and_nothing_else():
    rows = grid("table3", BIRDS)
    assert [row.name for row in rows] == [
        *("plain backbone", "heads", "heads + CBAM", "heads + CRAM", "heads + CRAM + SMRAM", "heads + SMRAM")
    ]
    assert [row.against for row in rows] == [
        *(None, "plain backbone", "heads", "heads + CBAM", "heads + CRAM", "heads")
    ]
    plain, *others = (row.recipe for row in rows)
    assert isinstance(plain.build(2), PlainNetwork)
    assert changed(plain, BIRDS) <= {"method", "lr_backbone", "lr_cram", "lr_heads"}
    built = [(type(recipe.build(2).cram[0]).__name__, recipe.build(2).smram is not None) for recipe in others]
    assert built == [("Neck", False), ("CBAM", False), ("CRAM", False), ("CRAM", True), ("Neck", True)]
    assert all(changed(recipe, BIRDS) <= {"cram", "smram"} for recipe in others)


def test_the_plain_backbone_has_its_own_rate_where_one_was_searched():
    def rate(base, **options):
        recipe = grid("table3", base, **options)[0].recipe
        return recipe.lr_backbone, recipe.lr_heads

    quick = Recipe.quick("birds", method="plain")
    assert rate(BIRDS) == (quick.lr_backbone, quick.lr_heads) != (BIRDS.lr_backbone, BIRDS.lr_heads)
    assert rate(BIRDS, plain_rate=0.04) == pytest.approx((0.04, 0.04))
    assert rate(Recipe.paper("cub")) == pytest.approx((2e-4, 6e-3))  # nobody has searched there


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("table4", "delta", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0]),
        ("table5", "gamma", [0.0, 0.5, 1.0, 2.0, 5.0]),
    ],
)
@pytest.mark.parametrize("dataset", ["birds", "cub"])
def test_tables_4_and_5_sweep_one_field_of_the_whole_method(name, field, values, dataset):
    base = base_recipe(dataset)
    rows = grid(name, replace(base, cram=None, smram=False))
    assert [getattr(row.recipe, field) for row in rows] == values
    assert all(changed(row.recipe, base) <= {field} for row in rows)
    own = {row.name for row in rows if row.against is None}
    assert own == {row.against for row in rows} - {None} == {row.name for row in rows if row.recipe == base}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dataset", ["birds", "groceries", "cub"])
def test_rows_of_a_grid_share_protocol_and_budget_and_no_name(name, dataset):
    base = replace(base_recipe(dataset), epochs=8)
    rows = grid(name, base)
    same = ("dataset", "protocol", "epochs", "batch_size", "image_size", "backbone", "weights", "seed", "precision")
    for row in rows:
        assert not changed(row.recipe, base) & set(same)
        assert row.against is None or row.against in {other.name for other in rows} - {row.name}
    assert len({row.name for row in rows}) == len({row.recipe for row in rows}) == len(rows)


def test_the_ledger_changes_one_field_at_a_time_and_forgets_no_switch_of_the_network():
    base = Recipe.paper("cub", backbone="densenet161")
    first, *others = grid("ledger", base)
    assert first.recipe == base and first.against is None
    single = [changed(row.recipe, base) for row in others]
    assert all(len(change) == 1 for change in single) and all(row.against == first.name for row in others)
    switched = set.union(*single)
    switches = set(inspect.signature(CRASMRA).parameters) - {"backbone", "num_classes", "weights"}
    assert switches - switched == {"cram", "smram", "smram_norm", "omega", "delta"}  # omega is equal in both readings
    assert {"crop", "lr_heads", "normalisation", "weight_decay", "cosine"} <= switched
    readings = {"pooling": {"max", "mean", "top5"}, "neck": {"conv1x1", "fbsd"}, "head": {"mlp", "linear"}}
    for field, names in readings.items():
        assert {getattr(row.recipe, field) for row in (first, *others)} == names
    of_birds = set.union(*(changed(row.recipe, BIRDS) for row in grid("ledger", BIRDS)))
    assert {"crop", "final_norm"}.isdisjoint(of_birds)  # they would change nothing there


def test_the_remedies_are_the_whole_method_with_two_fields_switched_one_by_one_and_together():
    first, *others = grid("remedies", BIRDS)
    assert first.recipe == BIRDS and all(row.against == first.name for row in others)
    assert [changed(row.recipe, BIRDS) for row in others] == [
        *({"smram_norm"}, {"omega_warmup"}, {"smram_norm", "omega_warmup"})
    ]
    assert {row.recipe.omega_warmup for row in others} == {0, 3}  # a quarter of the epochs


def test_networks_are_searched_over_the_same_rates_in_the_same_ratio():
    base = Recipe.paper("cub")  # CRAM at thirty times the backbone's
    rows = grid("rates", base, rates=[1e-4, 4e-4])
    assert [row.recipe.lr_backbone for row in rows] == pytest.approx([1e-4, 4e-4] * 3)
    assert grid("rates", base, rates=[1e-4, 4e-4, 1e-4]) == rows
    assert all(row.recipe.lr_cram == pytest.approx(30 * row.recipe.lr_backbone) for row in rows)
    assert all(row.recipe.lr_heads == pytest.approx(30 * row.recipe.lr_backbone) for row in rows)
    assert [row.recipe.method for row in rows] == ["plain"] * 2 + ["cra-smra"] * 4
    assert [(row.recipe.cram, row.recipe.smram) for row in rows[2:]] == [(None, False)] * 2 + [("cram", True)] * 2
    of_birds = [row.recipe for row in grid("rates", BIRDS)]
    assert len(of_birds) == 15
    assert grid("table3", BIRDS)[0].recipe in of_birds  # the rates in use are among those tried
    assert replace(BIRDS, **NETWORKS["heads"]) in of_birds and BIRDS in of_birds


def test_what_makes_no_grid_is_refused():
    refused("table3, table4, table5, ledger, remedies, rates, got 'table9'", grid, "table9", BIRDS)
    refused("protocol must be 'clean', got 'paper'", grid, "rates", replace(BIRDS, protocol="paper"))
    refused("must be positive, got 0", grid, "rates", BIRDS, rates=[0.0])
    refused("must be positive, got -1", grid, "table3", BIRDS, plain_rate=-1)
    refused("must be positive, got 0.1 in place of 0", with_rate, replace(BIRDS, lr_backbone=0.0), 0.1)
