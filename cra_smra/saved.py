"""A trained network on disk with all that a prediction needs: weights, recipe, class names, preprocessing.

What is read here may come from a stranger. No code that a file may hold is run, and a file that does not describe
exactly one network is answered with one line.
"""

from __future__ import annotations

import json
import types
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torchvision.transforms import v2

from cra_smra.backbones import read_state
from cra_smra.data.transforms import STATISTICS, resize_and_crop
from cra_smra.model import CRASMRA, PlainNetwork
from cra_smra.recipes import Recipe
from cra_smra.runs import read_checkpoint, read_run, write_json, write_whole

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # the names that the hub knows
# What the network and its images depend on: a file that lacks one of these must not be filled up with a default.
NEEDED = ("dataset", "image_size", "crop", "normalisation", "method", "backbone", "cram", "smram", "out_channels",
          "reduction", "omega", "delta", "neck", "shared_phi", "smram_norm", "pooling", "head",
          "final_norm")
MAX_SIZE = 4096  # pixels; the side of an input that a file may ask for


def geometry(recipe: Recipe) -> v2.Compose:
    """From a uint8 image (3, H, W) of any size to (3, S, S), as test images were treated when the network was trained.

    Photographs are resized to 550/448 of S and cropped at the centre. Birds were drawn at size S and seen whole, so an
    image is only resized to S, and one that has this size stays as it is. Both directions are resized alike: an image
    that is not square is squashed.
    """
    size = recipe.image_size
    if recipe.dataset == "birds":
        return v2.Compose([v2.Resize((size, size), antialias=True), v2.CenterCrop(size)])
    return resize_and_crop(size, train=False, crop=recipe.crop)


def preprocessing(recipe: Recipe) -> dict[str, list[int] | list[float]]:
    """The steps from an image to the network's input, in numbers, for config.json and for readers in other languages:
    resize, crop (height, width), then (pixel / 255 - mean) / deviation.
    """
    resize, crop = geometry(recipe).transforms
    mean, deviation = STATISTICS[recipe.normalisation]
    return {"resize": [*resize.size], "crop": [*crop.size], "mean": [*mean], "deviation": [*deviation]}


def write_saved(folder: Path, network: CRASMRA | PlainNetwork, recipe: Recipe, classes: list[str]) -> None:
    """Write config.json and model.safetensors into an existing folder.

    The recipe goes without the folder of its data set and the path of its first weights, which concern nobody else.
    """
    from safetensors.torch import save

    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    write_whole(folder / WEIGHTS, lambda file: file.write(save(tensors)))
    weights = None if recipe.weights is None else Path(recipe.weights).name
    config = {
        "cra_smra": version("cra_smra"),
        "recipe": replace(recipe, root=None, weights=weights).to_dict(),
        "classes": list(classes),
        "preprocessing": preprocessing(recipe),
    }
    write_json(folder / CONFIG, config)


def read_saved(folder: Path) -> tuple[CRASMRA | PlainNetwork, Recipe, list[str]]:
    """Network in evaluation mode, recipe and class names from a folder that ``write_saved`` filled.

    Raises ValueError when a file is missing, damaged or changed so that the two no longer describe one network.
    """
    path = folder / CONFIG
    for needed in (path, folder / WEIGHTS):
        if not needed.is_file():
            raise ValueError(f"{folder} holds no saved classifier: {needed.name} is not there")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested without end
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    recipe, classes = check_description(config, path)
    if config.get("preprocessing") != preprocessing(recipe):
        raise ValueError(f"{path}: preprocessing is not what the recipe says ({preprocessing(recipe)}): get it again")
    return build(recipe, classes, read_state(folder / WEIGHTS), folder / WEIGHTS), recipe, classes


def read_trained(run: Path, checkpoint: str = "chosen") -> tuple[CRASMRA | PlainNetwork, Recipe, list[str]]:
    """Network in evaluation mode, recipe and class names of a run directory; ``checkpoint`` is "chosen", the epoch
    that its protocol chose, or "last".

    Raises ValueError as ``read_saved`` does.
    """
    record, path = read_run(run), run / "run.json"
    described = record.get("dataset") if isinstance(record, dict) else None
    if not isinstance(described, dict):
        raise ValueError(f"{path} does not say which data set the run is of: train it again")
    recipe, classes = check_description(record | {"classes": described.get("classes")}, path)
    weights = run / "checkpoints" / f"{checkpoint}.pt"
    stored = read_checkpoint(weights)
    state = stored.get("model") if isinstance(stored, dict) else None
    return build(recipe, classes, state, weights), recipe, classes


def check_description(values: object, path: Path) -> tuple[Recipe, list[str]]:
    """Recipe and class names out of JSON; ValueError unless both are there and make sense."""
    values = values if isinstance(values, dict) else {}
    fields, classes = values.get("recipe"), values.get("classes")
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds no recipe: it must be an object with the fields of a Recipe")
    lacking = [name for name in NEEDED if name not in fields]
    if lacking:
        raise ValueError(f"{path}: the recipe lacks {', '.join(lacking)}, on which the network depends")
    for name, hint in get_type_hints(Recipe).items():
        if name in fields and not fits(fields[name], hint):
            raise ValueError(f"{path}: {name} of the recipe cannot be {json.dumps(fields[name])[:40]}")
    try:
        recipe = Recipe.from_dict(fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if recipe.image_size > MAX_SIZE:
        raise ValueError(f"{path}: image_size must be at most {MAX_SIZE}, got {recipe.image_size}")
    named = isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)
    if not named or not 2 <= len(classes) == len(set(classes)):
        raise ValueError(f"{path}: classes must be a list of at least 2 different names")
    return recipe, classes


def fits(value: object, hint: object) -> bool:
    """Whether a value out of JSON is of the type that a field of the recipe has; an int is a float, a bool no int."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    return type(value) in ((int, float) if hint is float else (hint,))


def build(recipe: Recipe, classes: list[str], state: dict[str, Tensor] | None, path: Path) -> CRASMRA | PlainNetwork:
    """The recipe's network with the weights ``state`` that ``path`` held, in evaluation mode.

    Raises ValueError unless the weights are the network's, name by name, in shape and type, all numbers finite.
    """
    try:
        with torch.device("meta"):  # without memory, so that a nonsense width costs nothing
            network = replace(recipe, weights=None).build(len(classes))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the recipe beside {path} describes no network that can be built: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict, which maps names to tensors")
    own = network.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape or type": [
            name
            for name, value in own.items()
            if name in state and (state[name].shape, state[name].dtype) != (value.shape, value.dtype)
        ],
    }
    if not any(faults.values()):
        faults["not finite"] = [name for name, value in state.items() if not value.isfinite().all()]
    first = next((name for names in faults.values() for name in names), None)
    if first is not None:
        counts = ", ".join(f"{len(names)} {fault}" for fault, names in faults.items())
        raise ValueError(f"{path} does not fit its recipe: of its weights are {counts} (first: {first!r})")
    network.load_state_dict(state, assign=True)
    return network.eval()
