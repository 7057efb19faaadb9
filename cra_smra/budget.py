"""What a full training will cost, by arithmetic: hours on one GPU, its memory, and the size of the cache.

All is counted but the throughput of the plain ResNet-50, an assumption that lies in results/throughput.json. A run
measures its own: ``images_per_s`` in its run.json.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cra_smra.data import HELD_OUT
from cra_smra.data.make import MADE
from cra_smra.data.transforms import enlarged
from cra_smra.losses import total_loss
from cra_smra.recipes import Recipe
from cra_smra.runs import RESULTS

FORWARD = 1 / 3  # of a training step: the backward pass computes two gradients for each product of the forward pass
NETWORKS = {"ResNet-50": "resnet50", "ResNet-101": "resnet101", "DenseNet-161": "densenet161"}


def throughput() -> dict[str, object]:
    """The assumed throughput of the plain ResNet-50: ``ceiling`` in training images/s of each GPU, and the share of
    it that is ``reached``.
    """
    return json.loads((RESULTS / "throughput.json").read_text())


def kept_bytes(network: nn.Module, size: int = 448) -> int:
    """Bytes of activations that a training step keeps for the backward pass, for one image of ``size`` pixels, in the
    precision of the network.

    ``network`` is one of ours on the device "meta", where tensors have a shape and no values, so nothing is allocated.
    """
    batch = 2  # BatchNorm needs two
    own = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}  # storage -> bytes: what several operations keep counts once
    alive: list[Tensor] = []  # else a storage could be freed and its address be given to another

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(torch.empty(batch, 3, size, size))
        _ = total_loss(output, torch.zeros(batch, dtype=torch.long))
    return sum(sizes.values()) // batch


def passes(dataset: str, protocol: str, epochs: int = 200) -> float:
    """How many training images a run is worth: those trained on, and a third of each image that is only predicted,
    over all epochs. ``dataset`` is one of the paper's four, ``protocol`` "clean" or "paper".

    After every epoch, "clean" predicts the held-out tenth of the training images, "paper" the test images.
    """
    train, test = (MADE[dataset][0].counts[split] for split in ("train", "test"))
    if protocol == "clean":
        held = HELD_OUT * train
        return epochs * (train - held + FORWARD * held) + FORWARD * test
    return epochs * (train + FORWARD * test)


def cache_bytes(dataset: str, image_size: int = 448) -> int:
    """Size of the cache of decoded photographs of the whole set: N x 3 x L x L, L the side after resizing."""
    return sum(MADE[dataset][0].counts.values()) * 3 * enlarged(image_size) ** 2


def budget(dataset: str, backbone: str, protocol: str = "clean", gpu: str = "A100") -> dict[str, float]:
    """The cost of the paper's recipe on one GPU, with the assumed throughput: ``hours`` at the share of the ceiling
    that is reached, ``hours_at_ceiling``, and ``memory``, the bytes of a training step in float32.

    A network is taken to be slower than the plain ResNet-50 by as much as it keeps more for the backward pass: at this
    image size a step waits for memory, not for arithmetic. ``memory`` is what is kept for a batch, and weights,
    gradients and momentum; it leaves out what single operations need for a moment. bf16 halves the first part.
    """
    assumed, recipe = throughput(), Recipe.paper(dataset)
    kept, weights = step_bytes(dataset, backbone, recipe.method)
    plain, _ = step_bytes(dataset, "resnet50", "plain")
    seconds = passes(dataset, protocol, recipe.epochs) * kept / plain / assumed["ceiling"][gpu]
    return {
        "hours": seconds / assumed["reached"] / 3600,
        "hours_at_ceiling": seconds / 3600,
        "memory": recipe.batch_size * kept + 3 * weights,
    }


@lru_cache
def step_bytes(dataset: str, backbone: str, method: str) -> tuple[int, int]:
    """Bytes that a training step keeps for one image, and those of the weights, by the paper's recipe."""
    recipe = Recipe.paper(dataset, backbone=backbone, method=method, weights=None)
    with torch.device("meta"):
        network = recipe.build(MADE[dataset][0].classes)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return kept_bytes(network, recipe.image_size), weights


def budget_table(dataset: str) -> str:
    """The costs of a set's full training as a table in Markdown: each network of the paper under both protocols."""
    gpus = list(throughput()["ceiling"])
    rows = [["network", "protocol", *(f"hours, {gpu}" for gpu in gpus), "GB, float32"]]
    for name, backbone in NETWORKS.items():
        for protocol in ("clean", "paper"):
            costs = [budget(dataset, backbone, protocol, gpu) for gpu in gpus]
            hours = [f"{cost['hours_at_ceiling']:.1f} to {cost['hours']:.1f}" for cost in costs]
            rows.append([name, protocol, *hours, f"{costs[0]['memory'] / 1e9:.0f}"])
    official = MADE[dataset][0]
    total = sum(official.counts.values())
    return (
        f"{table(rows)}\n\n{official.title}: {total:,} photographs, a cache of {cache_bytes(dataset) / 1e9:.1f} GB. "
        f"Throughput is assumed:\nfrom {100 * throughput()['reached']:.0f} % of its ceiling to all of it."
    )


def table(rows: list[list[str]]) -> str:
    """Rows of text, the first the header, as a Markdown table whose columns are as wide as their longest entry."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)
