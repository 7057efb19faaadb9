"""``cra-smra export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cra_smra.export import FORMATS, export
from cra_smra.graphs import RUNS
from cra_smra.predict import Classifier


def run(argv: list[str]) -> None:
    """Export a trained network and print what was written."""

    @dataclass
    class Export:
        """Write a trained network as one file for other programs: uint8 images (B, 3, S, S)
        in, probabilities (B, K) and those of each classifier (B, 4, K) out. It is compared
        with Python before it is put in its place.
        """

        source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """A run directory, a saved classifier, or owner/name on the Hugging Face hub."""
        out: str | None = None
        """The file; by default network.onnx or network.pt2 in the run directory."""
        format: Literal["onnx", "torch"] = "onnx"
        """onnx: for onnxruntime, browsers and others. torch: a program of torch.export."""
        maps: bool = False
        """Add SMRAM's attention maps (B, 3, h, w) as an output."""

    options = tyro.cli(Export, prog="cra-smra export", args=argv)
    if options.out is None and not Path(options.source).is_dir():
        raise ValueError(f"{options.source} is no folder to write into: name a file with --out")
    out = options.out or Path(options.source) / f"network{FORMATS[options.format]}"
    found = export(Classifier.load(options.source, "cpu"), out, format=options.format, maps=options.maps)
    print(f"{found.path}: {found.size / 2**20:.1f} MiB")
    print(f"largest difference from Python {found.difference:.1e}, on {found.images} images")
    print(f"one image {found.latency:.1f} ms, in Python {found.latency_python:.1f} ms (median of {RUNS})")
