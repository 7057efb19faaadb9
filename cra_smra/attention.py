"""Where a network looks: its maps for stages 3, 4 and 5, how concentrated they are, and how much they share."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from cra_smra.model import CRASMRA, PlainNetwork, fuse

MAPS = {
    "grad_cam": "Grad-CAM, own classifier",
    "grad_cam_joint": "Grad-CAM, joint classifier",
    "channel_mean": "channel mean",
    "smram": "SMRAM",
}


def stage_modules(network: CRASMRA | PlainNetwork) -> list[nn.Module]:
    """The modules that put out the maps of stages 3, 4 and 5: Conv_layer, whose output is X_e, of ``CRASMRA``, the
    last of each stage of the backbone of ``PlainNetwork``.
    """
    if isinstance(network, PlainNetwork):
        return [network.backbone.get_submodule(names[-1]) for names in network.backbone.stage_modules[1:]]
    return [module.conv_layer for module in network.cram]


def grad_cam(
    network: CRASMRA | PlainNetwork, images: Tensor, classes: Tensor | None = None, *, head: str = "own"
) -> list[Tensor]:
    """Grad-CAM of normalised images (B, 3, H, W): one map (B, h, w) for each of stages 3, 4 and 5, not negative.

    A map is ReLU(sum_k w_k A_k), where A is the stage's map (``stage_modules``) and w_k the mean over its pixels of
    the gradient of a class's logit with respect to A_k. ``head="own"`` takes the logit of the stage's own classifier,
    ``head="joint"`` that of the joint one; ``PlainNetwork`` has a single classifier, which serves as both.
    ``classes`` (B,) are the classes asked about, by default those that the network predicts.

    Raises RuntimeError in training mode, where the images of a batch change each other's maps, ValueError for another
    head or for classes that do not fit.
    """
    from torchcam.methods import GradCAM  # late: only the maps need it

    if head not in ("own", "joint"):
        raise ValueError(f"head must be 'own' or 'joint', got {head!r}")
    if network.training:
        raise RuntimeError("Grad-CAM needs the network in evaluation mode: call .eval() first")
    with torch.enable_grad(), GradCAM(network, stage_modules(network)) as extractor:
        output = network(images.detach().requires_grad_())  # so that frozen weights leave no map without a gradient
        if head == "joint" or isinstance(network, PlainNetwork):
            scores = output.overall_logits  # (B, K)
        else:  # X_e of a stage reaches no other stage's classifier, so the sum has each map's own gradient
            scores = output.stage_logits.sum(dim=1)
        if classes is None:
            classes = fuse(output.stage_logits, output.overall_logits).argmax(dim=1)
        elif classes.shape != scores.shape[:1] or not (0 <= classes.min() and classes.max() < scores.shape[1]):
            raise ValueError(
                f"classes must be {len(scores)} numbers from 0 to {scores.shape[1] - 1}, got {classes.tolist()}"
            )
        return extractor(classes.tolist(), scores, normalized=False)


@torch.no_grad()
def channel_mean(network: CRASMRA | PlainNetwork, images: Tensor) -> list[Tensor]:
    """The mean over the channels of each stage's map (``stage_modules``), as the paper's text describes its pictures;
    normalised images (B, 3, H, W) -> one (B, h, w) for each of stages 3, 4 and 5.
    """
    if isinstance(network, PlainNetwork):
        x, maps = network.backbone.stem(images), []
        for stage in (1, 2, 3):
            x = network.backbone.run(stage, x)
            maps.append(x)
    else:
        maps = network.enhanced_maps(images)
    return [x.mean(dim=1) for x in maps]


@torch.no_grad()
def smram_maps(network: CRASMRA, images: Tensor) -> list[Tensor]:
    """SMRAM's own maps, equation (7): normalised images (B, 3, H, W) -> one (B, h, w) for each of stages 3, 4 and 5,
    all on the pixels of the last stage; each sums to 1.

    Raises ValueError for a network without SMRAM.
    """
    if getattr(network, "smram", None) is None:
        raise ValueError("the network has no SMRAM, so it has no maps of it: use grad_cam or channel_mean")
    maps = network.enhanced_maps(images)
    attention = network.smram.attention(maps).unflatten(2, maps[-1].shape[-2:])  # (B, stages, h, w)
    return list(attention.unbind(dim=1))


def attention_maps(
    network: CRASMRA | PlainNetwork, images: Tensor, classes: Tensor | None = None
) -> dict[str, list[Tensor]]:
    """All the maps that the network has, by the names in ``MAPS``, each as one (B, h, w) for every stage.

    Every network has "grad_cam" and "channel_mean", CRASMRA also "grad_cam_joint", and "smram" if it was built with
    SMRAM. Arguments as in ``grad_cam``.
    """
    maps = {"grad_cam": grad_cam(network, images, classes)}
    if not isinstance(network, PlainNetwork):
        maps["grad_cam_joint"] = grad_cam(network, images, classes, head="joint")
    maps["channel_mean"] = channel_mean(network, images)
    if getattr(network, "smram", None) is not None:
        maps["smram"] = smram_maps(network, images)
    return maps


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
