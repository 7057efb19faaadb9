"""``cra-smra ablate``."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cra_smra.data import DATASETS
from cra_smra.experiments import cells, run_cell, stored_cell
from cra_smra.grids import GRIDS, base_recipe, grid
from cra_smra.recipes import Recipe
from cra_smra.runs import write_json, write_whole
from cra_smra.tables import ACCURACY, ATTENTION, COST, HELD_OUT, comma_separated, markdown, sources, table


def run(argv: list[str]) -> None:
    """Run the cells of a grid that are not there yet, then print its tables and write them into OUT/tables."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # the base decides the other defaults
    first.add_argument("--base", default="birds")
    base = first.parse_known_args(argv)[0].base
    start = base_recipe(base if base in DATASETS else "birds")  # tyro answers a wrong name below

    @dataclass
    class Ablate:
        """Train every row of a grid with several seeds, and print how they compare. Given again after an interruption,
        the command goes on.
        """

        grid: Annotated[Literal[GRIDS], tyro.conf.Positional]
        """table3: the modules. table4: delta. table5: gamma. ledger: the other readings, one at a time. remedies: ours,
        normalised maps and an omega that grows. rates: search of the learning rates.
        """
        show: bool = False
        """Print the tables of what is there; train nothing, write nothing. Give the other options as for the runs."""
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: start)
        base: Literal[DATASETS] = "birds"
        """The data set, whose recipe all rows have in common; any of its fields is an option."""
        seeds: int | None = None
        """How many, from --seed on: 5, and 1 for rates."""
        out: str = "runs/ablate"
        """Folder of the run directories."""
        results: str | None = None
        """Folder of the result files, one folder in it for each grid; OUT/results."""
        plain_rate: float | None = None
        """table3: learning rate of the plain backbone; by default that of its quick recipe, elsewhere --lr-backbone."""
        rates: tuple[float, ...] | None = None
        """rates: what to try as --lr-backbone, by default from a quarter of it to four times it; the other two learning
        rates keep their ratio to it.
        """

    options = tyro.cli(Ablate, prog="cra-smra ablate", args=argv, config=(tyro.conf.OmitArgPrefixes,))
    swept = {"table4": ("delta",), "table5": ("gamma",)}.get(options.grid, ())
    for name in ("dataset", "method", "cram", "smram", *swept):
        if getattr(options.recipe, name) != getattr(start, name):
            raise ValueError(f"{name} cannot be given: --base chooses the data set, and {options.grid} the rest")
    out = Path(options.out)
    folder = Path(options.results or out / "results") / options.grid
    rows = grid(options.grid, options.recipe, options.plain_rate, options.rates)
    usual = 1 if options.grid == "rates" else 5
    todo = cells(rows, usual if options.seeds is None else options.seeds)

    if options.show:
        found = [result for cell in todo if (result := stored_cell(cell, rows, folder))]
    else:
        from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

        found = []
        with tqdm(todo, unit="cell") as bar:
            for number, cell in enumerate(bar, start=1):
                bar.set_description(f"cell {number} of {len(todo)}: {cell.row.name}, seed {cell.recipe.seed}")
                found.append(run_cell(cell, rows, out, folder))
    compared = table(found, [row.name for row in rows])
    # A search is decided on held-out images alone, so no test accuracy is shown.
    parts = (HELD_OUT,) if options.grid == "rates" else (ACCURACY, COST, ATTENTION)
    text = "\n\n".join([*(markdown(compared, columns) for columns in parts), sources(compared)]) + "\n"
    if not options.show:
        path = out / "tables" / f"{options.grid}.md"
        write_text(path, text)
        write_text(path.with_suffix(".csv"), comma_separated(compared))
        write_json(path.with_suffix(".json"), compared)
    print(text, end="")


def write_text(path: Path, text: str) -> None:
    """Write a text in full or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))
