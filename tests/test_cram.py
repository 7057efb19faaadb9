"""Equations (1) to (6), CRAM and CBAM, against values worked out by hand or by independent formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from cra_smra.cram import (
    CBAM,
    CRAM,
    ChannelGate,
    ChannelMLP,
    conv_layer,
    enhance,
    normalised_importance,
    suppress,
    suppression_mask,
)

few_examples = settings(max_examples=60, deadline=None, database=None, derandomize=True)
gate_values = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def as_gate(values):
    """One image's importance, (1, C, 1, 1), in float64."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def mask_of(values, omega=0.5, delta=0.9):
    return suppression_mask(as_gate(values), omega, delta).flatten().tolist()


def sigmoid(values):
    return 1.0 / (1.0 + np.exp(-np.asarray(values)))


def toy_mlp(module):
    """Set FC1: 2 -> 1 and FC2: 1 -> 2 to the numbers that the hand calculations below use."""
    with torch.no_grad():
        module.fc1.weight.copy_(torch.tensor([0.5, -1.0]).view(1, 2, 1, 1))
        module.fc1.bias.copy_(torch.tensor([0.25]))
        module.fc2.weight.copy_(torch.tensor([0.4, -0.8]).view(2, 1, 1, 1))
        module.fc2.bias.copy_(torch.tensor([0.1, -0.2]))


def randomise_norms(module):
    """Give every BatchNorm statistics and an affine part that are not the identity."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)


def numpy_norm(x, norm):
    """BatchNorm in evaluation mode, (B, C, H, W)."""
    tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, var, weight, bias = (t.detach().numpy()[:, None, None] for t in tensors)
    return (x - mean) / np.sqrt(var + norm.eps) * weight + bias


def numpy_gate(x, mlp):
    """Equations (1) and (2) in numpy: (B, C, H, W) -> (B, C, 1, 1)."""
    w1, b1 = mlp.fc1.weight.detach().numpy()[:, :, 0, 0], mlp.fc1.bias.detach().numpy()
    w2, b2 = mlp.fc2.weight.detach().numpy()[:, :, 0, 0], mlp.fc2.bias.detach().numpy()
    pools = (x.mean(axis=(2, 3)), x.max(axis=(2, 3)))
    return sigmoid(sum(np.maximum(v @ w1.T + b1, 0) @ w2.T + b2 for v in pools))[:, :, None, None]


# Equations (1) and (2)


def test_mlp_by_hand():
    mlp = ChannelMLP(2, reduction=2)
    toy_mlp(mlp)
    # (3, 1): hidden 0.5 * 3 - 1 + 0.25 = 0.75, then 0.4 * 0.75 + 0.1 and -0.8 * 0.75 - 0.2
    # (1, 2): hidden 0.5 - 2 + 0.25 < 0, and the ReLU leaves the biases of FC2
    v = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).view(2, 2, 1, 1)
    torch.testing.assert_close(mlp(v).view(2, 2), torch.tensor([[0.4, -0.8], [0.1, -0.2]]))


def test_gate_by_hand():
    gate = ChannelGate(2, reduction=2)
    toy_mlp(gate.mlp)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 1.0], [1.0, 2.0]]]])
    # AP = (3, 1): MLP (0.4, -0.8). MP = (6, 2): hidden 1.25, MLP (0.6, -1.2). Sum (1, -2).
    expected = torch.tensor([0.7310585786, 0.1192029220]).view(1, 2, 1, 1)
    torch.testing.assert_close(gate(x), expected)


def test_gate_applies_the_mlp_to_each_pool_before_the_sum():
    gate = ChannelGate(2, reduction=2)
    toy_mlp(gate.mlp)
    x = torch.tensor([[[[-2.0, 2.0]], [[1.0, 1.0]]]])
    # AP = (0, 1): hidden -0.75 -> 0, MLP (0.1, -0.2). MP = (2, 1): hidden 0.25, MLP (0.2, -0.4).
    # Sum (0.3, -0.6).
    # The other reading, MLP of the sum (2, 2), has a negative hidden unit and gives (0.1, -0.2).
    expected = torch.from_numpy(sigmoid([0.3, -0.6])).float().view(1, 2, 1, 1)
    torch.testing.assert_close(gate(x), expected)


def test_gate_equals_numpy_and_lies_between_zero_and_one():
    gate = ChannelGate(8, reduction=4).double()
    x = 2 * torch.randn(3, 8, 5, 4, dtype=torch.float64)
    importance = gate(x).detach().numpy()
    np.testing.assert_allclose(importance, numpy_gate(x.numpy(), gate.mlp), rtol=1e-12)
    assert importance.shape == (3, 8, 1, 1) and 0 < importance.min() and importance.max() < 1


def test_gate_does_not_depend_on_where_things_are():
    gate = ChannelGate(6, reduction=2)
    x = torch.randn(2, 6, 4, 4)
    moved = x.flatten(2)[:, :, torch.randperm(16)].view_as(x)
    torch.testing.assert_close(gate(moved), gate(x))


def test_gate_has_the_bottleneck_of_the_paper():
    gate = ChannelGate(512)
    assert {name: tuple(p.shape) for name, p in gate.named_parameters()} == {
        "mlp.fc1.weight": (32, 512, 1, 1),  # r = 16
        "mlp.fc1.bias": (32,),
        "mlp.fc2.weight": (512, 32, 1, 1),
        "mlp.fc2.bias": (512,),
    }


# Equation (3)


def test_enhance_by_hand_with_an_identity_in_place_of_the_convolution():
    x = torch.arange(1.0, 9.0).view(1, 2, 2, 2)
    enhanced = enhance(x, torch.tensor([0.5, 0.1]).view(1, 2, 1, 1), nn.Identity())
    # no residual: FBSD's X + I * X would give 1.5 and 1.1 times X
    torch.testing.assert_close(enhanced.flatten(), torch.tensor([0.5, 1.0, 1.5, 2.0, 0.5, 0.6, 0.7, 0.8]))


def test_conv_layer_is_one_1x1_convolution_norm_and_relu():
    layer = conv_layer(4, 3).double().eval()
    randomise_norms(layer)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    weight = layer[0].weight.detach().numpy()[:, :, 0, 0]
    mixed = np.einsum("oc,bchw->bohw", weight, x.numpy())
    expected = np.maximum(numpy_norm(mixed, layer[1]), 0)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert (expected == 0).any() and (expected > 0).any()  # both sides of the ReLU are seen


def test_fbsd_neck_has_the_two_convolutions_of_fbsd():
    layer = conv_layer(6, 8, "fbsd").eval()
    kernels = [tuple(p.shape) for name, p in layer.named_parameters() if p.ndim == 4]
    assert kernels == [(4, 6, 1, 1), (8, 4, 3, 3)]
    out = layer(torch.randn(2, 6, 5, 7))
    assert out.shape == (2, 8, 5, 7) and out.min() >= 0


# Equation (4)


def test_normalised_importance_is_a_softmax_over_the_channels_of_each_image():
    importance = torch.rand(3, 5, 1, 1, dtype=torch.float64)
    e = np.exp(importance.numpy())
    result = normalised_importance(importance).numpy()
    np.testing.assert_allclose(result, e / e.sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalised_importance_of_half_precision_is_computed_in_float32(dtype):
    importance = torch.linspace(0.4, 0.6, 2048).view(1, -1, 1, 1).to(dtype)
    result = normalised_importance(importance)
    assert result.dtype == torch.float32
    e = np.exp(importance.double().numpy())
    np.testing.assert_allclose(result.numpy(), e / e.sum(1, keepdims=True), rtol=1e-5)


def test_under_autocast_only_the_gate_s_sigmoid_is_float32_and_the_maps_keep_half_precision():
    module, x = CRAM(64, 16), torch.randn(2, 64, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        importance = module.gate(x.bfloat16())
        enhanced, suppressed = module(x.bfloat16())
        refined = CBAM(64, 16)(x.bfloat16())[1]
    assert importance.dtype == torch.float32
    assert len(importance.unique()) > 100  # of 128; bfloat16 has 128 numbers between 0.5 and 1
    assert {enhanced.dtype, suppressed.dtype, refined.dtype} == {torch.bfloat16}


# Equation (5)


def test_mask_by_hand_at_the_papers_setting():
    # -ln(0.9) = 0.10536: gaps of 0, 0.105 and 0.05 are suppressed, 0.106 and 0.3 are not
    assert mask_of([0.9, 0.795, 0.85, 0.794, 0.6]) == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_mask_treats_each_image_by_its_own_maximum():
    importance = torch.tensor([[0.9, 0.5], [0.3, 0.25]]).view(2, 2, 1, 1)
    assert suppression_mask(importance).view(2, 2).tolist() == [[0.5, 1.0], [0.5, 0.5]]


@few_examples
@given(gate_values, st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_mask_is_the_condition_on_the_gap_to_the_maximum(values, delta, omega):
    threshold = -math.log(delta)
    gaps = [max(values) - value for value in values]
    assume(all(abs(gap - threshold) > 1e-9 for gap in gaps))  # rounding decides at the threshold itself
    assert mask_of(values, omega, delta) == [1.0 - omega if gap < threshold else 1.0 for gap in gaps]


@pytest.mark.parametrize("gap", [0.01, 0.10536, 0.25, 0.693, 0.9])
def test_mask_switches_at_the_exact_ratio(gap):
    ratio = math.exp(-gap)
    assert mask_of([0.95, 0.95 - gap], delta=ratio * (1 - 1e-9)) == [0.5, 0.5]
    assert mask_of([0.95, 0.95 - gap], delta=ratio * (1 + 1e-9)) == [0.5, 1.0]


@few_examples
@given(gate_values)
def test_comparison_is_strict_so_that_delta_one_suppresses_nothing(values):
    # the ratio of the largest channel is exactly 1, the one place where > and >= differ for certain
    assert mask_of(values, delta=1.0) == [1.0] * len(values)


@few_examples
@given(gate_values, st.floats(0.01, 0.368))
def test_small_delta_suppresses_every_channel(values, delta):
    assert mask_of(values, delta=delta) == [0.5] * len(values)


def test_small_delta_suppresses_even_saturated_gates():
    assert mask_of([1.0, 0.0], delta=0.3678) == [0.5, 0.5]  # 1 / e = 0.36788
    assert mask_of([1.0, 0.0], delta=0.3679) == [0.5, 1.0]


@pytest.mark.parametrize("level", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("delta", [0.5, 0.9, 0.999])
def test_constant_gates_suppress_all_channels_at_once(level, delta):
    assert mask_of([level] * 64, delta=delta) == [0.5] * 64


def test_cram_with_a_constant_gate_only_scales_the_map():
    module = CRAM(16, 4)
    nn.init.zeros_(module.gate.mlp.fc2.weight)
    nn.init.zeros_(module.gate.mlp.fc2.bias)
    x = torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(module(x)[1], 0.5 * x)


@pytest.mark.parametrize("channels", [3, 64, 512, 2208])
def test_mask_does_not_depend_on_the_number_of_channels(channels):
    # I* is about 1 / C, so a threshold on I* itself would change with C; the ratio does not
    mask = mask_of([0.9, 0.82, 0.7] + [0.3] * (channels - 3))
    assert mask == [0.5, 0.5, 1.0] + [1.0] * (channels - 3)


@few_examples
@given(st.lists(st.floats(0.001, 0.6), min_size=2, max_size=20), st.floats(0.0, 0.39), st.randoms())
def test_mask_follows_a_permutation_and_ignores_a_common_shift(values, shift, random):
    gaps = [max(values) - value for value in values]
    assume(all(abs(gap + math.log(0.9)) > 1e-9 for gap in gaps))
    order = random.sample(range(len(values)), len(values))
    mask = mask_of(values)
    assert mask_of([values[k] for k in order]) == [mask[k] for k in order]
    assert mask_of([value + shift for value in values]) == mask


@pytest.mark.parametrize(("omega", "weight"), [(0.0, 1.0), (0.3, 0.7), (1.0, 0.0)])
def test_omega_is_the_degree_of_suppression(omega, weight):
    assert mask_of([0.9, 0.85, 0.2], omega=omega) == pytest.approx([weight, weight, 1.0])


def test_mask_is_detached_from_the_gate():
    importance = torch.rand(1, 8, 1, 1, requires_grad=True)
    assert not suppression_mask(importance).requires_grad


# Equation (6)


def test_suppress_by_hand():
    x = torch.arange(1.0, 9.0).view(1, 2, 2, 2)
    suppressed = suppress(x, torch.tensor([0.5, 1.0]).view(1, 2, 1, 1))
    assert suppressed.flatten().tolist() == [0.5, 1.0, 1.5, 2.0, 5.0, 6.0, 7.0, 8.0]


# CRAM


def test_cram_equals_numpy():
    module = CRAM(8, 5, reduction=2, omega=0.3, delta=0.95).double().eval()
    randomise_norms(module)
    x = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    enhanced, suppressed = module(x)

    importance = numpy_gate(x.numpy(), module.gate.mlp)
    weight = module.conv_layer[0].weight.detach().numpy()[:, :, 0, 0]
    mixed = np.einsum("oc,bchw->bohw", weight, importance * x.numpy())
    np.testing.assert_allclose(
        enhanced.detach().numpy(), np.maximum(numpy_norm(mixed, module.conv_layer[1]), 0), atol=1e-12
    )
    hit = importance.max(axis=1, keepdims=True) - importance < -np.log(0.95)
    assert hit.any() and not hit.all()
    np.testing.assert_allclose(suppressed.detach().numpy(), np.where(hit, 0.7, 1.0) * x.numpy(), rtol=1e-12)


@pytest.mark.parametrize("neck", ["conv1x1", "fbsd"])
def test_cram_shapes_and_defaults(neck):
    enhanced, suppressed = CRAM(32, neck=neck)(torch.randn(2, 32, 6, 5))
    assert enhanced.shape == (2, 1024, 6, 5) and suppressed.shape == (2, 32, 6, 5)


def test_no_gradient_reaches_the_gate_through_the_suppressed_map():
    module = CRAM(8, 4, reduction=2)
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    suppressed = module(x)[1]
    suppressed.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    # the map itself is differentiated as a product with a constant
    importance = numpy_gate(x.detach().double().numpy(), module.double().gate.mlp)
    hit = importance.max(axis=1, keepdims=True) - importance < -math.log(0.9)
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(np.where(hit, 0.5, 1.0), x.shape))


def test_gradient_reaches_the_gate_through_the_enhanced_map():
    module = CRAM(8, 4, reduction=2)
    module(torch.randn(2, 8, 5, 5))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.gate.parameters())


@pytest.mark.parametrize("neck", ["conv1x1", "fbsd"])
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_cram(neck, training):
    module = CRAM(4, 4, reduction=2, neck=neck).double().train(training)
    randomise_norms(module)
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize(
    ("options", "given_value", "allowed"),
    [
        ({"omega": -0.1}, "-0.1", "[0, 1]"),
        ({"omega": 1.5}, "1.5", "[0, 1]"),
        ({"omega": math.nan}, "nan", "[0, 1]"),
        ({"delta": 0.0}, "0.0", "(0, 1]"),
        ({"delta": -0.5}, "-0.5", "(0, 1]"),
        ({"delta": 1.01}, "1.01", "(0, 1]"),
        ({"delta": math.nan}, "nan", "(0, 1]"),
        ({"reduction": 33}, "33", "32 channels"),
        ({"reduction": 0}, "0", "between 1 and"),
        ({"neck": "conv5x5"}, "'conv5x5'", "'conv1x1' or 'fbsd'"),
    ],
)
def test_bad_arguments_name_what_was_given_and_what_is_allowed(options, given_value, allowed):
    with pytest.raises(ValueError) as error:
        CRAM(32, 8, **options)
    message = str(error.value)
    assert given_value in message and allowed in message and "\n" not in message


@pytest.mark.parametrize("options", [{"omega": 1.5}, {"delta": 0.0}, {"delta": 1.5}])
def test_mask_refuses_bad_arguments_too(options):
    with pytest.raises(ValueError, match=r"must lie in"):
        suppression_mask(torch.rand(1, 4, 1, 1), **options)


@pytest.mark.parametrize("options", [{"reduction": 33}, {"neck": "none"}])
def test_cbam_refuses_bad_arguments_too(options):
    with pytest.raises(ValueError, match=r"^(reduction must lie|neck must be) .*(33|'none')$"):
        CBAM(32, 8, **options)


# CBAM


def numpy_spatial_gate(x, gate):
    """The spatial gate of CBAM, (B, C, H, W) -> (B, 1, H, W), its convolution as a sum of shifted maps."""
    height, width = x.shape[2:]
    pooled = np.stack([x.max(axis=1), x.mean(axis=1)], axis=1)
    padded = np.pad(pooled, ((0, 0), (0, 0), (3, 3), (3, 3)))
    kernel = gate.conv.weight.detach().numpy()[0]
    scores = sum(
        kernel[c, i, j] * padded[:, c, i : i + height, j : j + width]
        for c in range(2)
        for i in range(7)
        for j in range(7)
    )
    return sigmoid(numpy_norm(scores[:, None], gate.norm))


def test_cbam_equals_numpy():
    module = CBAM(6, 5, reduction=2).double().eval()
    randomise_norms(module)
    x = torch.randn(2, 6, 5, 8, dtype=torch.float64)
    enhanced, refined = module(x)

    expected = numpy_gate(x.numpy(), module.channel_gate.mlp) * x.numpy()
    expected = numpy_spatial_gate(expected, module.spatial_gate) * expected
    np.testing.assert_allclose(refined.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    weight = module.conv_layer[0].weight.detach().numpy()[:, :, 0, 0]
    mixed = np.einsum("oc,bchw->bohw", weight, expected)
    np.testing.assert_allclose(
        enhanced.detach().numpy(), np.maximum(numpy_norm(mixed, module.conv_layer[1]), 0), atol=1e-12
    )


def test_cbam_passes_gradients_to_both_gates_through_the_map_that_flows_on():
    # unlike CRAM, whose mask is a step
    module = CBAM(8, 4, reduction=2)
    module(torch.randn(2, 8, 5, 5))[1].square().sum().backward()
    gates = [*module.channel_gate.parameters(), *module.spatial_gate.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in gates)
