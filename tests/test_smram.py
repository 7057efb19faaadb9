"""Equations (7) to (9) and SMRAM, against values worked out by hand or by independent formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.func import functional_call

from cra_smra.attention import overlap
from cra_smra.smram import SMRAM, cross_channel_max_pool, diversity, diversity_loss, spatial_softmax

few_examples = settings(max_examples=60, deadline=None, database=None, derandomize=True)
# logits of a batch of two, three stages, nine pixels
logits_3x9 = arrays(np.float64, (2, 3, 9), elements=st.floats(-8, 8))

# Three maps of 2 x 2 pixels. Largest values 0.4, 0.3, 0.3, 0.4: sum 1.4, h = 1.4 / 3.
TOY = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]
# Three single pixels: nothing shared.
DISJOINT = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def softmax(logits):
    """Softmax over the last axis, in numpy."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def loss_of(logits):
    return diversity_loss(torch.from_numpy(softmax(logits))).item()


# Equations (8) and (9)


def test_cross_channel_max_pool_by_hand():
    pooled = cross_channel_max_pool(tensor([TOY, DISJOINT]))
    assert pooled.tolist() == [[0.4, 0.3, 0.3, 0.4], [1.0, 1.0, 0.0, 1.0]]


def test_diversity_by_hand():
    h = diversity(tensor([TOY, DISJOINT]))
    torch.testing.assert_close(h, tensor([1.4 / 3, 1.0]))


def test_maps_of_half_precision_are_made_in_float32():
    scores = torch.randn(4, 1, 14, 14).bfloat16()
    maps = spatial_softmax(scores)
    assert maps.dtype == torch.float32
    assert np.allclose(maps.numpy(), softmax(scores.double().flatten(1).numpy()), rtol=1e-5)


def test_diversity_loss_by_hand_is_the_batch_mean():
    loss = diversity_loss(tensor([TOY, DISJOINT]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx((1.6 / 3 + 0.0) / 2)


def test_eps_is_the_number_of_stages():
    assert diversity(tensor([TOY[:2]])).item() == pytest.approx(1.4 / 2)
    assert diversity(tensor([TOY[:1]])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("pixels", [4, 49, 196])
def test_loss_of_equal_flat_and_disjoint_maps(pixels):
    row = softmax(np.random.default_rng(0).normal(size=pixels))
    equal = torch.from_numpy(np.broadcast_to(row, (2, 3, pixels)).copy())
    flat = torch.full((2, 3, pixels), 1 / pixels, dtype=torch.float64)
    disjoint = torch.zeros(2, 3, pixels, dtype=torch.float64)
    for stage, span in enumerate(np.array_split(np.arange(pixels), 3)):
        disjoint[:, stage, span] = 1 / len(span)
    assert diversity_loss(equal).item() == pytest.approx(2 / 3)
    assert diversity_loss(flat).item() == pytest.approx(2 / 3)
    assert diversity_loss(disjoint).item() == pytest.approx(0.0, abs=1e-12)


def test_loss_of_independent_normal_logits():
    rng = np.random.default_rng(0)
    got = loss_of(rng.normal(size=(2000, 3, 196)))
    assert got == pytest.approx(0.368, abs=0.002)
    # With many pixels h tends to E max(e^a, e^b, e^c) / (3 E e^a) = E Phi(z + 1)^2 over a standard normal z,
    # by the density of the largest of three and a shift of the normal by one; h of 196 pixels is 0.002 below.
    z = np.linspace(-10, 10, 20001)
    phi = np.array([0.5 * (1 + math.erf((value + 1) / math.sqrt(2))) for value in z])
    limit = 1 - np.sum(phi**2 * np.exp(-(z**2) / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    assert got == pytest.approx(limit, abs=0.005)


def test_sharpening_alone_lowers_the_loss_without_moving_the_maps_apart():
    logits = np.random.default_rng(1).normal(size=(64, 3, 196))
    scales = (0.0, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0)
    losses = [loss_of(scale * logits) for scale in scales]
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False))
    assert losses[0] == pytest.approx(2 / 3) and losses[-1] < 0.05
    # the places of the maps, measured by their largest pixels, stay what they were
    shared = [overlap(torch.from_numpy(softmax(scale * logits))) for scale in (1.0, 4.0)]
    assert torch.equal(*shared)


def test_pushing_two_equal_maps_apart_lowers_the_loss():
    # Stages 1 and 2 look at the same bump, stage 3 at another; then the two bumps part.
    column = np.arange(60)

    def bump(centre):
        return -((column - centre) ** 2) / 8.0

    losses = [loss_of(np.stack([bump(20 - s), bump(20 + s), bump(45)])[None]) for s in (0, 1, 2, 4, 6)]
    assert losses[0] == pytest.approx(1 / 3, abs=1e-6)  # h = 2 / 3: two of three maps are one
    assert all(later < earlier - 1e-2 for earlier, later in zip(losses, losses[1:], strict=False))


def test_gradient_descent_on_the_loss_moves_two_equal_maps_apart():
    row = torch.randn(100, dtype=torch.float64)
    # nearly equal: where maps are exactly equal the maximum has no direction to prefer
    logits = (row + 0.01 * torch.randn(1, 3, 100, dtype=torch.float64)).requires_grad_()
    history = []
    for _ in range(100):
        maps = logits.softmax(dim=2)
        loss = diversity_loss(maps)
        history.append((loss.item(), overlap(maps).item()))
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= gradient
    losses, overlaps = zip(*history, strict=True)
    assert losses[0] > 0.66 and overlaps[0] > 0.9
    assert all(later < earlier for earlier, later in zip(losses, losses[1:], strict=False))
    assert all(later <= earlier for earlier, later in zip(overlaps, overlaps[1:], strict=False))
    # Most of the fall is sharpening: the loss nears its end while the top pixels are still mostly shared.
    assert losses[-1] < 0.3 and overlaps[-1] < 0.85


@few_examples
@given(logits_3x9)
def test_diversity_is_the_sum_of_largest_values_and_stays_in_its_range(logits):
    maps = softmax(logits)
    h = diversity(torch.from_numpy(maps)).numpy()
    by_hand = [sum(max(stage[pixel] for stage in image) for pixel in range(9)) / 3 for image in maps]
    np.testing.assert_allclose(h, by_hand, rtol=1e-12)
    assert np.all(h >= 1 / 3 - 1e-12) and np.all(h <= 1 + 1e-12)


@few_examples
@given(logits_3x9, st.permutations(range(3)), st.permutations(range(9)))
def test_loss_does_not_change_with_the_order_of_stages_or_pixels(logits, stages, pixels):
    moved = logits[:, list(stages)][:, :, list(pixels)]
    assert loss_of(moved) == pytest.approx(loss_of(logits), abs=1e-12)


def test_gradcheck_of_the_loss():
    logits = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: diversity_loss(values.softmax(dim=2)), (logits,))


# Equation (7)


def test_spatial_softmax_by_hand():
    scores = torch.log(tensor([1.0, 2.0, 3.0, 4.0])).view(1, 1, 2, 2)
    scores = torch.cat([scores, scores + 7, torch.zeros_like(scores)])  # a common shift of all pixels cancels
    torch.testing.assert_close(spatial_softmax(scores), tensor([[0.1, 0.2, 0.3, 0.4]] * 2 + [[0.25] * 4]))


def randomise(module):
    """Give every BatchNorm statistics and an affine part of its own, so that a mix-up of stages shows."""
    for norm in module.norm:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 3.0)
        nn.init.normal_(norm.bias)


def make_maps(sizes, channels=4, batch=3):
    return [torch.randn(batch, channels, *size, dtype=torch.float64) for size in sizes]


def numpy_pool(x, size):
    """Average pooling to ``size``: bin i of n over length L is floor(i L / n) up to ceil((i + 1) L / n)."""
    rows, columns = (
        [slice(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]
        for n, length in zip(size, x.shape[2:], strict=True)
    )
    return np.stack([np.stack([x[:, :, r, c].mean(axis=(2, 3)) for c in columns], -1) for r in rows], -2)


def numpy_attention(module, maps):
    """Equation (7) in numpy: list of (B, C, H, W) -> (B, stages, P)."""
    result = []
    for stage, x in enumerate(maps):
        phi = module.phi[stage if len(module.phi) > 1 else 0].weight.detach().numpy()[0, :, 0, 0]
        norm = module.norm[stage]
        scores = np.einsum("c,bchw->bhw", phi, numpy_pool(x.numpy(), maps[-1].shape[2:]))
        if module.training:
            mean, var = scores.mean(), scores.var()
        else:
            mean, var = norm.running_mean.item(), norm.running_var.item()
        scores = (scores - mean) / math.sqrt(var + norm.eps) * norm.weight.item() + norm.bias.item()
        result.append(softmax(scores.reshape(len(x), -1)))
    return np.stack(result, axis=1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared_phi", [True, False])
@pytest.mark.parametrize(
    "sizes", [[(8, 8), (4, 4), (2, 2)], [(12, 8), (6, 4), (3, 2)], [(10, 10), (5, 5), (3, 3)]]
)
def test_attention_equals_numpy(training, shared_phi, sizes):
    module = SMRAM(4, shared_phi=shared_phi).double().train(training)
    randomise(module)
    maps = make_maps(sizes)
    expected = numpy_attention(module, maps)  # first: a call in training mode moves the running statistics
    attention = module.attention(maps).detach().numpy()
    assert attention.shape == (3, 3, math.prod(sizes[-1]))
    np.testing.assert_allclose(attention, expected, rtol=1e-9)
    np.testing.assert_allclose(attention.sum(axis=2), 1.0)


def test_smram_returns_the_loss_of_its_maps():
    module = SMRAM(4).double()
    randomise(module)
    maps = make_maps([(8, 8), (4, 4), (2, 2)])
    expected = 1 - numpy_attention(module, maps).max(axis=1).sum(axis=1).mean() / 3
    loss = module(maps)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)


def test_smram_with_scores_without_contrast_gives_two_thirds():
    module = SMRAM(4)
    for norm in module.norm:
        nn.init.zeros_(norm.weight)
    maps = [torch.randn(2, 4, size, size) for size in (8, 4, 2)]
    assert module(maps).item() == pytest.approx(2 / 3)


def test_a_larger_norm_scale_alone_drives_the_loss_to_zero():
    module = SMRAM(4).double()
    maps = make_maps([(28, 28), (14, 14), (14, 14)])
    losses = []
    for scale in (1.0, 4.0, 16.0, 256.0):
        for norm in module.norm:
            nn.init.constant_(norm.weight, scale)
        losses.append(module(maps).item())
    assert losses == sorted(losses, reverse=True) and losses[0] > 0.3 and losses[-1] < 0.05


def test_no_scale_sharpens_maps_that_are_normalised_one_by_one():
    maps = make_maps([(28, 28), (14, 14), (14, 14)])
    ours, papers = SMRAM(4, norm="map").double(), SMRAM(4).double()
    papers.phi.load_state_dict(ours.phi.state_dict())
    attention = ours.attention(maps)
    # numpy: each map's scores by their own mean and deviation
    scores = torch.einsum("bchw,c->bhw", maps[1], ours.phi[1].weight.flatten()).flatten(1).detach().numpy()
    by_hand = (scores - scores.mean(1, keepdims=True)) / np.sqrt(scores.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(attention[:, 1].detach().numpy(), softmax(by_hand), atol=1e-12)
    with torch.no_grad():
        for phi in [*ours.phi, *papers.phi]:
            phi.weight *= 100
    torch.testing.assert_close(ours.attention(maps), attention, rtol=1e-3, atol=1e-6)  # but for the 1e-5
    assert not list(ours.norm.parameters()), "a scale that could be learnt"
    torch.testing.assert_close(ours.eval().attention(maps), ours.train().attention(maps))
    with pytest.raises(ValueError, match="^norm must be 'batch' or 'map', got 'layer'$"):
        SMRAM(4, norm="layer")


def test_parameters_are_one_phi_and_one_norm_per_stage():
    def shapes(module):
        return {name: tuple(p.shape) for name, p in module.named_parameters()}

    norms = {f"norm.{stage}.{part}": (1,) for stage in range(3) for part in ("weight", "bias")}
    phi = {f"phi.{stage}.weight": (1, 1024, 1, 1) for stage in range(3)}
    assert shapes(SMRAM()) == norms | phi
    # one convolution for all stages; the normalisation stays one per stage
    assert shapes(SMRAM(shared_phi=True)) == norms | {"phi.0.weight": (1, 1024, 1, 1)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared_phi", [True, False])
def test_gradcheck_smram(training, shared_phi):
    module = SMRAM(3, shared_phi=shared_phi).double().train(training)
    randomise(module)
    names, values = zip(*module.named_parameters(), strict=True)

    def run(x3, x4, x5, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), ([x3, x4, x5],))

    maps = [x.requires_grad_() for x in make_maps([(4, 4), (4, 4), (2, 2)], channels=3, batch=2)]
    assert torch.autograd.gradcheck(run, (*maps, *values))


def test_training_smram_alone_lowers_its_loss():
    module = SMRAM(8)
    maps = [torch.randn(4, 8, size, size) for size in (16, 8, 4)]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        loss = module(maps)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_wrong_number_of_maps_names_both_numbers(count):
    maps = [torch.randn(2, 4, 4, 4) for _ in range(count)]
    with pytest.raises(ValueError, match=rf"^SMRAM was built for 3 stages, got {count} maps$"):
        SMRAM(4)(maps)
