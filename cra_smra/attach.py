"""CRAM and SMRAM on any network, by the names of its stages.

    network = attach(torchvision.models.convnext_tiny(), ("features.3", "features.5", "features.7"), num_classes=200)
    output = network(images)  # stage_logits (B, 3, 200), overall_logits (B, 200), diversity_loss, as CRASMRA's
    backbone = detach(network)  # the module that was given, without a trace

``cra_smra.architectures`` lists the stages of common networks, ``cra_smra.stages.feature_maps`` those of any other.

A forward hook on each stage turns what it returns into a map, runs CRAM, and returns the suppressed map in the stage's
own layout, so that it flows on. No module is wrapped or replaced: parameters keep their names. The backbone runs to its
end, and what its classifier returns is ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cra_smra.cram import CRAM
from cra_smra.model import CRASMRA
from cra_smra.stages import Stage, as_size, check_stages, dry_run, find_stage, from_map, to_map, without_gradient


class Pass(NamedTuple):
    """One forward pass: the network that runs, whether gradients are wanted, and the
    enhanced maps so far, by the number of their stage.
    """

    network: Attached
    gradients: bool
    maps: dict[int, Tensor]


# The pass of each thread. Not kept on a module: the replicas of DataParallel share the hooks of the original, and one
# network may predict in several threads at once.
RUNNING = threading.local()


class Tap:
    """The forward hook of one stage."""

    def __init__(self, network: Attached, index: int) -> None:
        # Copying or pickling the network takes its hooks along, and this then names the copy.
        self.network, self.index = network, index

    def __call__(self, module: nn.Module, arguments: tuple[object, ...], output: Tensor) -> Tensor:
        running: Pass | None = getattr(RUNNING, "value", None)
        network = self.network if running is None else running.network
        stage, cram = network.stages[self.index], network.cram[self.index]
        x = to_map(output, stage)  # X: (B, C, H, W)
        if running is None:
            # Activation checkpointing runs the stage again in the backward pass. The heads have their map already,
            # and the running statistics must not count the batch twice.
            with statistics_kept(cram):
                _, onward = cram(x)
        else:
            if running.gradients and not torch.is_grad_enabled():
                raise RuntimeError(
                    f"stage {stage.name!r} runs without gradients, as in checkpoint(..., use_reentrant=True), "
                    "so CRAM could not be trained: use_reentrant must be False"
                )
            if self.index in running.maps:
                raise RuntimeError(f"stage {stage.name!r} ran twice in one pass: a stage must run once")
            running.maps[self.index], onward = cram(x)  # X_e: (B, C_a, H, W), X_s: (B, C, H, W)
        if not isinstance(cram, CRAM):
            onward = onward.clone()  # Conv_layer keeps this very tensor for its gradient, and a backbone may change it
        return from_map(onward, output, stage)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside the block BatchNorm computes as ever, but leaves its running statistics
    alone.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # track_running_stats=False would do, but then other tensors are kept, which checkpoint refuses
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class Widths(nn.Module):
    """Keeps the backbone's place while CRASMRA builds its modules for these channels."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)


class Attached(CRASMRA):
    """What ``attach`` returns: ``CRASMRA`` around a module, its ``backbone``, whose
    state dict has the keys it had.

    ``stages`` says where the CRAMs sit. While they do, the backbone called by itself
    hands suppressed maps on too. Copies, pickles, state dicts, ``torch.compile``, DDP and
    activation checkpointing inside the backbone work as for any module.
    """

    def __init__(
        self,
        module: nn.Module,
        stages: Sequence[Stage],
        num_classes: int,
        *,
        image_size: tuple[int, int],
        unused: Sequence[str],
        **options: object,
    ) -> None:
        super().__init__(Widths([stage.channels for stage in stages]), num_classes, **options)
        first = next(module.parameters(), None)
        if first is not None:
            self.to(first.device, first.dtype)
        self.train(module.training)
        self.backbone = module
        self.stages, self.image_size, self.unused = tuple(stages), image_size, tuple(unused)
        for name in self.unused:
            module.get_parameter(name).requires_grad_(False)
        self.handles = [
            module.get_submodule(stage.name).register_forward_hook(Tap(self, index))
            for index, stage in enumerate(self.stages)
        ]
        self.attached = True

    def enhanced_maps(self, images: Tensor) -> list[Tensor]:
        """The maps X_e of the stages: a list of (B, C_a, H_l, W_l).

        Raises ValueError for images of another size than the one attached for when a
        stage returns tokens, RuntimeError when a stage does not run.
        """
        if not self.attached:
            raise RuntimeError("this network was detached from its backbone: attach the backbone anew")
        size = tuple(images.shape[-2:])
        if size != self.image_size and any(stage.layout == "tokens" for stage in self.stages):
            raise ValueError(
                f"images must have the {self.image_size} pixels for which the grid of tokens is known, got {size}: "
                "attach with image_size for another size"
            )
        before = getattr(RUNNING, "value", None)
        RUNNING.value = running = Pass(self, torch.is_grad_enabled(), {})
        try:
            self.backbone(images)
        finally:
            RUNNING.value = before
        missing = [stage.name for index, stage in enumerate(self.stages) if index not in running.maps]
        if missing:
            raise RuntimeError(
                f"{', '.join(missing)} did not run in this pass (timm's ResNet goes around its layers when gradient "
                "checkpointing is on): name modules that always run, such as the last block of a stage"
            )
        return [running.maps[index] for index in range(len(self.stages))]


def attach(
    module: nn.Module,
    stages: Sequence[str] = ("layer2", "layer3", "layer4"),
    num_classes: int = 200,
    *,
    image_size: int | tuple[int, int] | None = None,
    layout: str | None = None,
    prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
    **options: object,
) -> Attached:
    """Put CRAM after the named stages of a network, classifiers on each and on all, and
    SMRAM: a network with the interface of ``CRASMRA``, on the device, of the dtype and in
    the mode of ``module``, which becomes its ``backbone``.

    ``stages`` are names of submodules, in the order in which they run; each runs once in
    a pass and returns one map. ``options`` are those of ``CRASMRA``: cram, smram,
    out_channels, reduction, omega, delta, neck, ...

    Layout, channels and grid are found by one pass in evaluation mode over a black
    image of ``image_size`` pixels, an int or (H, W), by default what the module says of
    itself or else 224. Where they cannot be told, state them: ``layout`` "nchw", "nhwc"
    or "tokens", and for tokens ``prefix_tokens`` and the ``grid`` (h, w).

    Parameters on which no stage depends, such as those of the module's classifier, have
    ``requires_grad=False`` until ``detach``: DDP stops at parameters without a gradient.

    Raises ValueError for a name that is no such stage, listing those that are, and for
    options out of range.
    """
    if isinstance(stages, str) or not stages or len(set(stages)) < len(stages):
        raise ValueError(f"stages must be one or more different names, got {stages!r}")
    for name in ("backbone", "weights", "final_norm"):
        if name in options:
            raise ValueError(f"{name} is for CRASMRA's own backbones: the module that is given has its weights")
    if any(isinstance(hook, Tap) for part in module.modules() for hook in part._forward_hooks.values()):
        raise ValueError(f"this {type(module).__name__} has CRAM attached already: detach it first")
    size = as_size(module, image_size)
    outputs, tensors = dry_run(module, size, stages)
    check_stages(module, stages, outputs)
    found = [find_stage(module, name, outputs, size, layout, prefix_tokens, grid) for name in stages]
    unused = without_gradient(module, list(tensors.values()))
    return Attached(module, found, num_classes, image_size=size, unused=unused, **options)


def detach(network: Attached) -> nn.Module:
    """Take CRAM off and return the backbone: the module that ``attach`` was given, with
    the weights that it has by now. Raises ValueError for any other network.
    """
    if not isinstance(network, Attached):
        raise ValueError(
            f"detach takes what attach returned, got {type(network).__name__} "
            "(DDP has it in .module, torch.compile in ._orig_mod)"
        )
    for handle in network.handles:
        handle.remove()
    network.handles.clear()
    network.attached = False
    for name in network.unused:
        network.backbone.get_parameter(name).requires_grad_(True)
    return network.backbone
