"""Spatial multi-region attention: equations (7) to (9), then the module SMRAM.

The equations are reconstructed from the prose of Wang et al., Neural Processing Letters
57, 43 (2025), doi 10.1007/s11063-025-11757-7, and from MC-Loss (Chang et al., 2020),
where cross-channel max pooling and the diversity term come from. This file imports
torch and nothing else of the project, so it can be copied on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def spatial_softmax(scores: Tensor) -> Tensor:
    """The softmax of equation (7), over pixels; (B, 1, H, W) -> (B, H * W), not
    negative, each row sums to 1.

    Computed in float32 at least: half precision would leave L_div two digits.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.flatten(start_dim=1).softmax(dim=1, dtype=dtype)


def cross_channel_max_pool(maps: Tensor) -> Tensor:
    """CCMP of equation (8): the largest value at each pixel over the stages;
    (B, stages, P) -> (B, P).
    """
    return maps.amax(dim=1)


def diversity(maps: Tensor) -> Tensor:
    """Equation (8): h = (1 / eps) * sum over pixels of CCMP, eps = the number of
    stages; (B, stages, P) -> (B,).

    Each map must sum to 1 over its P pixels. Then h lies in [1 / eps, 1]: 1 / eps where
    all maps are equal, 1 where no two share a pixel. The paper calls h a similarity,
    though a larger h means more different maps.
    """
    return cross_channel_max_pool(maps).sum(dim=1) / maps.shape[1]


def diversity_loss(maps: Tensor) -> Tensor:
    """Equation (9): L_div = 1 - h, averaged over the batch; (B, stages, P) -> scalar in
    [0, 1 - 1 / eps].

    With three stages: 2/3 for equal maps, 0 for maps that share no pixel. Sharpening
    every map alone lowers it too, so read it only beside the overlap and the entropy of
    the maps.
    """
    return 1.0 - diversity(maps).mean()


class SMRAM(nn.Module):
    """Spatial multi-region attention module: one attention map per stage, and the loss
    that pushes them apart.

    ``forward`` maps the enhanced maps X_e of the stages, a list of (B, C_a, H_l, W_l)
    with the smallest map last, to the scalar L_div of equation (9). ``attention``
    returns the maps themselves. Used in training only: taking the module away
    afterwards changes no prediction. ``shared_phi=True`` uses one convolution phi for
    all stages; the normalisation stays one per stage. ``norm="map"`` is ours, not the
    paper's: each map's scores get mean 0 and variance 1 over its own pixels in place of
    BN, so that no scale can sharpen it.

    Raises ValueError for an unknown norm, and when the number of maps differs from
    ``num_stages``.
    """

    def __init__(
        self,
        in_channels: int = 1024,
        num_stages: int = 3,
        *,
        shared_phi: bool = False,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if norm not in ("batch", "map"):
            raise ValueError(f"norm must be 'batch' or 'map', got {norm!r}")
        self.num_stages = num_stages
        count = 1 if shared_phi else num_stages
        self.phi = nn.ModuleList(
            nn.Conv2d(in_channels, 1, kernel_size=1, bias=False) for _ in range(count)
        )
        layer = nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d
        self.norm = nn.ModuleList(layer(1) for _ in range(num_stages))

    def attention(self, maps: Sequence[Tensor]) -> Tensor:
        """Equation (7): A^l = softmax over pixels of BN(phi^l(AvgPool(X_e^l))).

        Takes the list of (B, C_a, H_l, W_l), returns (B, stages, H_L * W_L); each map
        sums to 1 over its pixels, which are those of the last, smallest stage, row by
        row.
        """
        if len(maps) != self.num_stages:
            raise ValueError(
                f"SMRAM was built for {self.num_stages} stages, got {len(maps)} maps"
            )
        size = maps[-1].shape[-2:]  # (H_L, W_L)
        attention = []
        for stage, x in enumerate(maps):
            pooled = F.adaptive_avg_pool2d(x, size)  # (B, C_a, H_L, W_L)
            scores = self.norm[stage](
                self.phi[stage % len(self.phi)](pooled)
            )  # (B, 1, H_L, W_L)
            attention.append(spatial_softmax(scores))  # (B, H_L * W_L)
        return torch.stack(attention, dim=1)  # (B, stages, H_L * W_L)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return diversity_loss(self.attention(maps))
