"""How concentrated the stages' attention maps are, and how much they share."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor


def top_pixels(maps: Tensor, share: float = 0.2) -> Tensor:
    """Mark the ``share`` largest pixels of each map, at least one; (..., P) -> (..., P)
    bool.
    """
    count = max(1, round(share * maps.shape[-1]))
    return torch.zeros_like(maps, dtype=torch.bool).scatter(
        -1, maps.topk(count, dim=-1).indices, True
    )


def overlap(maps: Tensor, share: float = 0.2) -> Tensor:
    """Overlap of the stages: intersection over union of their top pixels; (B, stages,
    P) -> (B,) in [0, 1].

    Mean over all pairs of stages: 1 where all stages pick the same pixels, 0 where no
    two share one. Unlike L_div it does not change when every map is sharpened.
    """
    top = top_pixels(maps, share)
    pairs = list(combinations(range(maps.shape[1]), 2))
    ious = [
        (top[:, a] & top[:, b]).sum(dim=1) / (top[:, a] | top[:, b]).sum(dim=1)  # (B,)
        for a, b in pairs
    ]
    return torch.stack(ious).mean(dim=0)


def entropy(maps: Tensor) -> Tensor:
    """Entropy of each map as a share of its maximum ln P; (..., P) -> (...) in [0, 1].

    1 for a flat map, 0 for a single pixel. Each map must sum to 1, and P must be at
    least 2.
    """
    return torch.special.entr(maps).sum(dim=-1) / torch.log(
        torch.tensor(maps.shape[-1], dtype=maps.dtype)
    )
