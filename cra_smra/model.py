"""The whole network, CRASMRA, and the plain backbone it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cra_smra.backbones import Backbone
from cra_smra.cram import CBAM, CRAM, check_suppression, conv_layer, suppression_mask
from cra_smra.smram import SMRAM


class Output(NamedTuple):
    """What a network returns: logits of the stages (B, 3, K), joint logits (B, K),
    L_div (scalar or None).
    """

    stage_logits: Tensor
    overall_logits: Tensor
    diversity_loss: Tensor | None


class Inspection(NamedTuple):
    """What the attention does on a batch.

    ``suppressed`` (stages,): the share of channels that CRAM damps, in [0, 1], mean
    over the batch, or None. ``attention`` (B, stages, P): SMRAM's maps over the P
    pixels of the last stage, or None.
    """

    suppressed: Tensor | None
    attention: Tensor | None


class Neck(nn.Module):
    """Conv_layer alone, for the row of the ablation without channel attention: X ->
    (Conv_layer(X), X).
    """

    def __init__(
        self, in_channels: int, out_channels: int = 1024, *, neck: str = "conv1x1"
    ) -> None:
        super().__init__()
        self.conv_layer = conv_layer(in_channels, out_channels, neck)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv_layer(x), x


def global_pool(x: Tensor, pooling: str = "max") -> Tensor:
    """One number per channel: "max", "mean", or "top5", the mean of the five largest;
    (B, C, H, W) -> (B, C).
    """
    pixels = x.flatten(start_dim=2)  # (B, C, H * W)
    if pooling == "max":
        return pixels.amax(dim=2)
    if pooling == "mean":
        return pixels.mean(dim=2)
    if pooling == "top5":
        return pixels.topk(min(5, pixels.shape[2]), dim=2).values.mean(dim=2)
    raise ValueError(f"pooling must be 'max', 'mean' or 'top5', got {pooling!r}")


def classifier(in_features: int, num_classes: int, head: str = "mlp") -> nn.Sequential:
    """A classification head, (B, in_features) -> (B, K): "mlp" as in PMG and FBSD, or
    one "linear" layer.
    """
    if head == "linear":
        return nn.Sequential(nn.Linear(in_features, num_classes))
    if head == "mlp":
        return nn.Sequential(
            nn.BatchNorm1d(in_features),
            nn.Linear(in_features, 512),
            nn.BatchNorm1d(512),
            nn.ELU(inplace=True),
            nn.Linear(512, num_classes),
        )
    raise ValueError(f"head must be 'mlp' or 'linear', got {head!r}")


def fuse(
    stage_logits: Tensor, overall_logits: Tensor, fusion: str = "softmax"
) -> Tensor:
    """The prediction at test time, from (B, stages, K) and (B, K) to probabilities
    (B, K).

    "softmax" is the mean of the softmax of all outputs, four with three stages;
    "logits" is the softmax of the sum of their logits, as FBSD does. Both orders are
    reported by ``evaluate``.
    """
    logits = torch.cat(
        [stage_logits, overall_logits.unsqueeze(1)], dim=1
    ).float()  # (B, stages + 1, K)
    if fusion == "softmax":
        return logits.softmax(dim=2).mean(dim=1)
    if fusion == "logits":
        return logits.sum(dim=1).softmax(dim=1)
    raise ValueError(f"fusion must be 'softmax' or 'logits', got {fusion!r}")


class Network(nn.Module):
    """What both networks share: prediction from their outputs."""

    def predict(self, images: Tensor, fusion: str = "softmax") -> Tensor:
        """Class probabilities (B, K) of normalised images (B, 3, H, W); the network
        must be in evaluation mode.
        """
        if self.training:
            raise RuntimeError(
                "predict needs the network in evaluation mode: call .eval() first"
            )
        with torch.no_grad():
            output = self(images)
        return fuse(output.stage_logits, output.overall_logits, fusion)


class CRASMRA(Network):
    """Backbone, CRAM after stages 3, 4 and 5, four classifiers, and in training SMRAM.

    ``backbone``, ``weights`` and ``final_norm`` go to ``Backbone``; a module is taken as
    it is and needs ``channels``, ``stem`` and ``run`` as ``Backbone`` has them. ``reduction``,
    ``omega``, ``delta`` and ``neck`` go to ``CRAM``, ``shared_phi``
    and ``smram_norm`` to ``SMRAM``. ``cram="cbam"`` puts CBAM in CRAM's place, ``cram=None`` only the
    convolution; ``smram=False`` leaves SMRAM out: the rows of the paper's Table 3.
    ``out_channels`` is C_a, ``pooling`` and ``head`` shape the classifiers.

    ``forward`` maps normalised images (B, 3, H, W), H and W at least 64 pixels, to an
    ``Output``; ``diversity_loss`` is None in evaluation mode, where SMRAM is not
    run. Raises ValueError for values out of range.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet50",
        num_classes: int = 200,
        *,
        weights: str | Path | None = None,
        cram: str | None = "cram",
        smram: bool = True,
        out_channels: int = 1024,
        reduction: int = 16,
        omega: float = 0.5,
        delta: float = 0.9,
        neck: str = "conv1x1",
        shared_phi: bool = False,
        smram_norm: str = "batch",
        pooling: str = "max",
        head: str = "mlp",
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_suppression(omega, delta)
        self.backbone = (
            Backbone(backbone, weights=weights, final_norm=final_norm)
            if isinstance(backbone, str)
            else backbone
        )
        if cram == "cram":
            options = {
                "reduction": reduction,
                "omega": omega,
                "delta": delta,
                "neck": neck,
            }
            modules = [
                CRAM(channels, out_channels, **options)
                for channels in self.backbone.channels
            ]
        elif cram == "cbam":
            options = {"reduction": reduction, "neck": neck}
            modules = [
                CBAM(channels, out_channels, **options)
                for channels in self.backbone.channels
            ]
        elif cram is None:
            modules = [
                Neck(channels, out_channels, neck=neck)
                for channels in self.backbone.channels
            ]
        else:
            raise ValueError(f"cram must be 'cram', 'cbam' or None, got {cram!r}")
        self.cram = nn.ModuleList(modules)
        self.smram = (
            SMRAM(out_channels, len(modules), shared_phi=shared_phi, norm=smram_norm)
            if smram
            else None
        )
        self.heads = nn.ModuleList(
            classifier(out_channels, num_classes, head) for _ in modules
        )
        self.overall_head = classifier(out_channels * len(modules), num_classes, head)
        self.pooling = pooling
        global_pool(
            torch.zeros(1, 1, 1, 1), pooling
        )  # an unknown name must fail here, not at the first batch

    def enhanced_maps(self, images: Tensor) -> list[Tensor]:
        """The maps X_e of stages 3, 4 and 5: a list of (B, C_a, H/8, W/8),
        (B, C_a, H/16, W/16), (B, C_a, H/32, W/32).
        """
        x = self.backbone.stem(images)
        maps = []
        for stage, module in enumerate(self.cram, start=1):
            enhanced, x = module(
                self.backbone.run(stage, x)
            )  # the suppressed map goes on to the next stage
            maps.append(enhanced)
        return maps

    def forward(self, images: Tensor) -> Output:
        maps = self.enhanced_maps(images)
        pooled = [
            global_pool(enhanced, self.pooling) for enhanced in maps
        ]  # f^l: (B, C_a) each
        stage_logits = torch.stack(
            [head(f) for head, f in zip(self.heads, pooled, strict=True)], dim=1
        )
        overall_logits = self.overall_head(torch.cat(pooled, dim=1))  # (B, K)
        diversity = (
            self.smram(maps) if self.training and self.smram is not None else None
        )
        return Output(stage_logits, overall_logits, diversity)

    @torch.no_grad()
    def inspect(self, images: Tensor) -> Inspection:
        """The share of suppressed channels per stage and SMRAM's maps, on normalised
        images (B, 3, H, W), in the mode that the network is in; call ``eval`` first
        unless the batch's own statistics are wanted.
        """
        modules = [module for module in self.cram if isinstance(module, CRAM)]
        gates: list[Tensor] = []  # the importance I of each stage: (B, C, 1, 1)
        hooks = [
            module.gate.register_forward_hook(lambda *call: gates.append(call[-1]))
            for module in modules
        ]
        try:
            maps = self.enhanced_maps(images)
        finally:
            for hook in hooks:
                hook.remove()
        # With omega = 1 the mask is 0 exactly where a channel is suppressed.
        masks = [
            suppression_mask(gate, 1.0, module.delta)
            for gate, module in zip(gates, modules, strict=True)
        ]
        return Inspection(
            torch.stack([(mask == 0).float().mean() for mask in masks])
            if masks
            else None,
            self.smram.attention(maps) if self.smram is not None else None,
        )


class PlainNetwork(Network):
    """The plain backbone: global average pooling and one linear layer, as torchvision's
    own classifier.

    ``forward`` maps images (B, 3, H, W) to an ``Output`` without stages, so that
    the same loss, training and evaluation serve both networks. Arguments as in
    ``CRASMRA``.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 200,
        *,
        weights: str | Path | None = None,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.backbone = Backbone(backbone, weights=weights, final_norm=final_norm)
        self.fc = nn.Linear(self.backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Output:
        x = self.backbone.stem(images)
        for stage in (1, 2, 3):
            x = self.backbone.run(stage, x)
        logits = self.fc(global_pool(x, "mean"))  # (B, K)
        return Output(logits.new_zeros(logits.shape[0], 0, logits.shape[1]), logits, None)


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
