"""The stages to name in ``attach`` for common networks of torchvision and timm; each row is tested."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

SOURCES = ("torchvision", "timm", "lite")


class Architecture(NamedTuple):
    """One network: who builds it, its last three stages, what they return, and others
    with the same stages.

    ``source`` is "torchvision", "timm" or "lite", the latter two with the extra of that
    name. ``sized`` is the builder's argument for the size of the images, where one size
    is built in.
    """

    name: str
    source: str
    stages: tuple[str, str, str]
    layout: str
    channels: tuple[int, int, int]
    prefix_tokens: int = 0
    sized: str | None = None
    siblings: tuple[str, ...] = ()

    def build(self, size: int | None = None, name: str | None = None) -> nn.Module:
        """The network, or the sibling called ``name``, with random weights, for images
        of ``size`` pixels, by default its own. Raises ImportError without the extra.
        """
        options = {self.sized: size} if self.sized and size else {}
        if self.source == "torchvision":
            import torchvision

            return torchvision.models.get_model(name or self.name, weights=None, **options)
        if self.source == "timm":
            import timm

            return timm.create_model(name or self.name, **options)
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name(name or self.name)


RESNET = ("layer2", "layer3", "layer4")
# The last stage is what the network's own classifier pools: with its last convolution or normalisation, where these
# come before the pooling. The activation that follows them is not part of it.
DENSENET = ("features.denseblock2", "features.denseblock3", "features.norm5")
EFFICIENTNET = ("features.3", "features.5", "features.8")
EVERY_SECOND = ("features.3", "features.5", "features.7")
# A plain ViT has one grid from first to last, so its stages are thirds of its depth by convention.
VIT = ("blocks.5", "blocks.8", "norm")
ARCHITECTURES = (
    Architecture(
        "resnet18", "torchvision", RESNET, "nchw", (128, 256, 512), siblings=("resnet50", "resnext50_32x4d")
    ),
    Architecture("resnet10t", "timm", RESNET, "nchw", (128, 256, 512), siblings=("resnet50", "seresnet50")),
    Architecture("densenet121", "torchvision", DENSENET, "nchw", (512, 1024, 1024), siblings=("densenet161",)),
    Architecture("densenet121", "timm", DENSENET, "nchw", (512, 1024, 1024)),
    Architecture("convnext_tiny", "torchvision", EVERY_SECOND, "nchw", (192, 384, 768), siblings=("convnext_base",)),
    Architecture(
        "convnext_atto",
        "timm",
        ("stages.1", "stages.2", "stages.3"),
        "nchw",
        (80, 160, 320),
        siblings=("convnext_tiny", "convnextv2_nano"),
    ),
    Architecture(
        "efficientnet_b0",
        "torchvision",
        EFFICIENTNET,
        "nchw",
        (40, 112, 1280),
        siblings=("efficientnet_b4",),
    ),
    Architecture(
        "efficientnet_b0",
        "timm",
        ("blocks.2", "blocks.4", "bn2"),
        "nchw",
        (40, 112, 1280),
        siblings=("efficientnet_b4", "mobilenetv2_100"),
    ),
    Architecture(
        "efficientnet-lite0", "lite", ("_blocks.4", "_blocks.10", "_bn1"), "nchw", (40, 112, 1280)
    ),
    Architecture("mobilenet_v2", "torchvision", ("features.6", "features.13", "features.18"), "nchw", (32, 96, 1280)),
    Architecture(
        "mobilenet_v3_small", "torchvision", ("features.3", "features.8", "features.12"), "nchw", (24, 48, 576)
    ),
    Architecture("mobilenetv3_small_100", "timm", ("blocks.1", "blocks.3", "blocks.5"), "nchw", (24, 48, 576)),
    Architecture(
        "regnet_y_400mf",
        "torchvision",
        ("trunk_output.block2", "trunk_output.block3", "trunk_output.block4"),
        "nchw",
        (104, 208, 440),
        siblings=("regnet_x_800mf",),
    ),
    Architecture("regnety_002", "timm", ("s2", "s3", "s4"), "nchw", (56, 152, 368), siblings=("regnetx_004",)),
    Architecture(
        "swin_t",
        "torchvision",
        ("features.3", "features.5", "norm"),
        "nhwc",
        (192, 384, 768),
        siblings=("swin_s", "swin_v2_t"),
    ),
    Architecture(
        "swin_tiny_patch4_window7_224",
        "timm",
        ("layers.1", "layers.2", "norm"),
        "nhwc",
        (192, 384, 768),
        sized="img_size",
        siblings=("swinv2_tiny_window8_256",),
    ),
    Architecture(
        "vit_b_16",
        "torchvision",
        ("encoder.layers.encoder_layer_5", "encoder.layers.encoder_layer_8", "encoder.ln"),
        "tokens",
        (768, 768, 768),
        1,
        "image_size",
        ("vit_b_32",),
    ),
    Architecture(
        "vit_tiny_patch16_224",
        "timm",
        VIT,
        "tokens",
        (192, 192, 192),
        1,
        "img_size",
        ("vit_base_patch16_224", "deit_small_patch16_224", "deit3_small_patch16_224"),
    ),
    Architecture("vit_pwee_patch16_reg1_gap_256", "timm", VIT, "tokens", (256, 256, 256), 1, "img_size"),
    Architecture("vit_medium_patch16_gap_240", "timm", VIT, "tokens", (512, 512, 512), 0, "img_size"),
    Architecture(
        "vit_small_patch14_reg4_dinov2",
        "timm",
        VIT,
        "tokens",
        (384, 384, 384),
        5,
        "img_size",
        ("vit_base_patch14_reg4_dinov2",),
    ),
)


def table() -> str:
    """The rows as a Markdown table."""
    lines = ["| network | from | also | stages | layout | channels | tokens before |", "|---|---|---|---|---|---|---|"]
    for row in ARCHITECTURES:
        names, also = ", ".join(f"`{stage}`" for stage in row.stages), ", ".join(row.siblings)
        channels = ", ".join(map(str, row.channels))
        before = str(row.prefix_tokens) if row.layout == "tokens" else ""
        lines.append(f"| {row.name} | {row.source} | {also} | {names} | {row.layout} | {channels} | {before} |")
    return "\n".join(lines)
