"""CRASMRA and the plain network, against torchvision's layers chained by hand and against numpy."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from cra_smra.model import CRASMRA, PlainNetwork, classifier, fuse, global_pool


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def small(**options):
    """A float64 network with settled BatchNorm statistics, in evaluation mode: exact enough to compare."""
    options = {"num_classes": 5, "out_channels": 24} | options
    model = CRASMRA("resnet10", **options).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(3):
            model(photos(6))
    return model.eval()


def photos(count=2, size=64):
    return torch.randn(count, 3, size, size, dtype=torch.float64)


def numpy_softmax(logits):
    logits = logits.detach().double().numpy()
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# The network written out a second time, from torchvision's layers and the equations.


def torchvision_copy(model):
    network = ResNet(BasicBlock, [1, 1, 1, 1]).double()
    result = network.load_state_dict(model.backbone.state_dict(), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"] and not result.unexpected_keys
    return network.train(model.training)


def chain_gate(x, mlp):
    def run(v):
        hidden = torch.relu(F.linear(v, mlp.fc1.weight[:, :, 0, 0], mlp.fc1.bias))
        return F.linear(hidden, mlp.fc2.weight[:, :, 0, 0], mlp.fc2.bias)

    pixels = x.flatten(2)
    return torch.sigmoid(run(pixels.mean(2)) + run(pixels.max(2).values))[:, :, None, None]


def chain_cram(x, module):
    importance = chain_gate(x, module.gate.mlp)
    hit = importance.max(dim=1, keepdim=True).values - importance < -math.log(module.delta)
    return importance * x, torch.where(hit, 1 - module.omega, 1.0) * x, hit


def chain_cbam(x, module):
    refined = chain_gate(x, module.channel_gate.mlp) * x
    gate = module.spatial_gate
    pooled = torch.stack([refined.max(1).values, refined.mean(1)], dim=1)
    scores = F.conv2d(pooled, gate.conv.weight, padding=3)
    refined = torch.sigmoid(gate.norm(scores)) * refined
    return refined, refined, None


def chain_none(x, module):
    return x, x, None


CHAIN = {"cram": chain_cram, "cbam": chain_cbam, None: chain_none}
POOL = {
    "max": lambda x: x.flatten(2).max(2).values,
    "mean": lambda x: x.flatten(2).mean(2),
    "top5": lambda x: x.flatten(2).sort(2, descending=True).values[:, :, :5].mean(2),
}


@torch.no_grad()
def chain(model, images, kind="cram"):
    """Enhanced maps, masks of suppressed channels, stage logits (B, 3, K), joint logits (B, K)."""
    network = torchvision_copy(model)
    x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images)))))
    maps, hits = [], []
    for layer, module in zip((network.layer2, network.layer3, network.layer4), model.cram, strict=True):
        carried, x, hit = CHAIN[kind](layer(x), module)
        maps.append(module.conv_layer(carried))
        hits.append(hit)
    features = [POOL[model.pooling](enhanced) for enhanced in maps]
    stage_logits = torch.stack([model.heads[i](features[i]) for i in range(3)], dim=1)
    return maps, hits, stage_logits, model.overall_head(torch.cat(features, dim=1))


@pytest.mark.parametrize(
    "options",
    [
        {"omega": 0.5, "delta": 0.8},
        {"omega": 0.3, "delta": 0.9, "neck": "fbsd", "head": "linear"},
        {"omega": 1.0, "delta": 0.8, "pooling": "mean", "reduction": 4},
        {"omega": 0.8, "delta": 0.85, "pooling": "top5", "shared_phi": True},
        {"cram": "cbam"},
        {"cram": "cbam", "pooling": "mean", "reduction": 8},
        {"cram": None},
        {"cram": None, "smram": False, "neck": "fbsd"},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_forward_equals_the_chain_written_out(options):
    model = small(**options)
    kind = options.get("cram", "cram")
    images = photos(4, 96)
    maps, hits, stage_logits, overall_logits = chain(model, images, kind)
    if kind == "cram":  # in every stage some channels are suppressed and some are not
        assert all(0 < hit.double().mean() < 1 for hit in hits)
    output = model(images)
    torch.testing.assert_close(output.stage_logits, stage_logits, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(output.overall_logits, overall_logits, rtol=1e-8, atol=1e-8)
    for mine, theirs in zip(model.enhanced_maps(images), maps, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_next_stage_sees_the_suppressed_map_and_not_the_features():
    # omega = 1 and a small delta: everything is suppressed, so stages 4 and 5 see zeros, whatever the image
    model = small(omega=1.0, delta=0.3)
    first, second = model(photos()), model(photos())
    torch.testing.assert_close(first.stage_logits[:, 1:], second.stage_logits[:, 1:])
    torch.testing.assert_close(first.stage_logits[0, 1:], first.stage_logits[1, 1:])
    assert (first.stage_logits[:, 0] - second.stage_logits[:, 0]).abs().max() > 1e-3
    # what stage 5 then hands on is torchvision's layer4 of zeros, enhanced
    x = torchvision_copy(model).layer4(torch.zeros(2, 256, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(model.enhanced_maps(photos())[2], model.cram[2](x)[0])


@pytest.mark.parametrize("options", [{"omega": 1.0, "delta": 1.0}, {"omega": 0.0, "delta": 0.3}])
def test_without_suppression_the_backbone_is_torchvisions(options):
    model = small(**options)
    network = torchvision_copy(model)
    images, caught = photos(), []
    for layer in (network.layer2, network.layer3, network.layer4):
        layer.register_forward_hook(lambda *call: caught.append(call[-1]))
    with torch.no_grad():
        network(images)
    for enhanced, x, module in zip(model.enhanced_maps(images), caught, model.cram, strict=True):
        expected = module.conv_layer(chain_gate(x, module.gate.mlp) * x)
        torch.testing.assert_close(enhanced, expected, rtol=1e-8, atol=1e-8)


# Shapes


@pytest.mark.parametrize(
    ("name", "cram"),
    [
        ("resnet10", "cram"),
        ("resnet18", "cbam"),
        ("resnet50", "cram"),
        ("resnet50", None),
        ("resnet101", "cram"),
        ("densenet161", "cram"),
    ],
)
def test_shapes_of_every_backbone_at_448_pixels(name, cram):
    with torch.device("meta"):
        model = CRASMRA(name, 7, cram=cram)
        images = torch.empty(2, 3, 448, 448)
        maps, output = model.enhanced_maps(images), model(images)
        attention = model.smram.attention(maps)
    assert [tuple(x.shape) for x in maps] == [(2, 1024, 56, 56), (2, 1024, 28, 28), (2, 1024, 14, 14)]
    assert output.stage_logits.shape == (2, 3, 7) and output.overall_logits.shape == (2, 7)
    assert output.diversity_loss.shape == () and attention.shape == (2, 3, 196)


@pytest.mark.parametrize("name", ["resnet10", "resnet50", "densenet161"])
def test_training_and_prediction_run_on_every_family(name):
    model = CRASMRA(name, 4, out_channels=16)
    output = model(torch.randn(2, 3, 64, 64))
    assert output.stage_logits.shape == (2, 3, 4) and 0 <= output.diversity_loss.item() <= 2 / 3 + 1e-6
    prediction = model.eval().predict(torch.randn(2, 3, 64, 96))
    assert prediction.shape == (2, 4)
    torch.testing.assert_close(prediction.sum(dim=1), torch.ones(2))


def test_sizes_that_are_no_multiple_of_32_are_accepted():
    maps = CRASMRA("resnet10", 4, out_channels=16).enhanced_maps(torch.randn(1, 3, 75, 100))
    assert [tuple(x.shape[2:]) for x in maps] == [(10, 13), (5, 7), (3, 4)]


def test_defaults_are_the_papers():
    with torch.device("meta"):
        model = CRASMRA()
    assert [module.gate.mlp.fc1.in_channels for module in model.cram] == [512, 1024, 2048]
    assert [module.gate.mlp.fc1.out_channels for module in model.cram] == [32, 64, 128]
    assert {(module.omega, module.delta) for module in model.cram} == {(0.5, 0.9)}
    assert [module.conv_layer[0].out_channels for module in model.cram] == [1024] * 3
    assert {head[-1].out_features for head in (*model.heads, model.overall_head)} == {200}
    assert model.smram is not None and model.pooling == "max"


# Pooling, heads, prediction


def test_global_pool_by_hand():
    x = torch.tensor([[[[1.0, 5.0, 3.0], [2.0, 4.0, 9.0]], [[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]]])
    assert global_pool(x).tolist() == [[9.0, -1.0]]
    assert global_pool(x, "mean").tolist() == [[4.0, -3.5]]
    torch.testing.assert_close(global_pool(x, "top5"), torch.tensor([[(9 + 5 + 4 + 3 + 2) / 5, -3.0]]))
    assert global_pool(x[:, :, :, :1], "top5").tolist() == [[1.5, -2.5]]  # two pixels: the mean of both


def test_heads_are_those_of_pmg_or_one_linear_layer():
    names = [type(layer).__name__ for layer in classifier(24, 5)]
    assert names == ["BatchNorm1d", "Linear", "BatchNorm1d", "ELU", "Linear"]
    assert [tuple(p.shape) for p in classifier(24, 5).parameters() if p.ndim == 2] == [(512, 24), (5, 512)]
    assert [tuple(p.shape) for p in classifier(24, 5, "linear").parameters()] == [(5, 24), (5,)]


def test_fuse_by_hand():
    # ln of (1, 1), (1, 3), (3, 1), (1, 9): softmax (1/2, 1/2), (1/4, 3/4), (3/4, 1/4), (1/10, 9/10)
    stages = torch.tensor([[[1.0, 1.0], [1.0, 3.0], [3.0, 1.0]]]).log()
    overall = torch.tensor([[1.0, 9.0]]).log()
    torch.testing.assert_close(fuse(stages, overall), torch.tensor([[1.6 / 4, 2.4 / 4]]))
    # the sum of logits multiplies: 1 * 1 * 3 * 1 against 1 * 3 * 1 * 9
    torch.testing.assert_close(fuse(stages, overall, "logits"), torch.tensor([[0.1, 0.9]]))
    torch.testing.assert_close(fuse(stages[:, :0], overall), torch.tensor([[0.1, 0.9]]))


@pytest.mark.parametrize("output", [0, 1, 2, 3])
def test_each_of_the_four_outputs_weighs_a_quarter(output):
    logits = torch.zeros(1, 4, 2)
    logits[0, output, 0] = 50.0  # this output is certain of class 0, the others say half and half
    torch.testing.assert_close(fuse(logits[:, :3], logits[:, 3]), torch.tensor([[0.625, 0.375]]))


def test_prediction_is_the_mean_of_four_softmax_outputs():
    model = small()
    images = photos(3)
    _, _, stages, overall = chain(model, images)
    logits = torch.cat([stages, overall[:, None]], dim=1)
    np.testing.assert_allclose(model.predict(images).numpy(), numpy_softmax(logits).mean(axis=1), atol=1e-6)
    by_logits = model.predict(images, fusion="logits").numpy()
    np.testing.assert_allclose(by_logits, numpy_softmax(logits.sum(dim=1)), atol=1e-5)
    assert not np.allclose(by_logits, model.predict(images).numpy(), atol=1e-3)


def test_predict_needs_evaluation_mode_and_carries_no_gradient():
    model = small()
    assert not model.predict(photos()).requires_grad
    model.train()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        model.predict(photos())
    with pytest.raises(RuntimeError, match="evaluation mode"):
        PlainNetwork("resnet10", 3).predict(torch.zeros(2, 3, 64, 64))


# SMRAM in the network


def test_smram_is_not_there_in_evaluation():
    model = small()
    images = photos()
    assert model(images).diversity_loss is None
    with_smram = model.predict(images)
    for parameter in model.smram.parameters():
        nn.init.constant_(parameter, float("nan"))  # whatever reads it would show
    assert torch.equal(model.predict(images), with_smram)
    model.smram = None
    assert torch.equal(model.predict(images), with_smram)
    assert model(images).diversity_loss is None


def test_network_built_without_smram_takes_the_other_weights_and_predicts_the_same():
    model = small()
    images = photos()
    without = small(smram=False)
    result = without.load_state_dict(model.state_dict(), strict=False)
    assert not result.missing_keys
    assert result.unexpected_keys and all(key.startswith("smram.") for key in result.unexpected_keys)
    assert torch.equal(without.predict(images), model.predict(images))
    assert without.train()(images).diversity_loss is None


@pytest.mark.parametrize("shared_phi", [False, True])
def test_training_returns_the_diversity_loss_of_the_three_stages_in_their_order(shared_phi):
    model = small(delta=0.8, shared_phi=shared_phi).train()
    for norm in model.smram.norm:  # three different norms, so that a mix-up of stages would show
        nn.init.uniform_(norm.weight, 0.5, 4.0)
    images = photos(3, 96)
    rows = []
    for stage, x in enumerate(chain(model, images)[0]):
        batch, channels, height, width = x.shape
        # 96 px: 12, 6 and 3 pixels a side, pooled to 3 by means over squares
        squares = x.reshape(batch, channels, 3, height // 3, 3, width // 3).mean(dim=(3, 5))
        phi = model.smram.phi[0 if shared_phi else stage].weight
        scores = (squares * phi.detach()).sum(dim=1).numpy()
        norm = model.smram.norm[stage]
        scores = (scores - scores.mean()) / np.sqrt(scores.var() + 1e-5)
        scores = scores * norm.weight.item() + norm.bias.item()
        rows.append(numpy_softmax(torch.from_numpy(scores).flatten(1)))
    expected = 1 - np.mean(np.max(rows, axis=0).sum(axis=1)) / 3
    loss = model(images).diversity_loss
    assert loss.shape == () and loss.requires_grad
    assert loss.item() == pytest.approx(expected, rel=1e-8)


def test_gradients_reach_every_parameter():
    model = CRASMRA("resnet10", 4, out_channels=16)
    output = model(torch.randn(4, 3, 64, 64))
    (output.stage_logits.sum() + output.overall_logits.square().sum() + output.diversity_loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_later_losses_do_not_reach_the_gates_of_earlier_stages():
    # the mask is a step: through X_s the gate of stage 3 gets nothing from stage 5's classifier
    model = small(delta=0.8)
    model(photos()).stage_logits[:, 2].square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.cram[0].parameters())
    assert all(p.grad.any() for p in model.cram[2].gate.parameters())
    assert model.backbone.conv1.weight.grad.any()  # while the backbone does get it


# Inspection


def test_inspect_reports_the_share_of_suppressed_channels():
    model = small(omega=0.3, delta=0.8)
    images = photos(5, 96)
    shares = [hit.double().mean().item() for hit in chain(model, images)[1]]
    found = model.inspect(images)
    assert found.suppressed.tolist() == pytest.approx(shares, abs=1e-6)
    assert len(set(shares)) == 3 and all(0 < share < 1 for share in shares)


@pytest.mark.parametrize(("delta", "share"), [(0.3, 1.0), (1.0, 0.0)])
def test_inspect_at_the_ends_of_delta_even_where_omega_damps_nothing(delta, share):
    assert small(omega=0.0, delta=delta).inspect(photos()).suppressed.tolist() == [share] * 3


def test_inspect_finds_all_channels_suppressed_by_constant_gates():
    model = small()
    for module in model.cram:
        nn.init.zeros_(module.gate.mlp.fc2.weight)
        nn.init.zeros_(module.gate.mlp.fc2.bias)
    assert model.inspect(photos()).suppressed.tolist() == [1.0] * 3


def test_inspect_attention_sums_to_one_over_the_last_stages_pixels():
    attention = small().inspect(photos(2, 96)).attention
    assert attention.shape == (2, 3, 9) and attention.min() >= 0 and not attention.requires_grad
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("cram", ["cbam", None])
def test_inspect_without_the_modules_reports_none(cram):
    found = small(cram=cram, smram=False).inspect(photos())
    assert found.suppressed is None and found.attention is None
    assert small(cram=cram).inspect(photos()).attention is not None


def test_inspect_changes_nothing():
    model = small()
    before = copy.deepcopy(model.state_dict())
    images = photos()
    prediction = model.predict(images)
    model.inspect(images)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.predict(images), prediction)
    assert not any(module._forward_hooks for module in model.modules())


# The plain network


def test_plain_network_is_torchvisions_resnet():
    network = tv.resnet18(num_classes=6).double().eval()
    plain = PlainNetwork("resnet18", 6).double().eval()
    state = network.state_dict()
    plain.load_state_dict({key if key.startswith("fc.") else f"backbone.{key}": state[key] for key in state})
    images = photos()
    output = plain(images)
    torch.testing.assert_close(output.overall_logits, network(images), rtol=1e-8, atol=1e-8)
    assert output.stage_logits.shape == (2, 0, 6) and output.diversity_loss is None
    np.testing.assert_allclose(plain.predict(images).numpy(), numpy_softmax(network(images)), atol=1e-6)


def test_plain_network_is_torchvisions_densenet():
    network = tv.densenet161(num_classes=6).eval()
    nn.init.normal_(network.features.norm5.running_mean, std=0.3)  # so that the last ReLU has work to do
    plain = PlainNetwork("densenet161", 6).eval()
    state = network.state_dict()
    plain.load_state_dict(
        {
            key.replace("features.", "backbone.features.").replace("classifier.", "fc."): value
            for key, value in state.items()
        }
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(images).overall_logits, network(images), rtol=1e-4, atol=1e-5)


# Copies


def test_deepcopy_predicts_the_same_and_shares_nothing():
    model = small()
    images = photos()
    expected = model.predict(images)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.predict(images), expected)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twin.predict(images), expected)
    assert not torch.equal(model.predict(images), expected)


@pytest.mark.parametrize("options", [{}, {"cram": "cbam"}, {"cram": None, "smram": False}])
def test_state_dict_goes_through_a_file_and_back(options, tmp_path):
    model, other = small(**options), small(**options)
    images = photos()
    assert not torch.equal(other.predict(images), model.predict(images))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    assert torch.equal(other.predict(images), model.predict(images))


def test_weights_go_to_the_backbone(tmp_path):
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    for kind in (CRASMRA, PlainNetwork):
        model = kind("resnet10", 5, weights=tmp_path / "weights.pth")
        assert torch.equal(model.backbone.layer3[0].conv1.weight, network.layer3[0].conv1.weight)


# Bad values


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"omega": -0.01}, ["-0.01", "[0, 1]"]),
        ({"omega": 1.2}, ["1.2", "[0, 1]"]),
        ({"delta": 0.0}, ["0.0", "(0, 1]"]),
        ({"delta": 1.2}, ["1.2", "(0, 1]"]),
        ({"num_classes": 1}, ["1", "at least 2"]),
        ({"num_classes": 0}, ["0", "at least 2"]),
        ({"num_classes": -3}, ["-3", "at least 2"]),
        ({"backbone": "vgg16"}, ["'vgg16'", "resnet50", "densenet161"]),
        ({"neck": "conv3x3"}, ["'conv3x3'", "'conv1x1'", "'fbsd'"]),
        ({"neck": "conv3x3", "cram": "cbam"}, ["'conv3x3'", "'conv1x1'", "'fbsd'"]),
        ({"neck": "conv3x3", "cram": None}, ["'conv3x3'", "'conv1x1'", "'fbsd'"]),
        ({"head": "big"}, ["'big'", "'mlp'", "'linear'"]),
        ({"pooling": "avg"}, ["'avg'", "'max'", "'mean'", "'top5'"]),
        ({"cram": "se"}, ["'se'", "'cram'", "'cbam'", "None"]),
        ({"reduction": 129}, ["129", "128 channels"]),
        ({"reduction": 129, "cram": "cbam"}, ["129", "128 channels"]),
        ({"weights": "nowhere.pth"}, ["'nowhere.pth'", "None", "existing file"]),
    ],
)
def test_bad_values_name_what_was_given_and_what_is_allowed(options, parts):
    with torch.device("meta"), pytest.raises(ValueError) as error:
        CRASMRA(**({"backbone": "resnet10", "num_classes": 5, "out_channels": 16} | options))
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts)


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"backbone": "vgg16"}, {"weights": "nowhere.pth"}])
def test_plain_network_refuses_bad_values_too(options):
    with pytest.raises(ValueError) as error:
        PlainNetwork(**({"backbone": "resnet10", "num_classes": 5} | options))
    assert str(next(iter(options.values()))) in str(error.value)


def test_unknown_fusion_lists_what_is_allowed():
    model = PlainNetwork("resnet10", 5).eval()
    with pytest.raises(ValueError, match=r"^fusion must be 'softmax' or 'logits', got 'vote'$"):
        model.predict(torch.zeros(1, 3, 64, 64), fusion="vote")


@pytest.mark.parametrize("shape", [(2, 3, 63, 64), (2, 3, 64, 32), (2, 1, 64, 64), (3, 64, 64)])
@pytest.mark.parametrize("kind", [CRASMRA, PlainNetwork])
def test_wrong_images_are_refused_with_their_shape(kind, shape):
    with torch.device("meta"):
        model = kind("resnet10", 5).eval()
        with pytest.raises(ValueError) as error:
            model.predict(torch.zeros(shape))
    message = str(error.value)
    assert str(shape) in message and "(B, 3, H, W)" in message and "64" in message and "\n" not in message
