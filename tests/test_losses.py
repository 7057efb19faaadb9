"""Equations (10) and (11), against values worked out by hand or by numpy."""

import math

import numpy as np
import pytest
import torch

from cra_smra.losses import overall_loss, stage_losses, total_loss
from cra_smra.model import Output


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def cross_entropy(logits, target):
    """Mean over the batch of logsumexp(logits) - logits[target], in float64: (B, K) and (B,) -> float."""
    logits = np.asarray(logits, dtype=np.float64)
    largest = logits.max(axis=1)
    logsumexp = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float(np.mean(logsumexp - logits[np.arange(len(logits)), np.asarray(target)]))


def make_output(diversity=0.4, classes=7, batch=5):
    stage_logits = 3 * torch.randn(batch, 3, classes, dtype=torch.float64)
    overall_logits = 3 * torch.randn(batch, classes, dtype=torch.float64)
    diversity_loss = None if diversity is None else torch.tensor(diversity, dtype=torch.float64)
    return Output(stage_logits, overall_logits, diversity_loss), torch.randint(classes, (batch,))


def numpy_parts(output, target):
    stages = [cross_entropy(output.stage_logits[:, stage], target) for stage in range(3)]
    return stages, cross_entropy(output.overall_logits, target)


def test_cross_entropies_by_hand():
    # ln(e^0 + e^0) - 0 = ln 2; ln(1 + 3) - ln 3 = ln(4 / 3); ln(1 + 3) - 0 = ln 4
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]]])
    target = torch.tensor([1])
    expected = torch.tensor([math.log(2), math.log(4 / 3), math.log(4)])
    torch.testing.assert_close(stage_losses(logits, target), expected)
    assert overall_loss(logits[:, 1], target).item() == pytest.approx(math.log(4 / 3))


def test_stage_losses_equal_numpy_in_the_order_of_the_stages():
    output, target = make_output()
    stages, overall = numpy_parts(output, target)
    np.testing.assert_allclose(stage_losses(output.stage_logits, target).numpy(), stages, rtol=1e-12)
    assert overall_loss(output.overall_logits, target).item() == pytest.approx(overall)
    assert len({round(value, 3) for value in (*stages, overall)}) == 4  # all differ, so a mix-up would show


def test_total_loss_at_the_papers_weights():
    output, target = make_output()
    stages, overall = numpy_parts(output, target)
    assert total_loss(output, target)[0].item() == pytest.approx(2 * sum(stages) + overall + 0.4)


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 3, 5), (0.5, 0.25, 0.125), (0, 0, 0)]
)
def test_total_loss_weighs_its_parts(alpha, beta, gamma):
    output, target = make_output()
    stages, overall = numpy_parts(output, target)
    expected = alpha * sum(stages) + beta * overall + gamma * 0.4
    assert total_loss(output, target, alpha, beta, gamma)[0].item() == pytest.approx(expected)
    by_name = total_loss(output, target, gamma=gamma, beta=beta, alpha=alpha)[0]
    assert by_name.item() == pytest.approx(expected)


def test_the_weights_of_the_classifiers_sum_to_seven():
    # at the start every classifier is at chance, ln K: the sum weighs 2 + 2 + 2 + 1
    output = Output(torch.zeros(4, 3, 200), torch.zeros(4, 200), torch.tensor(2 / 3))
    loss = total_loss(output, torch.arange(4))[0]
    assert loss.item() == pytest.approx(7 * math.log(200) + 2 / 3, rel=1e-6)


def test_parts_are_not_weighted_and_carry_no_gradient():
    output, target = make_output()
    output = Output(*(value.requires_grad_() for value in output))
    total, parts = total_loss(output, target, alpha=3, beta=5, gamma=7)
    stages, overall = numpy_parts(Output(*(value.detach() for value in output)), target)
    np.testing.assert_allclose(parts.stages.numpy(), stages, rtol=1e-12)
    assert parts.overall.item() == pytest.approx(overall)
    assert parts.diversity.item() == pytest.approx(0.4)
    assert total.requires_grad and not any(part.requires_grad for part in parts)


def test_gradients_of_the_total_loss_by_formula():
    output, target = make_output()
    output = Output(*(value.requires_grad_() for value in output))
    total_loss(output, target, alpha=2, beta=3, gamma=5)[0].backward()
    # d CE / d logits = (softmax - one hot) / batch
    one_hot = np.eye(7)[target.numpy()]

    def gradient(logits):
        e = np.exp(logits.detach().numpy())
        return (e / e.sum(axis=1, keepdims=True) - one_hot) / 5

    expected = 3 * gradient(output.overall_logits)
    np.testing.assert_allclose(output.overall_logits.grad.numpy(), expected, atol=1e-12)
    for stage in range(3):
        expected = 2 * gradient(output.stage_logits[:, stage])
        np.testing.assert_allclose(output.stage_logits.grad[:, stage].numpy(), expected, atol=1e-12)
    assert output.diversity_loss.grad.item() == 5


def test_output_without_diversity_leaves_the_term_out():
    output, target = make_output(diversity=None)
    stages, overall = numpy_parts(output, target)
    total, parts = total_loss(output, target, gamma=100.0)
    assert total.item() == pytest.approx(2 * sum(stages) + overall)
    assert parts.diversity.item() == 0


def test_output_without_stages_is_plain_cross_entropy():
    output, target = make_output(diversity=None)
    expected = cross_entropy(output.overall_logits, target)
    plain = Output(output.stage_logits[:, :0], output.overall_logits.requires_grad_(), None)
    total, parts = total_loss(plain, target)
    assert total.item() == pytest.approx(expected)
    assert parts.stages.shape == (0,)
    total.backward()
    assert plain.overall_logits.grad.any()


def test_gradcheck_of_the_total_loss():
    output, target = make_output(classes=4, batch=3)
    inputs = tuple(value.requires_grad_() for value in output)
    assert torch.autograd.gradcheck(lambda *values: total_loss(Output(*values), target)[0], inputs)
