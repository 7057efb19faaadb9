"""What a trained run says about an image file, and where it looks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cra_smra.attention import MAPS, attention_maps, entropy
from cra_smra.coverage import mass, shared_top
from cra_smra.data.photographs import decode
from cra_smra.data.transforms import normalise
from cra_smra.experiments import machine_free
from cra_smra.measured_attention import packed
from cra_smra.model import PlainNetwork, fuse
from cra_smra.runs import read_run
from cra_smra.saved import geometry, preprocessing, read_trained


class Explanation(NamedTuple):
    """``image``: what the network saw, uint8 (3, S, S); ``maps``: by the names in ``attention.MAPS``, one (h, w) for
    each stage; ``facts``: everything in numbers and names, ready for JSON.
    """

    image: Tensor
    maps: dict[str, list[Tensor]]
    facts: dict[str, object]


def explain(run: str | Path, path: str | Path, top: int = 5) -> Explanation:
    """Ask a finished run about an image file.

    ``facts`` holds the prediction, which is also the class that Grad-CAM asks about; the ``top`` classes with their
    probabilities for each classifier and for the mean of them; the share of channels that CRAM suppresses in each
    stage; the maps as ``measured_attention.packed`` keeps them, their entropy and overlap; the record of the run,
    without folders, and how the image was prepared by its recipe.

    Raises ValueError for a run that is not there or not finished, and for a file that is no image.
    """
    record = read_run(run)
    if record["status"] != "finished":
        raise ValueError(f"{run} is not finished: give its train command again, and it goes on")
    photograph = decode(path, upright=True)  # (3, H, W)
    network, recipe, classes = read_trained(Path(run))
    image = geometry(recipe)(photograph)  # (3, S, S)
    inputs = normalise(image[None], recipe.normalisation)
    with torch.no_grad():
        output = network(inputs)
    plain = isinstance(network, PlainNetwork)
    stages = {f"stage {stage}": logits for stage, logits in enumerate(output.stage_logits[0], start=3)}
    said = {name: logits.softmax(dim=0) for name, logits in stages.items()}  # (K,) each
    said["only" if plain else "joint"] = output.overall_logits[0].softmax(dim=0)
    mean = fuse(output.stage_logits, output.overall_logits)[0]
    said |= {} if plain else {"mean": mean}
    suppressed = None if plain else network.inspect(inputs).suppressed
    maps = attention_maps(network, inputs, mean.argmax()[None])
    facts = {
        "image": Path(path).name,
        "height_and_width": list(photograph.shape[1:]),
        "preprocessing": preprocessing(recipe),
        "trained": machine_free(record),
        "prediction": _best(mean, classes, 1)[0],
        "classifiers": {name: _best(probabilities, classes, top) for name, probabilities in said.items()},
        "suppressed": None if suppressed is None else suppressed.tolist(),
        "maps": {
            kind: {
                "name": MAPS[kind],
                "stages": [packed(found[0]) for found in stages],
                "entropy": [_number(entropy(mass(found))) for found in stages],
                "overlap": _number(shared_top(stages)),
            }
            for kind, stages in maps.items()
        },
    }
    return Explanation(image, {kind: [found[0] for found in stages] for kind, stages in maps.items()}, facts)


def _best(probabilities: Tensor, classes: list[str], top: int) -> list[dict[str, object]]:
    """The ``top`` most probable of K classes, or all where there are fewer."""
    values, places = probabilities.topk(min(top, len(classes)))
    return [
        {"class": classes[place], "probability": value}
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]


def _number(value: Tensor) -> float | None:
    """The one value of (1,); None, for JSON, where the map is zero everywhere."""
    return None if value.isnan() else value.item()
