"""``cra-smra explain``."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import tyro


def run(argv: list[str]) -> None:
    """Ask a run about an image, print the answer and draw where the network looked."""

    @dataclass
    class Explain:
        """What a trained run says about an image file, and where it looks: a figure of the maps of stages 3, 4 and 5
        as PNG, and a JSON with the most probable classes of each classifier.
        """

        run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """The run directory, as written by train."""
        image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
        """An image file of any size."""
        out: str | None = None
        """The folder for IMAGE.png and IMAGE.json; by default explained/ in the run directory."""

    options = tyro.cli(Explain, prog="cra-smra explain", args=argv)
    import matplotlib.pyplot as plt  # late, as all below: slow to import

    from cra_smra.attention import MAPS
    from cra_smra.explain import explain
    from cra_smra.plots_attention import attention_rows
    from cra_smra.runs import write_json, write_whole

    found = explain(options.run, options.image)
    best = found.facts["prediction"]
    rows = {MAPS[kind].replace(", ", ",\n"): maps for kind, maps in found.maps.items()}
    figure = attention_rows(found.image, rows, f"{best['class']}, {best['probability']:.0%}")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=160)
    plt.close(figure)
    target = Path(options.out or Path(options.run) / "explained") / Path(options.image).stem
    write_whole(target.with_name(target.name + ".png"), lambda file: file.write(picture.getvalue()))
    write_json(target.with_name(target.name + ".json"), found.facts)
    for name, classes in found.facts["classifiers"].items():
        print(f"{name:8} " + ", ".join(f"{row['class']} {row['probability']:.1%}" for row in classes))
    if found.facts["suppressed"] is not None:
        print("suppressed channels " + ", ".join(f"{share:.0%}" for share in found.facts["suppressed"]))
    print(f"{target}.png, {target}.json")
