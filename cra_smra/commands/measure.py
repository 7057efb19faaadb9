"""``cra-smra measure``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


def run(argv: list[str]) -> None:
    """Measure the attention maps of runs, write a result for each and print its table."""

    @dataclass
    class Measure:
        """Measure where trained runs look: how much of their maps lies on the parts of the birds, on the boxes of
        photographs and on the background, on images of the test set.
        """

        runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """Run directories, as written by train."""
        out: str | None = None
        """The folder for a result RUN.json of each; by default attention.json in each run directory."""
        images: int = 300
        """Test images to measure on, spread evenly over the classes."""
        shown: int = 0
        """Test images whose maps are kept in the result, for figures; spread evenly over the classes."""

    options = tyro.cli(Measure, prog="cra-smra measure", args=argv)
    from cra_smra.attention_tables import table  # late, as all below: slow to import
    from cra_smra.measured_attention import measure_run
    from cra_smra.runs import write_json

    if not options.runs:
        raise ValueError("name at least one run directory: cra-smra measure RUN ...")
    targets = {
        name: Path(name) / "attention.json" if options.out is None else Path(options.out) / f"{Path(name).name}.json"
        for name in options.runs
    }
    if len({target.resolve() for target in targets.values()}) < len(options.runs):
        raise ValueError("two of the runs would write the same result: name each once, or leave --out away")
    for name, target in targets.items():
        found = measure_run(name, images=options.images, shown=options.shown)
        write_json(target, found)
        print(f"{target}: {found['attention']['images']} test images\n{table(found['attention'])}")
