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
    # In place: on a CPU each fresh block of this size would cost more than the arithmetic.
    return images.float().div_(255).sub_(mean).div_(deviation)


def flip_and_shift(size: int) -> v2.Transform:
    """Augmentation for images that have their final size already: horizontal flip, and
    a shift by up to a twelfth.
    """
    return v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 12, padding_mode="reflect")]
    )


def enlarged(size: int) -> int:
    """The side to which photographs are resized before a square of ``size`` is cropped: 550/448 of it, in pixels."""
    return round(size * 550 / 448)


def resize(size: int) -> v2.Transform:
    """The first part of ``resize_and_crop``, in which nothing is random: its result can be kept."""
    return v2.Resize((enlarged(size), enlarged(size)), antialias=True)


def crop_and_flip(size: int, train: bool, crop: str = "random") -> v2.Transform:
    """The second part of ``resize_and_crop``, for images that are resized already."""
    if crop not in ("random", "centre"):
        raise ValueError(f"crop must be 'random' or 'centre', got {crop!r}")
    cut = v2.RandomCrop(size) if train and crop == "random" else v2.CenterCrop(size)
    return v2.Compose([cut, v2.RandomHorizontalFlip()] if train else [cut])


def resize_and_crop(size: int, train: bool, crop: str = "random") -> v2.Transform:
    """The paper's geometry: resize to 550/448 of ``size`` in both directions, crop, in training flip.

    ``crop="random"`` crops at random in training and at the centre in evaluation; ``crop="centre"`` crops at the
    centre in both, as the text literally says. Raises ValueError for any other name.
    """
    return v2.Compose([resize(size), *crop_and_flip(size, train, crop).transforms])
