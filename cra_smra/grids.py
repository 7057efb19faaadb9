"""The grids of an ablation: rows of a table, each a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cra_smra.recipes import QUICK, Recipe

GRIDS = ("table3", "table4", "table5", "ledger", "remedies", "rates")
PLAIN, HEADS, CBAM, CRAM, BOTH, SMRAM = (
    "plain backbone",
    "heads",
    "heads + CBAM",
    "heads + CRAM",
    "heads + CRAM + SMRAM",
    "heads + SMRAM",
)
# What the paper's Table 3 switches, as fields of a recipe.
NETWORKS = {
    PLAIN: {"method": "plain"},
    HEADS: {"method": "cra-smra", "cram": None, "smram": False},
    CBAM: {"method": "cra-smra", "cram": "cbam", "smram": False},
    CRAM: {"method": "cra-smra", "cram": "cram", "smram": False},
    BOTH: {"method": "cra-smra", "cram": "cram", "smram": True},
    SMRAM: {"method": "cra-smra", "cram": None, "smram": True},
}


class Row(NamedTuple):
    """A row of a table: its name, its recipe, and the row that it is tested against, if any."""

    name: str
    recipe: Recipe
    against: str | None = None


def base_recipe(dataset: str) -> Recipe:
    """What the rows of an ablation have in common: the quick recipe where the set has one, else the paper's. The birds
    get 3,000 test images, so that one run's standard error is below a point, and bf16, twice as fast on some CPUs.
    """
    if dataset == "birds":
        return Recipe.quick("birds", epochs=12, test_per_class=150, precision="bf16")
    return Recipe.quick(dataset) if dataset in QUICK else Recipe(dataset=dataset)


def grid(
    name: str, base: Recipe, plain_rate: float | None = None, rates: Sequence[float] | None = None
) -> list[Row]:
    """The rows of the grid ``name``, one of GRIDS; all have ``base`` in common, its protocol and budget too.

    "table3" switches the modules, "table4" delta, "table5" gamma, "ledger" every other reading of the method that is a
    field of the recipe, one at a time, "remedies" what we add against its weak points. "rates" is the search of the
    learning rates: the plain backbone, the heads and the whole method over the same list of ``rates``, those of the
    backbone, by default from a quarter of the base's to four times it; the other rates keep their ratio to it.
    ``plain_rate`` is the plain backbone's in "table3", by default the one that Recipe.quick has for it, elsewhere the
    base's.

    Raises ValueError for an unknown name, for rates that are not positive, and for a search by protocol "paper".
    """
    if name not in GRIDS:
        raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {name!r}")
    whole = replace(base, **NETWORKS[BOTH])
    if name == "table3":
        recipes = {row: replace(base, **change) for row, change in NETWORKS.items()}
        recipes[PLAIN] = with_rate(recipes[PLAIN], default_plain_rate(base) if plain_rate is None else plain_rate)
        against = {HEADS: PLAIN, CBAM: HEADS, CRAM: CBAM, BOTH: CRAM, SMRAM: HEADS}
        return [Row(row, recipe, against.get(row)) for row, recipe in recipes.items()]
    if name == "table4":
        return sweep(whole, "delta", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0), 0.9)
    if name == "table5":
        return sweep(whole, "gamma", (0.0, 0.5, 1.0, 2.0, 5.0), 1.0)
    if name == "ledger":
        first = "first readings"
        changed = [(f"{field} {spelt(value)}", replace(whole, **{field: value})) for field, value in readings(whole)]
        return [Row(first, whole), *(Row(row, recipe, first) for row, recipe in changed if recipe != whole)]
    if name == "remedies":
        maps, warmup = {"smram_norm": "map"}, {"omega_warmup": base.epochs // 4}
        ours = {"normalised maps": maps, "growing omega": warmup, "both remedies": maps | warmup}
        return [Row(BOTH, whole), *(Row(row, replace(whole, **change), BOTH) for row, change in ours.items())]
    if base.protocol != "clean":
        raise ValueError("rates are chosen on held-out images: protocol must be 'clean', got 'paper'")
    return [
        Row(f"{row}, rate {rate:g}", with_rate(replace(base, **NETWORKS[row]), rate))
        for row in (PLAIN, HEADS, BOTH)
        for rate in dict.fromkeys(rates or [factor * base.lr_backbone for factor in (0.25, 0.5, 1, 2, 4)])
    ]


def default_plain_rate(base: Recipe) -> float:
    """The base's rate; where there is a quick recipe, as many times that as the quick recipe of the plain backbone has,
    which learns from one cross-entropy in place of a sum of weight 7.
    """
    if base.dataset not in QUICK:
        return base.lr_backbone
    plain = Recipe.quick(base.dataset, method="plain")
    return base.lr_backbone * (plain.lr_backbone / Recipe.quick(base.dataset).lr_backbone)


def sweep(base: Recipe, field: str, values: Sequence[float], default: float) -> list[Row]:
    """A row for each value of one field, tested against the row of the paper's value."""
    return [
        Row(f"{field} {value:g}", replace(base, **{field: value}), None if value == default else f"{field} {default:g}")
        for value in values
    ]


def readings(base: Recipe) -> list[tuple[str, object]]:
    """The ledger's other readings, as fields and their values; those without any effect on ``base`` are left out."""
    changes: list[tuple[str, object]] = [
        ("reduction", 4),
        ("out_channels", base.out_channels // 2),
        ("neck", "fbsd"),
        ("shared_phi", True),
        ("pooling", "mean"),
        ("pooling", "top5"),
        ("head", "linear"),
        ("lr_heads", base.lr_heads / 10),
        ("normalisation", "half"),
        ("weight_decay", 5e-4 if base.weight_decay == 1e-5 else 1e-5),
        ("cosine", "swinging"),
    ]
    if base.dataset != "birds":
        changes.append(("crop", "centre"))
    if base.backbone.startswith("densenet"):
        changes.append(("final_norm", False))
    return changes


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    """The recipe with ``rate`` for the backbone; the other two learning rates keep their ratio to it."""
    if not (rate > 0 and recipe.lr_backbone > 0):
        raise ValueError(f"learning rates must be positive, got {rate} in place of {recipe.lr_backbone}")
    scale = rate / recipe.lr_backbone
    return replace(recipe, lr_backbone=rate, lr_cram=recipe.lr_cram * scale, lr_heads=recipe.lr_heads * scale)


def spelt(value: object) -> str:
    """A value as it stands in names: 0.0006 for 0.0006000000000000001."""
    return f"{value:g}" if isinstance(value, float) else str(value)
