"""The maps of a network against other ways to them; overlap and entropy against values worked out by hand."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from conftest import refused
from cra_smra import CRASMRA
from cra_smra.attach import attach
from cra_smra.attention import (
    MAPS,
    attention_maps,
    channel_mean,
    entropy,
    grad_cam,
    overlap,
    smram_maps,
    stage_modules,
    top_pixels,
)
from cra_smra.model import PlainNetwork, global_pool


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def map_with(*pixels, size=10):
    """A map of ``size`` pixels with its weight on the given ones, in decreasing order."""
    weights = [0.0] * size
    for rank, pixel in enumerate(pixels):
        weights[pixel] = float(len(pixels) - rank)
    return [weight / sum(weights) for weight in weights]


def test_top_pixels_by_hand():
    values = tensor([[0.1, 0.4, 0.0, 0.2, 0.3], [0.5, 0.0, 0.2, 0.2, 0.1]])
    assert top_pixels(values).int().tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert top_pixels(values, 0.6).int().tolist() == [[0, 1, 0, 1, 1], [1, 0, 1, 1, 0]]


@pytest.mark.parametrize(("pixels", "count"), [(196, 39), (100, 20), (49, 10), (9, 2), (4, 1), (2, 1)])
def test_top_pixels_are_a_fifth_and_at_least_one(pixels, count):
    top = top_pixels(torch.rand(2, 3, pixels))
    assert top.dtype == torch.bool and top.shape == (2, 3, pixels)
    assert (top.sum(dim=2) == count).all()


def test_overlap_by_hand():
    # top two of ten pixels: {0, 1}, {1, 2}, {0, 1}: IoU 1/3, 1 and 1/3
    first = [map_with(0, 1), map_with(1, 2), map_with(1, 0)]
    # {0, 1}, {2, 3}, {3, 4}: IoU 0, 0 and 1/3
    second = [map_with(0, 1, 5), map_with(2, 3), map_with(3, 4)]
    assert overlap(tensor([first, second])).tolist() == pytest.approx([5 / 9, 1 / 9])


def test_overlap_of_equal_and_of_disjoint_maps():
    equal = [map_with(3, 7, 1)] * 3
    disjoint = [map_with(0, 1), map_with(2, 3), map_with(4, 5)]
    assert overlap(tensor([equal, disjoint])).tolist() == [1.0, 0.0]


def test_overlap_of_two_stages_at_another_share():
    # top four of ten: {0, 1, 2, 3} and {2, 3, 4, 5}: 2 of 6
    maps = tensor([[map_with(0, 1, 2, 3), map_with(2, 3, 4, 5)]])
    assert overlap(maps, share=0.4).item() == pytest.approx(2 / 6)


def test_overlap_of_random_maps_equals_sets():
    maps = torch.rand(4, 3, 50).softmax(dim=2)
    expected = []
    for image in maps.numpy():
        a, b, c = (set(np.argsort(-row)[:10].tolist()) for row in image)
        expected.append(sum(len(p & q) / len(p | q) for p, q in ((a, b), (a, c), (b, c))) / 3)
    np.testing.assert_allclose(overlap(maps).numpy(), expected, rtol=1e-6)


def test_overlap_does_not_change_when_maps_are_sharpened_or_stages_swapped():
    logits = torch.randn(8, 3, 64, dtype=torch.float64)
    value = overlap(logits.softmax(dim=2))
    assert torch.equal(overlap((5 * logits).softmax(dim=2)), value)
    torch.testing.assert_close(overlap(logits[:, [2, 0, 1]].softmax(dim=2)), value)


def test_entropy_by_hand():
    maps = tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, 0.25, 0.125, 0.125]])
    # ln 4 / ln 4, 0, ln 2 / ln 4, and (1/2 + 2/4 + 3/8 + 3/8) ln 2 / (2 ln 2) = 7/8
    torch.testing.assert_close(entropy(maps), tensor([1.0, 0.0, 0.5, 0.875]))


def test_entropy_keeps_the_leading_shape_and_equals_numpy():
    maps = torch.randn(2, 3, 196, dtype=torch.float64).softmax(dim=2)
    p = maps.numpy()
    expected = -(p * np.log(p)).sum(axis=2) / math.log(196)
    np.testing.assert_allclose(entropy(maps).numpy(), expected, rtol=1e-12)


def test_entropy_falls_as_a_map_is_sharpened():
    logits = torch.randn(5, 196)
    scales = (0.0, 1.0, 3.0, 10.0, 1000.0)
    values = torch.stack([entropy((scale * logits).softmax(dim=1)) for scale in scales])
    assert (values[1:] < values[:-1]).all()
    torch.testing.assert_close(values[0], torch.ones(5))
    assert values[-1].max() < 0.05


# --- the maps of a network

ROWS = [("cram", True), ("cram", False), ("cbam", True), (None, True), (None, False)]


def network(cram="cram", smram=True, **options):
    """A small network in evaluation mode whose normalisation has seen data."""
    options = {"out_channels": 24, "cram": cram, "smram": smram} | options
    return used(CRASMRA("resnet10", 5, **options))


def plain(backbone="resnet10"):
    return used(PlainNetwork(backbone, 5))


def used(built):
    with torch.no_grad():
        built(torch.randn(4, 3, 64, 64))
    return built.eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 96)


def by_autograd(score, feature):
    """Grad-CAM's formula for images one by one: score(feature) -> the logit of one image's class."""
    maps = []
    for place in range(len(feature)):
        a = feature[place : place + 1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(a, place), a)
        maps.append((gradient.mean(dim=(2, 3), keepdim=True) * a.detach()).sum(dim=1).relu()[0])
    return torch.stack(maps)


@pytest.mark.parametrize(("cram", "smram"), ROWS)
def test_grad_cam_of_a_stages_own_classifier_is_that_of_autograd(images, cram, smram):
    built, classes = network(cram, smram), torch.tensor([4, 0, 2])
    with torch.no_grad():
        features = built.enhanced_maps(images)
    found = grad_cam(built, images, classes)
    assert len(found) == 3 and any(x.any() for x in found)
    for head, feature, x in zip(built.heads, features, found, strict=True):
        expected = by_autograd(lambda a, i, head=head: head(global_pool(a))[0, classes[i]], feature)
        assert not x.requires_grad
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


def test_grad_cam_of_the_joint_classifier_is_that_of_autograd(images):
    built, classes = network(), torch.tensor([4, 0, 2])
    with torch.no_grad():
        features = built.enhanced_maps(images)
        pooled = [global_pool(x) for x in features]
    for stage, x in enumerate(grad_cam(built, images, classes, head="joint")):

        def score(a, i, stage=stage):
            parts = [p[i : i + 1] for p in pooled]
            parts[stage] = global_pool(a)
            return built.overall_head(torch.cat(parts, dim=1))[0, classes[i]]

        torch.testing.assert_close(x, by_autograd(score, features[stage]), atol=1e-5, rtol=1e-5)


def test_the_plain_networks_maps_are_those_of_its_backbone(images):
    built, classes = plain(), torch.tensor([4, 0, 2])
    found = grad_cam(built, images, classes)
    assert [tuple(x.shape) for x in found] == [(3, 8, 12), (3, 4, 6), (3, 2, 3)]
    x = built.backbone.stem(images)
    for stage in (1, 2, 3):
        x = built.backbone.run(stage, x).detach()

        def score(a, i, stage=stage):
            for later in range(stage + 1, 4):
                a = built.backbone.run(later, a)
            return built.fc(a.mean(dim=(2, 3)))[0, classes[i]]

        torch.testing.assert_close(found[stage - 1], by_autograd(score, x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(channel_mean(built, images)[stage - 1], x.mean(dim=1))
    # Under mean pooling and one linear layer Grad-CAM is the class activation map: the weights of the class.
    cam = torch.einsum("bk,bkhw->bhw", built.fc.weight[classes], x).relu() / (2 * 3)
    torch.testing.assert_close(found[2], cam.detach(), atol=1e-5, rtol=1e-5)


def test_grad_cam_asks_about_the_predicted_class_unless_told(images):
    built = network()
    predicted = built.predict(images).argmax(dim=1)
    others = (predicted + 1) % 5
    default = grad_cam(built, images)
    for asked, equal in ((predicted, True), (others, False)):
        same = [torch.equal(a, b) for a, b in zip(default, grad_cam(built, images, asked), strict=True)]
        assert all(same) if equal else not any(same)


def test_grad_cam_leaves_the_network_as_it_was(images):
    built = network()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    with torch.no_grad():
        maps = grad_cam(built, images)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert all(parameter.grad is None for parameter in built.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in built.modules())
    assert not images.requires_grad
    built.requires_grad_(False)  # frozen weights change nothing
    for a, b in zip(maps, grad_cam(built, images), strict=True):
        torch.testing.assert_close(a, b)


def test_a_map_does_not_depend_on_the_other_images(images):
    built = network()
    for kind, stages in attention_maps(built, images).items():
        alone = attention_maps(built, images[1:2])[kind]
        for a, b in zip(stages, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-4)


def test_what_grad_cam_refuses(images):
    built = network()
    refused("head must be 'own' or 'joint', got 'last'", grad_cam, built, images, head="last")
    for classes in ([0, 1], [0, 1, 5], [-1, 0, 0]):
        text = refused("classes must be 3 numbers from 0 to 4", grad_cam, built, images, torch.tensor(classes))
        assert str(classes) in text
    refused("evaluation mode", grad_cam, built.train(), images, error=RuntimeError)
    assert not any(module._forward_hooks for module in built.modules())


@pytest.mark.parametrize(("cram", "smram"), ROWS)
def test_every_row_of_the_ablation_has_its_maps(images, cram, smram):
    built = network(cram, smram)
    maps = attention_maps(built, images)
    assert list(maps) == [kind for kind in MAPS if smram or kind != "smram"]
    for kind in ("grad_cam", "grad_cam_joint", "channel_mean"):
        assert [tuple(x.shape) for x in maps[kind]] == [(3, 8, 12), (3, 4, 6), (3, 2, 3)]
    own, joint = maps["grad_cam"], maps["grad_cam_joint"]
    assert not any(torch.allclose(a, b) for a, b in zip(own, joint, strict=True))
    assert all((x >= 0).all() for x in own + joint)


@pytest.mark.parametrize("backbone", ["resnet10", "densenet161"])
def test_a_plain_network_has_two_kinds_of_map(backbone):
    built = PlainNetwork(backbone, 5).eval()
    maps = attention_maps(built, torch.randn(1, 3, 64, 64))
    assert list(maps) == ["grad_cam", "channel_mean"]
    assert all([tuple(x.shape) for x in stages] == [(1, 8, 8), (1, 4, 4), (1, 2, 2)] for stages in maps.values())


def test_channel_mean_is_the_mean_of_what_the_stage_puts_out(images):
    for built in (network(), network("cbam"), plain()):
        seen = []
        keep = partial(lambda seen, *call: seen.append(call[-1]), seen)
        hooks = [module.register_forward_hook(keep) for module in stage_modules(built)]
        with torch.no_grad():
            built(images)
        for hook in hooks:
            hook.remove()
        for x, feature in zip(channel_mean(built, images), seen, strict=True):
            torch.testing.assert_close(x, feature.sum(dim=1) / feature.shape[1])


def test_smrams_maps_are_those_that_it_is_trained_on(images):
    built = network()
    maps = smram_maps(built, images)
    assert [tuple(x.shape) for x in maps] == [(3, 2, 3)] * 3
    torch.testing.assert_close(torch.stack([x.flatten(1) for x in maps], dim=1), built.inspect(images).attention)
    for without in (network(smram=False), plain()):
        refused("has no SMRAM", smram_maps, without, images)


def test_crams_attached_to_a_network_have_the_maps_of_the_network_that_has_them_built_in(images):
    built = network()
    module = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    module.load_state_dict(built.backbone.state_dict(), strict=False)
    attached = attach(module, ("layer2", "layer3", "layer4"), 5, image_size=(64, 96), out_channels=24).eval()
    for part in ("cram", "heads", "overall_head", "smram"):
        getattr(attached, part).load_state_dict(getattr(built, part).state_dict())
    for kind, stages in attention_maps(built, images).items():
        for a, b in zip(stages, attention_maps(attached, images)[kind], strict=True):
            torch.testing.assert_close(a, b)


def test_a_module_that_runs_twice_gives_the_map_of_its_last_run():
    pytest.importorskip("efficientnet_lite_pytorch")
    built, images = plain("efficientnet_lite0"), torch.randn(2, 3, 64, 64)
    x = built.backbone.stem(images)
    for stage in (1, 2, 3):
        x = built.backbone.run(stage, x)  # its last activation is the module that follows the first convolution too
    classes = torch.tensor([3, 1])
    cam = torch.einsum("bk,bkhw->bhw", built.fc.weight[classes], x).relu() / 4
    torch.testing.assert_close(grad_cam(built, images, classes)[2], cam.detach(), atol=1e-5, rtol=1e-5)
