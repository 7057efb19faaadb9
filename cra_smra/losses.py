"""The training loss: equations (10) and (11).

Reconstructed from the prose of Wang et al., Neural Processing Letters 57, 43 (2025),
doi 10.1007/s11063-025-11757-7. The stage losses are summed, as in FBSD
(arXiv 2103.02782).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cra_smra.model import Output


class LossParts(NamedTuple):
    """The parts of equation (11) before they are weighted: (stages,), scalar, scalar.
    """

    stages: Tensor
    overall: Tensor
    diversity: Tensor


def stage_losses(stage_logits: Tensor, target: Tensor) -> Tensor:
    """Equation (10), L_cls^i: the cross-entropy of each stage; (B, stages, K) and (B,)
    -> (stages,).
    """
    losses = [F.cross_entropy(logits, target) for logits in stage_logits.unbind(dim=1)]
    return torch.stack(losses) if losses else stage_logits.new_zeros(0)


def overall_loss(overall_logits: Tensor, target: Tensor) -> Tensor:
    """Equation (10), L_cls^all: the cross-entropy of the joint classifier; (B, K) and
    (B,) -> scalar.
    """
    return F.cross_entropy(overall_logits, target)


def total_loss(
    output: Output,
    target: Tensor,
    alpha: float = 2.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> tuple[Tensor, LossParts]:
    """Equation (11): L = alpha * sum_i L_cls^i + beta * L_cls^all + gamma * L_div.

    ``output`` is what the network returns, ``target`` (B,) holds class numbers 0 .. K -
    1. Returns the scalar and its parts. A network without SMRAM, or in evaluation mode,
    has no L_div: the part is then 0.
    """
    stages = stage_losses(output.stage_logits, target)
    overall = overall_loss(output.overall_logits, target)
    diversity = (
        overall.new_zeros(())
        if output.diversity_loss is None
        else output.diversity_loss
    )
    total = alpha * stages.sum() + beta * overall + gamma * diversity
    return total, LossParts(stages.detach(), overall.detach(), diversity.detach())
