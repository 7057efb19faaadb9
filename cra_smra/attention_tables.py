"""Tables of measured attention: one run or row by itself, and the rows of a grid beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cra_smra.attention import MAPS
from cra_smra.experiments import identity
from cra_smra.grids import Row
from cra_smra.measured_attention import over_seeds
from cra_smra.recipes import Recipe


def by_row(results: Sequence[Mapping[str, object]], rows: Sequence[Row]) -> dict[str, list[Mapping[str, object]]]:
    """Those of the results of ``measure_run`` that belong to each row of a grid, whatever their seed, in the order of
    the seeds; an empty list where nothing was measured.
    """
    seedless = [
        (identity(Recipe.from_dict(result["trained"]["recipe"])) | {"seed": None}, result) for result in results
    ]
    found = {}
    for row in rows:
        wanted = identity(row.recipe) | {"seed": None}
        found[row.name] = sorted(
            (result for recipe, result in seedless if recipe == wanted), key=lambda result: result["trained"]["seed"]
        )
    return found


def rows_table(found: Mapping[str, Sequence[Mapping[str, object]]], kind: str = "grad_cam") -> str:
    """The rows of ``by_row`` as one Markdown table of the map ``kind``, in percent, means over the seeds with half
    the width of their 95 % interval; where the cell stands for stages 3, 4 and 5, without it.

    "flat" is what a map without any structure would have.
    """
    head = ["row", "seeds", "overlap of the stages", "entropy, stages 3 to 5"]
    head += ["mass on the bird", "flat", "largest cell on the part that tells", "flat"]
    lines = [head, ["---"] * len(head)]
    for name, results in found.items():
        kept = [result["attention"] for result in results if kind in result["attention"]["maps"]]
        if not kept:
            lines.append([name, "0", "not run" if not results else "no such map", *[""] * (len(head) - 3)])
            continue
        maps = over_seeds(kept)["maps"][kind]
        stages = maps["stages"]
        line = [name, str(len(kept)), _percent(maps["overlap"]), _three([row["entropy"] for row in stages])]
        for what, region in (("mass", "object"), ("peak", "distinguishing")):
            flat = stages[-1]["uniform"][region]
            line += [_three([row[what][region] for row in stages]), _percent(flat, spread=False)]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(attention: Mapping[str, object]) -> str:
    """What ``measure`` or ``over_seeds`` returned as a Markdown table: a row for each map of each stage, in percent,
    with half the width of the interval where there are several seeds.

    "flat" is what a map without any structure would have. Of the parts, the one is named on which the map's mass is
    largest in relation to that, with the ratio.
    """
    names = attention["regions"]
    parts = names[: names.index("object")]
    told = [name for name in ("object", "distinguishing") if name in names]
    head = ["map", "stage", *(f"{what} on {name}" for name in told for what in ("mass", "peak", "flat"))]
    lines = [[*head, *(["most on"] if parts else []), "entropy", "overlap"]]
    lines.append(["---"] * len(lines[0]))
    for kind, found in attention["maps"].items():
        for stage, row in enumerate(found["stages"], start=3):
            line = [MAPS[kind], str(stage)]
            line += [_percent(row[what][name]) for name in told for what in ("mass", "peak", "uniform")]
            if parts:
                shares = {name: (_mean(row["mass"][name]), _mean(row["uniform"][name])) for name in parts}
                ratios = {name: share / flat for name, (share, flat) in shares.items() if share is not None and flat}
                most = max(ratios, key=ratios.get, default=None)
                line.append("-" if most is None else f"{most} x {ratios[most]:.1f}")
            lines.append([*line, _percent(row["entropy"]), _percent(found["overlap"])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(value: float | None | Mapping[str, float | None]) -> float | None:
    """A value of one result, or its mean over seeds."""
    return value["mean"] if isinstance(value, Mapping) else value


def _three(values: Sequence[Mapping[str, float | None]]) -> str:
    return ", ".join(_percent(value, spread=False) for value in values)


def _percent(value: float | None | Mapping[str, float | None], *, spread: bool = True) -> str:
    """A share for the table."""
    mean = _mean(value)
    if mean is None:
        return "-"
    high = value["high"] if spread and isinstance(value, Mapping) else None
    return f"{100 * mean:.1f}" + ("" if high is None else f" ± {100 * (high - mean):.1f}")
