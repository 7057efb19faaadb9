"""Which modules can be stages, and what is found about them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer

from conftest import refused
from cra_smra import attach
from cra_smra.stages import MAX_PREFIX, Stage, as_size, feature_maps, from_map, to_map, tokens_stage


class Returns(nn.Module):
    """Returns random numbers of a shape, whatever the image."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return torch.randn(self.shape)


class Odd(nn.Module):
    """A network with everything that cannot be a stage, and two that can."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.shared = nn.ReLU()
        self.layers = nn.ModuleList([nn.Conv2d(4, 6, 2, stride=2), nn.Conv2d(6, 8, 2, stride=2)])
        self.pair = nn.Identity()
        self.windows = nn.Identity()
        self.idle = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, images):
        x = self.shared(self.stem(images))
        x = self.shared(self.layers[0](x))
        x = self.layers[1](x)
        self.pair((x, x))
        self.windows(x.reshape(4, 8, -1))
        return self.fc(x.mean(dim=(2, 3)))


def found(module, name, **options):
    return attach(module, (name,), 2, out_channels=8, reduction=2, **options).stages[0]


# Names


@pytest.mark.parametrize(
    ("names", "reason", "first"),
    [
        (("layers.2",), "Odd has no module 'layers.2'", "layers.1, layers.0"),
        (("layer",), "Odd has no module 'layer'", "layers.1, layers.0"),
        (("",), "Odd has no module ''", "stem"),
        (("layers",), "'layers' is not called as a whole", "layers.0, layers.1"),
        (("idle",), "'idle' is not called as a whole", "stem"),
        (("shared",), "'shared' is called 2 times in one pass", "stem"),
        (("pair",), "'pair' returns a tuple, not one tensor", "stem"),
        (("windows",), r"'windows' returns \(4, 8, 1\) for one image, neither a map nor tokens", "stem"),
        (("fc",), r"'fc' returns \(1, 2\) for one image", "stem"),
        (("stem", "layers.5"), "Odd has no module 'layers.5'", "layers.1, layers.0"),
    ],
)
def test_a_name_that_is_no_stage_is_answered_with_those_that_are(names, reason, first):
    text = refused(reason, attach, Odd(), names, 2, image_size=16)
    offered = text.split("stages can be ")[1]
    assert offered.startswith(first) and sorted(offered.split(", ")) == ["layers.0", "layers.1", "stem"]


def test_a_long_list_of_names_is_cut_and_near_matches_come_first():
    text = refused("ResNet has no module 'layer5'", attach, resnet18(), ("layer3", "layer4", "layer5"), image_size=64)
    offered = text.split("stages can be ")[1]
    assert set(offered.split(", ")[:4]) == {"layer1", "layer2", "layer3", "layer4"}
    assert offered.count(",") < 13 and "others, which feature_maps lists" in offered
    assert "layer4.1" not in offered and "avgpool" in offered  # from the outside in


def test_stages_in_another_order_than_they_run_are_refused():
    refused("layer2, layer3, layer4; got layer4, layer2, layer3", attach, resnet18(), ("layer4", "layer2", "layer3"))


def test_every_name_that_is_listed_can_be_attached():
    module = Odd()
    maps = feature_maps(module, 16)
    assert maps == {"stem": (1, 4, 8, 8), "layers.0": (1, 6, 4, 4), "layers.1": (1, 8, 2, 2)}
    assert list(maps) == ["stem", "layers.0", "layers.1"]  # in the order in which they run
    for name, shape in maps.items():
        assert found(Odd(), name, image_size=16) == Stage(name, "nchw", shape[1], shape[2:])
    assert not any(part._forward_hooks for part in module.modules())


def test_listing_leaves_mode_weights_and_statistics_alone():
    module = resnet18()
    module.layer2.eval()
    modes = [part.training for part in module.modules()]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    assert feature_maps(module, (64, 96))["layer4"] == (1, 512, 2, 3)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_network_that_cannot_be_run_says_why_and_stays_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 2)).train()
    refused(r"Sequential cannot be run on an image of 3 x 16 x 16 \(mat1.*image_size", feature_maps, module, 16)
    assert module[1].training and not any(part._forward_hooks for part in module)
    assert list(feature_maps(module, 8)) == ["0"]
    refused("Module cannot be run", feature_maps, nn.Module())


# Sizes


def test_the_size_is_given_or_what_the_module_says_or_224():
    module = nn.Identity()
    assert as_size(module, None) == (224, 224) and as_size(module, 96) == (96, 96)
    module.pretrained_cfg = {"input_size": (3, 176, 160)}  # timm
    assert as_size(module, None) == (176, 160)
    module.patch_embed = nn.Identity()
    module.patch_embed.img_size = (64, 80)  # timm's ViT, built for another size than it was trained for
    assert as_size(module, None) == (64, 80)
    module.image_size = 32  # torchvision's ViT
    assert as_size(module, None) == (32, 32) and as_size(module, (8, 9)) == (8, 9)


# Layouts


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 8, 4, 4), 16, ("nchw", 8, (4, 4))),
        ((1, 4, 4, 8), 16, ("nhwc", 8, (4, 4))),
        ((1, 9, 4, 6), (16, 24), ("nchw", 9, (4, 6))),
        ((1, 4, 6, 10), (16, 24), ("nhwc", 10, (4, 6))),
        ((1, 2, 4, 6), (16, 24), ("nchw", 2, (4, 6))),
        ((1, 8, 1, 1), 16, ("nchw", 8, (1, 1))),
        ((1, 1, 1, 8), 16, ("nhwc", 8, (1, 1))),
    ],
)
def test_maps_have_the_images_proportions(shape, size, expected):
    module = nn.Sequential(nn.Conv2d(3, 1, 1), Returns(*shape))
    assert found(module, "1", image_size=size)[1:4] == expected


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 4, 4, 4), 16), ((1, 8, 4, 6), 16), ((1, 4, 6, 9), 16), ((1, 2, 4, 8), (8, 16))]
)
def test_maps_that_can_be_read_both_ways_or_neither_are_asked_about(shape, size):
    module = nn.Sequential(nn.Conv2d(3, 1, 1), Returns(*shape))
    refused(r"'1' returns \(1, .*state layout='nchw' or 'nhwc'", found, module, "1", image_size=size)
    assert found(module, "1", image_size=size, layout="nchw")[1:4] == ("nchw", shape[1], shape[2:])
    module = nn.Sequential(nn.Conv2d(3, 1, 1), Returns(*shape))
    assert found(module, "1", image_size=size, layout="nhwc")[1:4] == ("nhwc", shape[3], shape[1:3])


@pytest.mark.parametrize(
    ("shape", "layout"), [((1, 8, 4, 4), "tokens"), ((1, 16, 8), "nchw"), ((1, 16, 8), "nhwc"), ((1, 8, 4, 4), "NCHW")]
)
def test_a_layout_that_does_not_fit_is_refused(shape, layout):
    module = nn.Sequential(nn.Conv2d(3, 1, 1), Returns(*shape))
    refused(f"layout must be nchw or nhwc or tokens and fit .*got '{layout}'", found, module, "1", layout=layout)


def tokens(count, size=(16, 16), convolutions=(), prefix=None, grid=None):
    stage = tokens_stage("blocks", (1, count, 8), size, convolutions, prefix, grid)
    assert stage[:3] == ("blocks", "tokens", 8) and stage.prefix_tokens + math.prod(stage.grid) == count
    return stage.grid, stage.prefix_tokens


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, MAX_PREFIX),
    st.lists(st.tuples(st.integers(41, 99), st.integers(41, 99))),
)
@settings(deadline=None)
def test_tokens_are_the_patches_of_a_convolution_and_a_few_before_them(height, width, prefix, larger):
    count, size = height * width + prefix, (16 * height, 16 * width)
    divisor = math.gcd(height, width)
    area = height * width // divisor**2
    ambiguous = prefix and count % area == 0 and math.isqrt(count // area) ** 2 == count // area
    if ambiguous:  # without any token before them they would be a grid of the same proportions
        refused("state prefix_tokens", tokens, count, size, [*larger, (height, width)])
    else:
        assert tokens(count, size, [*larger, (height, width)]) == ((height, width), prefix)
    assert tokens(count, size, [*larger, (height, width)], prefix) == ((height, width), prefix)
    assert tokens(count, size, larger, prefix) == ((height, width), prefix)
    assert tokens(count, size, [], None, (height, width)) == ((height, width), prefix)


def test_tokens_by_hand():
    assert tokens(197, (224, 224), [(14, 14)]) == ((14, 14), 1)
    assert tokens(201, (224, 224), [(14, 14)]) == ((14, 14), 5)
    assert tokens(784, (224, 224), [(56, 56)]) == ((28, 28), 0)  # merged patches, as in Swin
    assert tokens(196, (224, 224), [(56, 56), (14, 14), (7, 7)]) == ((14, 14), 0)  # with keys reduced, as in PVT
    assert tokens(784, (224, 224), [(7, 7)]) == ((28, 28), 0)  # 735 are no class and register tokens
    assert tokens(26, (80, 80), [(4, 4), (5, 5), (4, 4)]) == ((5, 5), 1)  # the fewest before them
    assert tokens(98, (224, 448), []) == ((7, 14), 0)
    assert tokens(21, (64, 64), [(4, 4)]) == ((4, 4), 5)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (150, {}),  # no square
        (197, {}),  # one more than a square: perhaps a class token, but nothing shows it
        (25, {"convolutions": [(4, 4)]}),  # 5 x 5, or 4 x 4 and nine before them
        (197, {"convolutions": [(14, 14)], "prefix": 2}),
        (197, {"grid": (14, 14), "prefix": 2}),
        (197, {"grid": (15, 14)}),
        (8, {"prefix": 9}),
        (8, {"prefix": -1}),
    ],
)
def test_tokens_whose_grid_cannot_be_told_are_asked_about(count, options):
    refused(f"returns {count} tokens .*state prefix_tokens and grid=.* = {count}$", tokens, count, **options)


def test_what_is_stated_about_tokens_is_taken():
    module = nn.Sequential(nn.Conv2d(3, 1, 1), Returns(1, 15, 8))
    refused("state prefix_tokens", found, module, "1", image_size=16)
    assert found(module, "1", image_size=16, grid=[3, 4]) == Stage("1", "tokens", 8, (3, 4), 3)


def test_a_vit_of_torchvision_with_a_grid_that_is_no_square_of_patches():
    vit = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16)
    stages = ("encoder.layers.encoder_layer_0", "encoder.ln")
    network = attach(vit, stages, 2, out_channels=8, reduction=4)
    assert network.image_size == (32, 32)
    assert [stage[1:] for stage in network.stages] == [("tokens", 16, (4, 4), 1)] * 2


# Tokens and maps


def test_map_and_layout_by_hand():
    stage = Stage("x", "tokens", 2, (2, 3), 1)
    output = torch.arange(14.0).reshape(1, 7, 2)  # token t has channels 2t and 2t + 1
    x = to_map(output, stage)
    assert x[0, 0].tolist() == [[2, 4, 6], [8, 10, 12]] and x[0, 1].tolist() == [[3, 5, 7], [9, 11, 13]]
    doubled = from_map(2 * x, output, stage)
    assert doubled[0, 0].tolist() == [0, 1] and torch.equal(doubled[0, 1:], 2 * output[0, 1:])
    refused(r"'x' must return 1 \+ 2 x 3 tokens, got 6", to_map, output[:, :6], stage, error=RuntimeError)
    stage = Stage("x", "nhwc", 2, (1, 3))
    output = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert to_map(output, stage)[0, :, 0].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert torch.equal(from_map(to_map(output, stage), output, stage), output)
