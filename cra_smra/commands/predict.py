"""``cra-smra predict``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cra_smra.predict import Classifier, Prediction
from cra_smra.runs import write_json


def run(argv: list[str]) -> None:
    """Predict images with a trained network and print the most probable classes."""

    @dataclass
    class Predict:
        """Predict images: for each file the most probable classes. An image that cannot be
        read stops everything, and then nothing is printed or written.
        """

        source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        """A run directory, a saved classifier, or owner/name on the Hugging Face hub."""
        images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER")]
        """Image files, and folders of which all images are taken."""
        top: int = 5
        """How many classes are given for an image."""
        maps: bool = False
        """Put SMRAM's attention maps into the JSON file."""
        json: str | None = None
        """A file to write the predictions to."""

    options = tyro.cli(Predict, prog="cra-smra predict", args=argv)
    if options.maps and options.json is None:
        raise ValueError("--maps are written to a file: name it with --json")
    if options.json is not None and Path(options.json).is_dir():
        raise ValueError(f"{options.json} is a folder: give the name of a file")
    found = Classifier.load(options.source).predict(options.images, top=options.top, maps=options.maps)
    if options.json is not None:
        write_json(Path(options.json), [as_json(prediction) for prediction in found])
    for prediction in found:
        print(prediction.image)
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            print(f"  {probability:7.2%}  {name}")


def as_json(prediction: Prediction) -> dict[str, object]:
    """A prediction for JSON; ``maps`` (stages, h, w) as nested lists, or left out."""
    values = prediction._asdict()
    maps = values.pop("maps")
    return values if maps is None else values | {"maps": maps.tolist()}
