"""Every hyper-parameter of a run in one dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

from cra_smra.data import Split, load_dataset
from cra_smra.data.transforms import crop_and_flip, flip_and_shift, resize_and_crop
from cra_smra.model import CRASMRA, PlainNetwork

PAPER_DATASETS = ("cub", "aircraft", "cars", "dogs")
# Recipes of minutes: what differs from the paper's, and the learning rates of the plain network, found by a search of
# their own (cra_smra/results).
QUICK = {
    "birds": (
        {
            "backbone": "resnet10",
            "weights": None,
            "image_size": 96,
            "epochs": 8,
            "lr_backbone": 0.01,
            "lr_cram": 0.01,
            "lr_heads": 0.01,
            "workers": 0,
        },
        {"lr_backbone": 0.02, "lr_heads": 0.02},
    ),
    "groceries": (
        {
            "backbone": "efficientnet_lite0",
            "normalisation": "lite",
            "image_size": 224,
            "epochs": 6,
            "lr_backbone": 0.01,
            "lr_cram": 0.01,
            "lr_heads": 0.01,
            "workers": 2,
        },
        {"lr_backbone": 0.02, "lr_heads": 0.02},
    ),
}


def _choices(hint: object) -> list[object]:
    """The values that a type such as ``Literal["a", "b"] | None`` allows; empty for
    other types.
    """
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    parts = get_args(hint)
    if any(get_origin(part) is Literal for part in parts):
        return [value for part in parts for value in (_choices(part) or [None])]
    return []


@dataclass(frozen=True)
class Recipe:
    """One run. The defaults are the paper's setting; where it is silent, the ledger's
    first reading.

    Learning rates are per step of SGD, sizes in pixels. Fields marked "birds" have no
    effect on other sets.
    """

    dataset: str = "cub"
    """Name of the data set, as in load_dataset."""
    root: str | None = None
    """Folder of the data set; the birds need none."""
    protocol: Literal["clean", "paper"] = "clean"
    """clean: choose the epoch on held-out training images, read the test set once.
    paper: train on everything, report the last epoch.
    """
    num_classes: int = 20
    """Birds: number of species, 2 to 200."""
    train_per_class: int = 100
    """Birds: training images of each species."""
    test_per_class: int = 100
    """Birds: test images of each species."""
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    """Birds: the nearest species differ in 3, 2 or 1 parts."""
    image_size: int = 448
    """Side of the network's input."""
    crop: Literal["random", "centre"] = "random"
    """Photographs: where training images are cropped after resizing to 550/448 of
    image_size; test images are cropped at the centre.
    """
    normalisation: Literal["imagenet", "half", "lite"] = "imagenet"
    """Statistics of the input: ImageNet's, 0.5 as FBSD, or EfficientNet-Lite's."""

    method: Literal["cra-smra", "plain"] = "cra-smra"
    """cra-smra, or the plain backbone with one linear layer."""
    backbone: Literal[
        "resnet10", "resnet18", "resnet50", "resnet101", "densenet161", "efficientnet_lite0"
    ] = "resnet50"
    weights: str | None = "IMAGENET1K_V1"
    """Name of torchvision's weights, path of a state dict, or None for random weights.
    """
    cram: Literal["cram", "cbam"] | None = "cram"
    """The channel attention of the three stages."""
    smram: bool = True
    out_channels: int = 1024
    """Width C_a of the enhanced maps."""
    reduction: int = 16
    """r of equation (2)."""
    omega: float = 0.5
    """A suppressed channel is multiplied by 1 - omega."""
    omega_warmup: int = 0
    """Epochs over which omega grows from 0 to its value: ours, the paper has none. The
    epochs before that are not chosen.
    """
    delta: float = 0.9
    """Channels whose importance is above this share of the largest are suppressed."""
    neck: Literal["conv1x1", "fbsd"] = "conv1x1"
    """Conv_layer of equation (3)."""
    shared_phi: bool = False
    """One convolution phi for all stages of SMRAM."""
    smram_norm: Literal["batch", "map"] = "batch"
    """batch: BN, the paper's. map: ours, mean 0 and variance 1 over each map's own pixels,
    so that no scale can sharpen it.
    """
    pooling: Literal["max", "mean", "top5"] = "max"
    """Pooling before the classifiers."""
    head: Literal["mlp", "linear"] = "mlp"
    final_norm: bool = True
    """Keep DenseNet's last BatchNorm."""

    alpha: float = 2.0
    """Weight of the stage losses."""
    beta: float = 1.0
    """Weight of the joint loss."""
    gamma: float = 1.0
    """Weight of L_div."""

    epochs: int = 200
    batch_size: int = 20
    """Images per step and process."""
    lr_backbone: float = 2e-4
    """Learning rate of the backbone and SMRAM."""
    lr_cram: float = 6e-3
    """Learning rate of CRAM."""
    lr_heads: float = 6e-3
    """Learning rate of the classifiers."""
    momentum: float = 0.9
    weight_decay: float = 1e-5
    cosine: Literal["run", "swinging"] = "run"
    """run: to zero over the whole run. swinging: FBSD's period of 200 steps, after
    which the rate climbs again.
    """
    seed: int = 0
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Mixed precision; auto: bf16 on a GPU that has it, else none."""
    workers: int = 4
    """Processes that load images."""
    cache: str | None = None
    """Folder of the cache of decoded photographs; None decodes them anew in every
    epoch.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = _choices(hint)
            if choices and getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}, got {getattr(self, name)!r}"
                )
        for name, low in (
            ("epochs", 1),
            ("batch_size", 2),
            ("workers", 0),
            ("seed", 0),
            ("image_size", 64),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.omega_warmup < self.epochs:
            raise ValueError(
                f"omega_warmup must be from 0 to epochs - 1 = {self.epochs - 1}, got {self.omega_warmup}"
            )
        for name in (
            "lr_backbone",
            "lr_cram",
            "lr_heads",
            "momentum",
            "weight_decay",
            "alpha",
            "beta",
            "gamma",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be a finite number, at least 0, got {getattr(self, name)}"
                )

    @classmethod
    def paper(cls, dataset: str, **changes: object) -> Recipe:
        """The paper's setting for "cub", "aircraft", "cars" or "dogs"; ``changes``
        replace single fields.
        """
        if dataset not in PAPER_DATASETS:
            raise ValueError(
                f"the paper's data sets are {', '.join(PAPER_DATASETS)}, got {dataset!r}"
            )
        return cls(dataset=dataset, **changes)

    @classmethod
    def quick(cls, dataset: str = "birds", **changes: object) -> Recipe:
        """A run of minutes on two CPU cores; ``changes`` replace single fields.

        "birds" starts from random weights, "groceries" from EfficientNet-Lite0's, which
        the extra "lite" brings. Learning rates of ``method="plain"`` are its own.
        """
        if dataset not in QUICK:
            raise ValueError(f"quick recipes are for {' and '.join(QUICK)}, got {dataset!r}")
        common, plain_rate = QUICK[dataset]
        quick = cls(dataset=dataset, out_channels=256, batch_size=32, weight_decay=5e-4, **common)
        if changes.get("method") == "plain":  # one cross-entropy in place of a sum of weight 7
            quick = replace(quick, **plain_rate)
        return replace(quick, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Recipe:
        """The recipe stored in a run's run.json. Raises ValueError for a field that
        does not exist.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown recipe fields: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)

    def load(self, split: str) -> Split:
        """The split of the data set; training images are augmented."""
        if self.dataset != "birds":
            geometry = resize_and_crop if self.cache is None else crop_and_flip
            return load_dataset(
                self.dataset,
                self.root,
                split,
                self.protocol,
                transform=geometry(self.image_size, split == "train", self.crop),
                cache=self.cache,
                image_size=self.image_size,
            )
        birds = {
            "num_classes": self.num_classes,
            "size": self.image_size,
            "difficulty": self.difficulty,
        }
        birds["per_class"] = self.test_per_class if split == "test" else self.train_per_class
        transform = flip_and_shift(self.image_size) if split == "train" else None
        return load_dataset(
            self.dataset,
            self.root,
            split,
            self.protocol,
            transform=transform,
            cache=self.cache,
            **birds,
        )

    def build(self, num_classes: int) -> CRASMRA | PlainNetwork:
        """The network, with fresh classifiers for ``num_classes`` classes."""
        common = {"weights": self.weights, "final_norm": self.final_norm}
        if self.method == "plain":
            return PlainNetwork(self.backbone, num_classes, **common)
        own = (
            "cram",
            "smram",
            "out_channels",
            "reduction",
            "omega",
            "delta",
            "neck",
            "shared_phi",
            "smram_norm",
            "pooling",
            "head",
        )
        return CRASMRA(
            self.backbone, num_classes, **common, **{name: getattr(self, name) for name in own}
        )
