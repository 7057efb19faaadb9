"""Using a trained network: images in, class names and probabilities out."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cra_smra.data.folder import IMAGES, UNREAD
from cra_smra.data.photographs import decode
from cra_smra.data.transforms import normalise
from cra_smra.model import CRASMRA, PlainNetwork
from cra_smra.recipes import Recipe
from cra_smra.saved import CONFIG, WEIGHTS, geometry, read_saved, read_trained, write_saved

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name


class Prediction(NamedTuple):
    """What is predicted for one image.

    ``image`` is its file, or None for a tensor. ``classes`` are names, the most probable first, ``probabilities`` in
    [0, 1] belong to them. ``maps`` (stages, h, w) are SMRAM's attention maps, each of which sums to 1, or None.
    """

    image: str | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    maps: Tensor | None


class Classifier:
    """A trained network with its class names and its preprocessing.

    ``network`` is one that ``recipe`` builds, for ``classes``. ``device`` is by default a GPU where there is one.
    Most users call ``load``.
    """

    def __init__(self, network: CRASMRA | PlainNetwork, recipe: Recipe, classes: Sequence[str],
                 device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.eval().to(device=self.device, memory_format=torch.channels_last)
        self.recipe, self.classes = recipe, list(classes)
        self.geometry = geometry(recipe)

    @classmethod
    def load(cls, source: str | Path, device: str | torch.device | None = None) -> Classifier:
        """A classifier from a run directory (the chosen epoch), from a folder that ``save`` wrote or a file in it, or
        from the Hugging Face hub, by "owner/name".

        No code that a file may hold is run. Raises ValueError when the source is damaged or no classifier,
        RuntimeError when the hub cannot be reached.
        """
        path = Path(source)
        if (path / "run.json").is_file():
            return cls(*read_trained(path), device)
        if path.is_dir():
            return cls(*read_saved(path), device)
        if path.is_file() and path.name in (CONFIG, WEIGHTS):
            return cls(*read_saved(path.parent), device)
        if path.exists():
            raise ValueError(f"{path} is no classifier: give a run directory or a folder with {CONFIG} and {WEIGHTS}")
        if HUB_ID.fullmatch(str(source)) and not path.parent.exists():  # runs/brids is a slip, not somebody's model
            return hub_class().from_pretrained(str(source), device=device)
        raise ValueError(
            f"{source} is not there: give a run directory, a folder with {CONFIG} and {WEIGHTS}, or owner/name of the "
            "hub"
        )

    def save(self, folder: str | Path) -> Path:
        """Write the classifier into a new folder, in full or not at all: model.safetensors with the weights,
        config.json with recipe, class names and preprocessing.

        Returns the folder. Raises ValueError when it exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise ValueError(f"{folder} exists: choose another name")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent) as scratch:
            partial = Path(scratch) / folder.name  # a folder of its own: the scratch one is readable by its owner alone
            partial.mkdir()
            write_saved(partial, self.network, self.recipe, self.classes)
            partial.rename(folder)
        return folder

    def push_to_hub(self, name: str, **options: object) -> str:
        """Upload the classifier to the Hugging Face hub as ``name``, "owner/name"; returns the address of the commit.

        ``options`` go to PyTorchModelHubMixin.push_to_hub of huggingface_hub: private, token, commit_message, ...
        """
        published = hub_class()(self.network, self.recipe, self.classes, self.device)
        return published.push_to_hub(name, **options)

    def predict(self, images: str | Path | Tensor | Sequence[str | Path | Tensor], *, top: int = 5,
                batch_size: int = 32, maps: bool = False, progress: bool = True) -> list[Prediction]:
        """The ``top`` most probable classes of each image, at most all there are.

        ``images`` is an image file, a folder, of which all images at any depth are taken in the order of their names,
        a uint8 tensor (3, H, W) or (B, 3, H, W), or a sequence of these. Files are turned as their camera noted, and
        all are resized as the test images were in training (``saved.geometry``). ``maps`` adds SMRAM's attention maps.

        Raises ValueError for an image that is missing, broken or of a kind that is not read: none is skipped.
        """
        from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if maps and getattr(self.network, "smram", None) is None:
            raise ValueError("this network has no SMRAM, so it has no maps: leave maps out")
        items = list(collect(images))
        if not items:
            raise ValueError(f"there is no image to predict: give at least one ({' '.join(IMAGES)})")
        found: list[Prediction] = []
        hidden = {} if progress else {"disable": True}  # left out, TQDM_DISABLE decides
        with tqdm(total=len(items), desc="predict", unit="image", leave=False, **hidden) as bar:
            for start in range(0, len(items), batch_size):
                part = items[start : start + batch_size]
                found += self._predict(part, top, maps)
                bar.update(len(part))
        return found

    def prepare(self, images: Sequence[str | Path | Tensor]) -> Tensor:
        """Image files or uint8 tensors (3, H, W), in the network's geometry: (B, 3, S, S) uint8."""
        pixels = (image if isinstance(image, Tensor) else decode(image, upright=True) for image in images)
        return torch.stack([self.geometry(image) for image in pixels])

    def _predict(self, images: Sequence[Path | Tensor], top: int, maps: bool) -> Iterator[Prediction]:
        batch = normalise(self.prepare(images).to(self.device), self.recipe.normalisation)
        probabilities, order = self.network.predict(batch).cpu().sort(dim=1, descending=True, stable=True)  # (B, K)
        attention = [None] * len(images)
        if maps:
            flat = self.network.inspect(batch).attention.cpu()  # (B, stages, h * w)
            attention = flat.unflatten(2, [isqrt(flat.shape[2])] * 2)  # the input is square
        for image, chances, labels, own in zip(images, probabilities, order, attention, strict=True):
            yield Prediction(
                None if isinstance(image, Tensor) else str(image),
                tuple(self.classes[label] for label in labels[:top]),
                tuple(chances[:top].tolist()),
                own,
            )


def collect(images: str | Path | Tensor | Sequence[str | Path | Tensor]) -> Iterator[Path | Tensor]:
    """The single images, files or uint8 tensors (3, H, W), that are meant by what ``Classifier.predict`` is given."""
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != 3:
            raise ValueError(
                "a tensor of images must be uint8 of shape (3, H, W) or (B, 3, H, W), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        yield from images if images.ndim == 4 else [images]
    elif isinstance(images, (str, Path)):
        yield from images_below(Path(images)) if Path(images).is_dir() else [Path(images)]
    elif isinstance(images, Sequence):
        for image in images:
            yield from collect(image)
    else:
        raise ValueError(f"images must be files, folders or uint8 tensors, got {type(images).__name__}")


def images_below(folder: Path) -> Iterator[Path]:
    """The images in a folder and the folders in it, sorted by name; hidden ones and files of another kind are left
    alone. Raises ValueError for an image of a kind that is not read and for a folder without any image.
    """

    def stop(error: OSError) -> None:
        raise ValueError(f"{error.filename} may not be read: {error.strerror}") from error

    number = 0
    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if name.startswith("."):
                continue
            if name.lower().endswith(UNREAD):
                raise ValueError(
                    f"{Path(place, name)} cannot be read: convert it to one of {' '.join(IMAGES)}, or remove it"
                )
            if name.lower().endswith(IMAGES):
                number += 1
                yield Path(place, name)
    if number == 0:
        raise ValueError(f"{folder} holds no image ({' '.join(IMAGES)})")


@lru_cache(maxsize=1)
def hub_class() -> type[Classifier]:
    """Classifier with huggingface_hub's ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    A function, since huggingface_hub is an extra. Raises ValueError where it is not installed.
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin, snapshot_download
    except ImportError as error:
        raise ValueError("the hub needs one more package: install it with pip install 'cra_smra[hub]'") from error

    class HubClassifier(Classifier, PyTorchModelHubMixin, library_name="cra_smra",
                        pipeline_tag="image-classification"):
        def _save_pretrained(self, save_directory: Path) -> None:
            write_saved(Path(save_directory), self.network, self.recipe, self.classes)

        @classmethod
        def from_pretrained(cls, name: str | Path, *, device: str | torch.device | None = None, **options: object):
            # The mixin's own would take weights that fit in part only, and fall back to a pickle.
            if not Path(name).is_dir():
                try:
                    name = snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS], **options)
                except Exception as error:  # the hub's client raises whatever the network leads to
                    reason = " ".join(str(error).split())
                    raise RuntimeError(
                        f"{name} is not a folder here and could not be fetched from the hub: {reason}"
                    ) from error
            return cls(*read_saved(Path(name)), device)

    return HubClassifier
