"""From uint8 pixels to what a network takes: augmentation on each image, normalisation
on the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

# Mean and standard deviation of red, green and blue, for pixels in [0, 1].
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "lite": ((127 / 255,) * 3, (128 / 255,) * 3),
}


def normalise(images: Tensor, statistics: str = "imagenet") -> Tensor:
    """uint8 images (B, 3, H, W), 0 to 255, to float32 with the given statistics, on the
    device they lie on.

    ``statistics`` is "imagenet", "half" (0.5 for mean and deviation, as FBSD does) or
    "lite" ((x - 127) / 128, what EfficientNet-Lite was trained with). Raises ValueError
    otherwise, and for images that are not uint8: normalising twice would go unnoticed.
    """
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, got {images.dtype}")
    mean, deviation = (
        torch.tensor(values, device=images.device).view(3, 1, 1)
        for values in STATISTICS[statistics]
    )
    return (images.float() / 255 - mean) / deviation


def flip_and_shift(size: int) -> v2.Transform:
    """Augmentation for images that have their final size already: horizontal flip, and
    a shift by up to a twelfth.
    """
    return v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 12, padding_mode="reflect")]
    )


def resize_and_crop(size: int, train: bool, crop: str = "random") -> v2.Transform:
    """The paper's geometry: resize to 550/448 of ``size`` in both directions, crop, in training flip.

    ``crop="random"`` crops at random in training and at the centre in evaluation; ``crop="centre"`` crops at the
    centre in both, as the text literally says. Raises ValueError for any other name.
    """
    if crop not in ("random", "centre"):
        raise ValueError(f"crop must be 'random' or 'centre', got {crop!r}")
    large = round(size * 550 / 448)
    cut = v2.RandomCrop(size) if train and crop == "random" else v2.CenterCrop(size)
    steps = [v2.Resize((large, large), antialias=True), cut]
    return v2.Compose([*steps, v2.RandomHorizontalFlip()] if train else steps)
