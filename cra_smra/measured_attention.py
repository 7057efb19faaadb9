"""Attention maps of networks and runs, measured against the parts and boxes of their images, and over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cra_smra.attention import attention_maps, entropy
from cra_smra.coverage import coverage, mass, region_names, regions, shared_top
from cra_smra.data import Split
from cra_smra.data.transforms import normalise
from cra_smra.experiments import machine_free
from cra_smra.model import CRASMRA, PlainNetwork
from cra_smra.runs import provenance, read_run
from cra_smra.saved import read_trained
from cra_smra.statistics import t_interval

BATCH = 16  # images whose gradients are held at once: at 448 px some gigabytes


def measure_maps(maps: Mapping[str, Sequence[Tensor]], masks: Tensor, names: Sequence[str]) -> dict[str, object]:
    """Measure maps, by kind one (B, h, w) for each stage, against masks (B, R, H, W) of the regions ``names``.

    Returns for each kind the ``overlap`` of the stages and a list of ``stages``; a stage has its ``cells``,
    ``entropy``, whether it is ``empty`` (0 or 1), and by region ``mass``, ``top``, ``peak`` and ``uniform``
    (``Coverage``). Every value is a tensor (B,), one number for each image.
    """
    measured = {}
    for kind, stages in maps.items():
        rows = []
        for found in stages:
            weights = mass(found)
            row = {"cells": list(found.shape[1:]), "entropy": entropy(weights), "empty": weights[:, 0].isnan().float()}
            for name, values in coverage(found, masks)._asdict().items():
                row[name] = dict(zip(names, values.unbind(dim=1), strict=True))
            rows.append(row)
        measured[kind] = {"overlap": shared_top(stages), "stages": rows}
    return measured


def measure(
    network: CRASMRA | PlainNetwork,
    dataset: Split,
    *,
    statistics: str = "imagenet",
    images: int = 300,
    progress: bool = True,
) -> dict[str, object]:
    """Measure the maps of a network in evaluation mode on ``images`` images of a data set, spread evenly over it,
    since sets are sorted by class; all of them where there are fewer.

    Returns, ready for JSON, the number of ``images``, the names of the ``regions``, and in ``maps`` what
    ``measure_maps`` returns for ``attention.attention_maps``, every value the mean over the images. Empty maps are
    left out of the means, and None stands where all are empty. Grad-CAM asks about the class that the network
    predicts. A part that does not show counts with 0, so that shares add up.

    ``statistics`` are those of ``normalise``. Raises ValueError as ``region_names`` does, and for images below 1.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    names, places = region_names(dataset), spread_places(len(dataset), images)
    count = len(places)
    device = next(network.parameters()).device
    found = []
    hidden = {} if progress else {"disable": True}  # left out, TQDM_DISABLE decides
    with tqdm(total=count, desc="measure attention", leave=False, **hidden) as bar:
        for start in range(0, count, BATCH):
            rows = [regions(dataset, place) for place in places[start : start + BATCH]]
            pictures, masks = (torch.stack(column).to(device) for column in zip(*rows, strict=True))
            found.append(measure_maps(attention_maps(network, normalise(pictures, statistics)), masks, names))
            bar.update(len(rows))

    def mean(batches: list[Tensor]) -> float | None:
        value = torch.cat(batches).double().nanmean().item()
        return None if value != value else round(value, 6)  # JSON knows no NaN

    return {"images": count, "regions": list(names), "maps": _combine(found, mean)}


def over_seeds(results: Sequence[dict[str, object]], level: float = 0.95) -> dict[str, object]:
    """Several results of ``measure``, one for each seed, as one of the same form: every value becomes its ``mean``
    over the seeds, ``low`` and ``high``, the t interval of that ``level``, and the number of ``seeds``.

    The interval is None for one seed, and where ``statistics.t_interval`` knows none. A seed whose maps were all empty
    is left out; without any, mean is None. Raises ValueError for no results, and for results of different images,
    regions or maps.
    """
    if not results:
        raise ValueError("no results to average: measure at least one run first")
    if len({(result["images"], tuple(result["regions"])) for result in results}) > 1:
        raise ValueError("the results were measured on different numbers of images or different regions: measure anew")

    def interval(values: list[float | None]) -> dict[str, float | int | None]:
        kept = [value for value in values if value is not None]
        found = t_interval(kept, level)._asdict() if kept else {}
        return {name: found.get(name) for name in ("mean", "low", "high")} | {"seeds": len(kept)}

    maps = _combine([result["maps"] for result in results], interval)
    return {"images": results[0]["images"], "regions": list(results[0]["regions"]), "maps": maps}


def _combine(trees: list[object], leaf: Callable[[list[object]], object]) -> object:
    """Nested dicts and lists of one shape as one, their values put together by ``leaf``; whole numbers must agree and
    stay.
    """
    first = trees[0]
    if isinstance(first, dict):
        if any(tree.keys() != first.keys() for tree in trees):
            raise ValueError(f"the results have different maps: all must have {', '.join(first)}")
        return {key: _combine([tree[key] for tree in trees], leaf) for key in first}
    if isinstance(first, list):
        return [_combine(list(column), leaf) for column in zip(*trees, strict=True)]
    if isinstance(first, int):
        if set(trees) != {first}:
            raise ValueError(f"the results have maps of different sizes: {first} cells and others in one direction")
        return first
    return leaf(trees)


def spread_places(length: int, count: int) -> list[int]:
    """``count`` of the numbers below ``length``, at even distances from 0 on; all where there are fewer."""
    count = min(count, length)
    return [place * length // count for place in range(count)]


def examples(network: CRASMRA | PlainNetwork, pictures: Tensor, statistics: str) -> list[dict[str, object]]:
    """The maps of single images, uint8 (B, 3, H, W), small enough to keep: for each image, by kind, one for each
    stage, with ``cells`` (h, w) and ``levels``, a byte for each cell, 255 the map's maximum, in hexadecimal digits.
    """
    maps = attention_maps(network, normalise(pictures, statistics))
    return [
        {kind: [packed(found[image]) for found in stages] for kind, stages in maps.items()}
        for image in range(len(pictures))
    ]


def packed(found: Tensor) -> dict[str, object]:
    """A map (h, w) as ``examples`` keeps it; what is below 0 counts as 0."""
    positive = found.detach().float().cpu().clamp_min(0)
    levels = 255 * positive / positive.amax().clamp_min(torch.finfo(positive.dtype).tiny)
    return {"cells": list(found.shape), "levels": levels.round().to(torch.uint8).numpy().tobytes().hex()}


def unpacked(kept: Mapping[str, object]) -> Tensor:
    """The map (h, w) in [0, 1] that ``packed`` kept."""
    return torch.tensor(list(bytes.fromhex(kept["levels"]))).float().view(*kept["cells"]) / 255


def measure_run(
    run: str | Path, *, images: int = 300, shown: int = 0, checkpoint: str = "chosen", progress: bool = True
) -> dict[str, object]:
    """Measure the maps of a finished run on the test images of its data set; ``images`` and the result's
    ``attention`` as in ``measure``.

    The result also has ``trained``, the run's run.json without folders, where and with what it was ``measured``, and
    ``examples``: of ``shown`` images, spread evenly over the test set, the ``place`` in it and the ``maps`` as in
    ``examples``. Raises ValueError for a run that is not there, not finished or of other data.
    """
    record = read_run(run)
    if record["status"] != "finished":
        raise ValueError(f"{run} is not finished: give its train command again, and it goes on")
    network, recipe, classes = read_trained(Path(run), checkpoint)
    dataset = replace(recipe, cache=None).load("test")  # boxes speak of the original pixels
    if list(dataset.classes) != classes:
        raise ValueError(f"the classes of {recipe.dataset} are not those that {run} was trained on")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    places = spread_places(len(dataset), shown)
    kept = []
    if places:
        pictures = torch.stack([regions(dataset, place)[0] for place in places]).to(device)  # uint8 (B, 3, H, W)
        kept = examples(network, pictures, recipe.normalisation)
    return {
        "trained": machine_free(record),
        "measured": {"checkpoint": checkpoint, "test_fingerprint": dataset.fingerprint} | provenance(device),
        "attention": measure(network, dataset, statistics=recipe.normalisation, images=images, progress=progress),
        "examples": [{"place": place, "maps": maps} for place, maps in zip(places, kept, strict=True)],
    }
