from __future__ import annotations

import json

import pytest
import torch

from cra_smra import CRASMRA, Recipe, runs
from cra_smra.model import PlainNetwork


def test_the_paper_s_setting_is_the_default_for_its_four_sets():
    for name in ("cub", "aircraft", "cars", "dogs"):
        recipe = Recipe.paper(name)
        assert (recipe.alpha, recipe.beta, recipe.gamma) == (2, 1, 1)
        assert (recipe.omega, recipe.delta) == (0.5, 0.9)
        assert (recipe.lr_backbone, recipe.lr_cram) == (2e-4, 6e-3)
        assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-5)
        assert (recipe.batch_size, recipe.epochs, recipe.image_size) == (20, 200, 448)
        assert recipe.weights == "IMAGENET1K_V1"


def test_a_recipe_survives_json():
    recipe = Recipe.quick("birds", cram=None, omega=0.25)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_every_network_field_reaches_the_network():
    recipe = Recipe.quick(omega=0.3, delta=0.7, reduction=8, out_channels=48, shared_phi=True)
    model = recipe.build(5)
    assert isinstance(model, CRASMRA)
    assert {(module.omega, module.delta) for module in model.cram} == {(0.3, 0.7)}
    assert model.cram[0].gate.mlp.fc1.out_channels == 128 // 8
    assert model.cram[0].conv_layer[0].out_channels == 48
    assert len(model.smram.phi) == 1
    assert model.heads[0][-1].out_features == 5
    assert Recipe.quick(smram=False).build(5).smram is None
    assert len(Recipe.quick(head="linear", cram="cbam", neck="fbsd", pooling="top5").build(5).heads[0]) == 1
    assert isinstance(Recipe.quick(method="plain").build(5), PlainNetwork)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", 1, "at least 2"),
        ("image_size", 32, "at least 64"),
        ("lr_cram", -1.0, "at least 0"),
        ("lr_heads", float("nan"), "finite"),
        ("gamma", float("inf"), "finite"),
        ("method", "vit", "cra-smra, plain"),
        ("cram", "se", "cram, cbam, None"),
        ("protocol", "mine", "clean, paper"),
        ("backbone", "vgg", "resnet50"),
    ],
)
def test_a_bad_value_is_answered_with_one_line(field, value, allowed):
    with pytest.raises(ValueError) as caught:
        Recipe.quick(**{field: value})
    message = str(caught.value)
    assert field in message and allowed in message and str(value) in message
    assert "\n" not in message


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="cub, aircraft, cars, dogs, got 'birds'"):
        Recipe.paper("birds")
    with pytest.raises(ValueError, match="birds and groceries, got 'cub'"):
        Recipe.quick("cub")
    with pytest.raises(ValueError, match="unknown recipe fields: colour"):
        Recipe.from_dict({"colour": 1})


def test_results_kept_with_the_package_are_read_in_the_order_of_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    (tmp_path / "cub").mkdir()
    for name, seed in (("b", 1), ("a", 0)):
        (tmp_path / "cub" / f"{name}.json").write_text(f'{{"seed": {seed}}}')
    assert [row["seed"] for row in runs.stored_results("cub")] == [0, 1]
    assert runs.stored_results("dogs") == []


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "densenet161"])
@pytest.mark.parametrize("dataset", ["cub", "aircraft", "cars", "dogs"])
def test_the_paper_s_networks_can_be_built_for_its_four_sets(dataset, backbone):
    recipe = Recipe.paper(dataset, backbone=backbone, weights=None)
    with torch.device("meta"):  # shapes alone: nothing is allocated
        network = recipe.build(num_classes=196)
        maps = network.eval().enhanced_maps(torch.empty(1, 3, recipe.image_size, recipe.image_size))
    assert [tuple(x.shape) for x in maps] == [(1, 1024, 56, 56), (1, 1024, 28, 28), (1, 1024, 14, 14)]
    assert (recipe.epochs, recipe.batch_size, recipe.cosine, recipe.image_size) == (200, 20, "run", 448)
