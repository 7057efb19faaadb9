"""Channel re-attention: equations (1) to (6), then the module CRAM, then CBAM, to which
the paper compares it.

The equations are reconstructed from the prose of Wang et al., Neural Processing Letters
57, 43 (2025), doi 10.1007/s11063-025-11757-7, and checked against CBAM
(Woo et al., 2018). This file imports torch and nothing else of the project, so it can
be copied on its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelMLP(nn.Module):
    """Equation (2): FC2(ReLU(FC1(v))), a bottleneck C -> C/r -> C shared by both pooled
    vectors.

    Maps (B, C, 1, 1) to (B, C, 1, 1), any real values. Raises ValueError when C/r would
    be less than 1.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"reduction must lie between 1 and the {channels} channels, got {reduction}"
            )
        self.fc1 = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, kernel_size=1)

    def forward(self, v: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(v)))


class ChannelGate(nn.Module):
    """Equation (1): importance I = sigmoid(MLP(AP(X)) + MLP(MP(X))), the channel gate
    of CBAM.

    Maps a feature map (B, C, H, W) to the importance of its channels (B, C, 1, 1), each
    in (0, 1) and in float32 at least: equation (5) asks which gates lie within 0.1 of
    the largest.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.mlp = ChannelMLP(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(dim=(2, 3), keepdim=True)  # AP(X): (B, C, 1, 1)
        maximum = x.amax(dim=(2, 3), keepdim=True)  # MP(X): (B, C, 1, 1)
        logits = self.mlp(average) + self.mlp(maximum)  # (B, C, 1, 1)
        return torch.sigmoid(
            logits.to(torch.promote_types(logits.dtype, torch.float32))
        )


def conv_layer(
    in_channels: int, out_channels: int, neck: str = "conv1x1"
) -> nn.Sequential:
    """Conv_layer of equation (3): brings C channels to C_a; (B, C, H, W) ->
    (B, C_a, H, W), not negative.

    ``neck="conv1x1"`` is one 1x1 convolution, the default, since the paper calls the
    module lightweight. ``neck="fbsd"`` is the block of FBSD (arXiv 2103.02782): 1x1 to
    C_a/2, then 3x3 to C_a, about seven times the multiplications. Raises ValueError for
    any other name.
    """
    if neck == "conv1x1":
        layout = [(in_channels, out_channels, 1)]
    elif neck == "fbsd":
        layout = [
            (in_channels, out_channels // 2, 1),
            (out_channels // 2, out_channels, 3),
        ]
    else:
        raise ValueError(f"neck must be 'conv1x1' or 'fbsd', got {neck!r}")
    layers: list[nn.Module] = []
    for fan_in, fan_out, size in layout:
        layers += [
            nn.Conv2d(fan_in, fan_out, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def enhance(x: Tensor, importance: Tensor, layer: nn.Module) -> Tensor:
    """Equation (3): X_e = Conv_layer(I (x) X); (B, C, H, W) and (B, C, 1, 1) ->
    (B, C_a, H, W).
    """
    return layer(importance.to(x.dtype) * x)


def normalised_importance(importance: Tensor) -> Tensor:
    """Equation (4): I* = softmax of the importance over the channels; (B, C, 1, 1),
    sums to 1 over C.

    Computed in float32 at least: I* is about 1/C, too close together for half
    precision.
    """
    return importance.softmax(
        dim=1, dtype=torch.promote_types(importance.dtype, torch.float32)
    )


def suppression_mask(
    importance: Tensor, omega: float = 0.5, delta: float = 0.9
) -> Tensor:
    """Equations (4) and (5): S_k = 1 - omega where I*_k / I*_max > delta, else 1.

    ``importance`` is the gate I of equation (1), (B, C, 1, 1) in (0, 1); the mask has
    its shape. The softmax cancels in the ratio: a channel is suppressed when I_max -
    I_k < -ln(delta). Since I lies in (0, 1) the ratio is above 1/e: every delta <=
    0.368 suppresses all channels, and delta = 1 none. S is a step, so no gradient
    reaches the gate through it; the importance is detached to say so.

    Raises ValueError for omega outside [0, 1] or delta outside (0, 1].
    """
    check_suppression(omega, delta)
    normalised = normalised_importance(importance.detach())  # I*: (B, C, 1, 1)
    ratio = normalised / normalised.amax(dim=1, keepdim=True)  # in (1/e, 1]
    return torch.ones_like(importance).masked_fill(ratio > delta, 1.0 - omega)


def check_suppression(omega: float, delta: float) -> None:
    """Raise ValueError unless omega lies in [0, 1] and delta in (0, 1]."""
    if not 0.0 <= omega <= 1.0:
        raise ValueError(f"omega must lie in [0, 1], got {omega}")
    if not 0.0 < delta <= 1.0:
        raise ValueError(f"delta must lie in (0, 1], got {delta}")


def suppress(x: Tensor, mask: Tensor) -> Tensor:
    """Equation (6): X_s = S (x) X; (B, C, H, W) and (B, C, 1, 1) -> (B, C, H, W), input
    of the next stage.
    """
    return mask.to(x.dtype) * x


class CRAM(nn.Module):
    """Channel re-attention module: enhance what matters, and damp it in what the next
    stage sees.

    ``forward`` maps X (B, C, H, W) to the enhanced map X_e (B, C_a, H, W) of equation
    (3), which feeds this stage's classifier and SMRAM, and to the suppressed map X_s
    (B, C, H, W) of equation (6), which feeds the next stage. C is ``in_channels``, C_a
    is ``out_channels``. The defaults are the paper's, where it gives them.

    Raises ValueError for omega outside [0, 1], delta outside (0, 1], an unknown neck or
    reduction > C.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1024,
        *,
        reduction: int = 16,
        omega: float = 0.5,
        delta: float = 0.9,
        neck: str = "conv1x1",
    ) -> None:
        super().__init__()
        check_suppression(omega, delta)
        self.omega, self.delta = omega, delta
        self.gate = ChannelGate(in_channels, reduction)
        self.conv_layer = conv_layer(in_channels, out_channels, neck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        importance = self.gate(x)  # I: (B, C, 1, 1)
        enhanced = enhance(x, importance, self.conv_layer)  # X_e: (B, C_a, H, W)
        mask = suppression_mask(importance, self.omega, self.delta)  # S: (B, C, 1, 1)
        return enhanced, suppress(x, mask)  # X_s: (B, C, H, W)


class SpatialGate(nn.Module):
    """The spatial gate of CBAM: sigmoid(BN(7x7 conv of [max over C; mean over C]));
    (B, C, H, W) -> (B, 1, H, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat(
            [x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1
        )  # (B, 2, H, W)
        return torch.sigmoid(self.norm(self.conv(pooled)))


class CBAM(nn.Module):
    """CBAM (Woo et al., 2018) in CRAM's place: channel gate, then spatial gate, then
    the same Conv_layer.

    ``forward`` maps X (B, C, H, W) to the enhanced map (B, C_a, H, W) and to the
    refined map (B, C, H, W), which feeds the next stage, as in CBAM: the map that is
    used is also the map that flows on; nothing is suppressed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1024,
        *,
        reduction: int = 16,
        neck: str = "conv1x1",
    ) -> None:
        super().__init__()
        self.channel_gate = ChannelGate(in_channels, reduction)
        self.spatial_gate = SpatialGate()
        self.conv_layer = conv_layer(in_channels, out_channels, neck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        refined = self.channel_gate(x).to(x.dtype) * x  # (B, C, H, W)
        refined = self.spatial_gate(refined) * refined  # (B, C, H, W)
        return self.conv_layer(refined), refined
