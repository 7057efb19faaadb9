"""A trained network as one file for other programs, ONNX or a program of torch.export; the drawing of birds as ONNX.

Every file is compared with Python before it is put in its place.
"""

from __future__ import annotations

import io
import warnings
from copy import deepcopy
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cra_smra.data.birds import ATTRIBUTES, PARTS, Birds, check_options, noise, render, species
from cra_smra.data.drawing import NOISE
from cra_smra.data.transforms import normalise
from cra_smra.graphs import check_place, compare, median_time, needs_packages, session, to_onnx, to_program
from cra_smra.model import fuse
from cra_smra.predict import Classifier
from cra_smra.runs import write_whole
from cra_smra.saved import preprocessing

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4  # the largest difference from Python of any output, in probability
RANDOM, DRAWN = 32, 100  # images that are compared: of random pixels, and birds where the network knows them


class Report(NamedTuple):
    """What was written: the file, its size in bytes, how many images were compared, the largest difference of any
    output, and the median time for one image in ms, of the file and of Python.
    """

    path: Path
    size: int
    images: int
    difference: float
    latency: float
    latency_python: float


class Exported(nn.Module):
    """From uint8 images (B, 3, S, S) to probabilities (B, K), those of each classifier (B, stages + 1, K), the joint
    one last, and with ``maps`` SMRAM's attention maps (B, stages, h, w).

    The normalisation is inside; without ``maps`` SMRAM is gone.
    """

    def __init__(self, classifier: Classifier, maps: bool = False) -> None:
        super().__init__()
        self.network = deepcopy(classifier.network).cpu()
        self.normalisation, self.maps = classifier.recipe.normalisation, maps
        if maps and getattr(self.network, "smram", None) is None:
            raise ValueError("this network has no SMRAM, so it has no maps: leave maps out")
        if not maps:
            self.network.smram = None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        enhanced: list[Tensor] = []  # (B, C_a, H_l, W_l) of each stage
        hooks = [
            module.register_forward_hook(lambda *call: enhanced.append(call[-1][0]))
            for module in (self.network.cram if self.maps else ())
        ]
        try:
            output = self.network(normalise(images, self.normalisation))
        finally:
            for hook in hooks:
                hook.remove()
        logits = torch.cat([output.stage_logits, output.overall_logits.unsqueeze(1)], dim=1)  # (B, stages + 1, K)
        found = (fuse(output.stage_logits, output.overall_logits), logits.softmax(dim=2))
        if not self.maps:
            return found
        maps = self.network.smram.attention(enhanced)  # (B, stages, h * w)
        return (*found, maps.unflatten(2, [isqrt(maps.shape[2])] * 2))  # the input is square


OUTPUTS = ("probabilities", "stage_probabilities", "maps")  # of Exported, in this order


def export(classifier: Classifier, path: str | Path, *, format: str = "onnx", maps: bool = False) -> Report:
    """Write a classifier as one file, compared with Python and measured.

    ``format`` "onnx" needs the extra "export"; "torch" writes a program of torch.export, which torch.export.load reads
    (it unpickles: load only what you trust). Input is ``images``, uint8 (B, 3, S, S) with any B, already resized and
    cropped; outputs are those of ``Exported``. The metadata hold class names, image size and preprocessing: in ONNX
    as properties of the model, in a .pt2 as the extra file "classifier.json".

    The file is compared with Python on random pixels and, where the network knows birds, on 100 of the test images.
    Raises RuntimeError when any output differs by more than 1e-4, and then writes nothing; ValueError for an unknown
    format, a missing package, and for maps of a network without SMRAM.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    path = check_place(path)
    if format == "onnx":
        needs_packages()
    network = Exported(classifier, maps).eval()
    size = classifier.recipe.image_size
    about = {"classes": classifier.classes, "image_size": size, "preprocessing": preprocessing(classifier.recipe)}
    images = sample(classifier)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of the exporters about their own insides
        if format == "onnx":
            content = to_onnx(network, (images[:2],), ["images"], OUTPUTS[: 2 + maps], about, dynamic=True)
            call = session(content, ["images"])
        else:
            content = to_program(network, (images[:2],), "images", about)
            call = torch.export.load(io.BytesIO(content)).module()
        difference = compare(call, network, [(part,) for part in images.split([1, 7, len(images) - 8])])
        one = (images[-1:],)
        latency, latency_python = median_time(call, one), median_time(network, one)
    if not difference <= TOLERANCE:  # not a number is no agreement
        raise RuntimeError(
            f"the exported network differs from Python by {difference:.1e} on {len(images)} images, more than "
            f"{TOLERANCE:.0e}: nothing was written"
        )
    write_whole(path, lambda file: file.write(content))
    return Report(path, len(content), len(images), difference, latency, latency_python)


def sample(classifier: Classifier) -> Tensor:
    """The images on which a file is compared, (N, 3, S, S) uint8."""
    recipe, classes = classifier.recipe, len(classifier.classes)
    size = recipe.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (RANDOM, 3, size, size), dtype=torch.uint8, generator=generator)
    if recipe.dataset != "birds":
        return images
    drawn = Birds("test", num_classes=classes, per_class=-(-DRAWN // classes), size=size, difficulty=recipe.difficulty)
    return torch.cat([images, drawn.images[:: len(drawn) // DRAWN][:DRAWN]])


class Drawing(nn.Module):
    """A species and the random numbers of an image to the image; ``parts`` adds the visible share of each part."""

    def __init__(self, size: int, parts: bool) -> None:
        super().__init__()
        self.size, self.parts = size, parts

    def forward(self, code: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        scene = render(code, noise, self.size, parts=self.parts)
        found = (scene.image, scene.parts) if self.parts else (scene.image,)
        return tuple((values * 255).round().to(torch.uint8) for values in found)


def export_birds_renderer(path: str | Path, size: int = 96, *, parts: bool = False) -> Report:
    """Write the drawing of birds as ONNX, for programs that have no Python; it needs the extra "export".

    Inputs are ``code`` (1, A) int64, one value for each of ``birds.ATTRIBUTES``, and ``noise`` (1, NOISE_SIZE) float32
    in [0, 1), pose, light and surroundings in the order of ``drawing.NOISE``; 0.5 everywhere is at ease. Output is
    ``image`` (1, 3, size, size) uint8 and with ``parts`` also ``parts`` (1, P, size, size) uint8, the share of each
    pixel that shows a part, 255 for all of it. The metadata hold the names of the attributes, the noise and the parts.

    Compared with Python on 100 birds: raises RuntimeError, and writes nothing, when a value differs by more than one
    grey level. ValueError for a size below 32.
    """
    check_options(2, size, "medium")
    path = check_place(path)
    needs_packages()
    drawing = Drawing(size, parts).eval()
    about = {"size": size, "attributes": ATTRIBUTES, "noise": NOISE, "parts": PARTS}
    labels = torch.arange(DRAWN) % 20
    birds = [(code[None], row[None]) for code, row in
             zip(species(20)[labels], noise("test", labels, torch.arange(DRAWN)), strict=True)]
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of the exporters about their own insides
        content = to_onnx(drawing, birds[0], ["code", "noise"], ["image", "parts"][: 1 + parts], about, dynamic=False,
                          optimize=False)
        call = session(content, ["code", "noise"])
        difference = compare(call, drawing, birds)
        latency, latency_python = median_time(call, birds[0]), median_time(drawing, birds[0])
    if difference > 1:
        raise RuntimeError(f"the exported drawing differs by {difference:.0f} grey levels: nothing was written")
    write_whole(path, lambda file: file.write(content))
    return Report(path, len(content), len(birds), difference, latency, latency_python)
