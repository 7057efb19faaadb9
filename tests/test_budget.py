"""What a training costs, against counts made another way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cra_smra import Recipe
from cra_smra.budget import budget, budget_table, cache_bytes, kept_bytes, passes, throughput
from cra_smra.data import load_dataset
from cra_smra.data.cache import Cached
from cra_smra.data.make import make
from cra_smra.model import Output, PlainNetwork


class OneConvolution(nn.Module):
    """3 -> 4 channels pixel by pixel, then the mean: keeps its input, and what the cross-entropy needs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, images: torch.Tensor) -> Output:
        scores = self.conv(images).mean(dim=(2, 3))  # (B, 4)
        return Output(scores.new_empty(len(scores), 0, 4), scores, None)


def test_a_convolution_keeps_its_input():
    with torch.device("meta"):
        network = OneConvolution()
    for size in (64, 128):
        floats = 3 * size * size + 4  # the image, the logarithms of the softmax
        assert kept_bytes(network, size) == pytest.approx(4 * floats, abs=40)


def test_a_resnet_keeps_inputs_of_its_norms_and_outputs_of_its_relus():
    """Counted from the shapes of the modules' outputs on real tensors, for a batch of two."""
    network = PlainNetwork("resnet10", 5)
    sizes = [3 * 64 * 64 * 4, 512 * 4]  # the image, the input of the classifier

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        sizes.append(output[0].numel() * 4)  # one image
        if isinstance(module, nn.MaxPool2d):
            sizes.append(output[0].numel() * 8)  # where each maximum was, int64

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(count)
        if isinstance(module, nn.BatchNorm2d):
            sizes.append(2 * module.num_features * 4 // 2)  # mean and deviation of each channel, once for both images
    network(torch.zeros(2, 3, 64, 64))
    with torch.device("meta"):
        counted = kept_bytes(PlainNetwork("resnet10", 5), 64)
    assert counted == pytest.approx(sum(sizes), abs=100)


def test_nothing_is_allocated_and_the_network_is_left_as_it_was():
    with torch.device("meta"):
        network = Recipe.paper("cub", weights=None).build(200)
    assert kept_bytes(network) > 300e6
    assert all(parameter.is_meta and parameter.grad is None for parameter in network.parameters())


def test_passes_by_hand():
    """Two epochs of CUB: 5,994 training and 5,794 test images; predicting costs a third."""
    assert passes("cub", "paper", 2) == pytest.approx(2 * (5994 + 5794 / 3))
    assert passes("cub", "clean", 2) == pytest.approx(2 * (0.9 * 5994 + 0.1 * 5994 / 3) + 5794 / 3)


def test_hours_of_the_plain_network_follow_from_the_throughput():
    cost, assumed = budget("cars", "resnet50", "paper", "H200"), throughput()
    assert cost["hours_at_ceiling"] == pytest.approx(cost["hours"] * assumed["reached"])
    images = 200 * (8144 + 8041 / 3)
    slower = cost["hours_at_ceiling"] * 3600 * assumed["ceiling"]["H200"] / images
    assert 1.05 < slower < 1.3, "CRAM and SMRAM on top of the backbone"
    on_a100 = budget("cars", "resnet50", "paper", "A100")
    ratio = assumed["ceiling"]["H200"] / assumed["ceiling"]["A100"]
    assert on_a100["hours"] == pytest.approx(cost["hours"] * ratio) and on_a100["memory"] == cost["memory"]


def test_memory_holds_a_batch_and_three_copies_of_the_weights():
    with torch.device("meta"):
        network = Recipe.paper("dogs", weights=None).build(120)
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert budget("dogs", "resnet50")["memory"] == 20 * kept_bytes(network) + 12 * weights


def test_cache_has_the_size_that_is_foretold(tmp_path):
    assert cache_bytes("cub") == 11788 * 550 * 550 * 3
    root = make("cub", tmp_path, num_classes=2, train_per_class=2, test_per_class=1, size=40)
    files = {load_dataset("cub", root, split, cache=tmp_path / "cache", image_size=64).base.file
             for split in ("train", "test")}
    assert sum(file.stat().st_size for file in files) == 6 * cache_bytes("cub", 64) / 11788
    assert all(isinstance(load_dataset("cub", root, split, cache=tmp_path / "cache", image_size=64).base, Cached)
               for split in ("train", "test"))


def test_the_table_has_every_network_under_both_protocols():
    lines = budget_table("aircraft").splitlines()
    assert len({len(line) for line in lines[:8]}) == 1, "columns are as wide as their longest entry"
    for network in ("ResNet-50 ", "ResNet-101", "DenseNet-161"):
        assert sum(network in line for line in lines[2:8]) == 2
    assert "10,000 photographs, a cache of 9.1 GB" in lines[-2] and "assumed" in lines[-2]
