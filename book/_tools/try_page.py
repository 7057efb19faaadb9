"""Make what the page "Try it" runs: the network of a run on the birds and the drawing of birds, both as ONNX, in
book/_static/try, with about.json, which says where they come from, and a still picture for readers without scripts.

    python book/_tools/try_page.py RUN

The weights of convolutions and linear layers are rounded to 8 bits a number, with a scale for each output channel, so
that the page stays small. The network that is compared and measured is the one with the rounded weights.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from cra_smra.data.birds import ATTRIBUTES, NOISE_SIZE, noise, render, species
from cra_smra.data.drawing import NOISE
from cra_smra.experiments import machine_free
from cra_smra.export import OUTPUTS, TOLERANCE, Exported, export_birds_renderer, sample
from cra_smra.graphs import compare, session, to_onnx
from cra_smra.plots_attention import attention_rows
from cra_smra.predict import Classifier
from cra_smra.runs import read_run, write_json

IR = 9  # of ONNX, the newest that the runtime beside the page reads
TRY = Path(__file__).resolve().parents[1] / "_static" / "try"


def rounded(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Round the weights of convolutions and linear layers in place; by name, the 8-bit numbers and their scales."""
    kept = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 1000:
            weight = module.weight.data  # (out, ...)
            scale = weight.flatten(start_dim=1).abs().amax(dim=1) / 127  # (out,)
            levels = (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8)
            module.weight.data = levels.float() * scale.view(-1, *[1] * (weight.dim() - 1))
            kept[f"{name}.weight"] = (levels, scale)
    return kept


def small(content: bytes, kept: dict[str, tuple[Tensor, Tensor]]) -> bytes:
    """The ONNX file with the rounded weights stored as 8-bit numbers, which are multiplied out when it is opened."""
    model = onnx.load_from_string(content)
    graph, found = model.graph, 0
    for tensor in list(graph.initializer):
        name = next((name for name in kept if tensor.name.endswith(name)), None)
        if name is None:
            continue
        levels, scale = (value.numpy() for value in kept[name])
        assert np.array_equal(numpy_helper.to_array(tensor), levels * scale.reshape(-1, *[1] * (levels.ndim - 1)))
        graph.initializer.remove(tensor)
        parts = {"levels": levels, "scale": scale, "zero": np.zeros(len(scale), np.int8)}
        graph.initializer.extend(numpy_helper.from_array(part, f"{tensor.name}.{key}") for key, part in parts.items())
        inputs = [f"{tensor.name}.{key}" for key in parts]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=0))
        found += 1
    floats = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    large = [tensor.name for tensor in floats if np.prod(tensor.dims) > 5000]
    if found != len(kept) or large:
        raise RuntimeError(f"only {found} of {len(kept)} rounded weights stand in the file; left as they are: {large}")
    model.ir_version = IR
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a finished run on the birds, with CRAM and SMRAM")
    run = Path(parser.parse_args().run)
    classifier, record = Classifier.load(run, "cpu"), machine_free(read_run(run))
    exported = Exported(classifier, maps=True).eval()
    kept = rounded(exported)
    TRY.mkdir(parents=True, exist_ok=True)
    images = sample(classifier)
    about = {"classes": classifier.classes}
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of the exporters about their own insides
        whole = to_onnx(exported, (images[:2],), ["images"], OUTPUTS, about, dynamic=True, optimize=False)
        content = small(whole, kept)
        difference = compare(session(content, ["images"]), exported, [(part,) for part in images.split(8)])
        if not difference <= TOLERANCE:
            raise RuntimeError(f"the exported network differs from Python by {difference:.1e}: nothing was written")
        birds, right = classifier.recipe.load("test"), []
        for part in torch.arange(len(birds)).split(100):
            found = exported(torch.stack([birds[i][0] for i in part.tolist()]))[0]  # (B, K)
            right.append((found.argmax(dim=1) == birds.targets[part]).float())
        label, number = torch.tensor([3]), torch.tensor([0])
        scene = render(species(20)[label], noise("test", label, number), classifier.recipe.image_size)
        picture = (scene.image[0] * 255).round().to(torch.uint8)
        maps = exported(picture[None])[2][0]  # (3, h, w)
    (TRY / "network.onnx").write_bytes(content)
    export_birds_renderer(TRY / "birds.onnx", classifier.recipe.image_size)
    drawing = onnx.load(TRY / "birds.onnx")
    drawing.ir_version = IR
    (TRY / "birds.onnx").write_bytes(drawing.SerializeToString())
    figure = attention_rows(picture, {"SMRAM": list(maps)})
    figure.savefig(TRY / "still.png", dpi=110)
    plt.close(figure)
    digest = {name: hashlib.sha256((TRY / name).read_bytes()).hexdigest() for name in ("network.onnx", "birds.onnx")}
    write_json(
        TRY / "about.json",
        {
            "classes": classifier.classes,
            "codes": species(len(classifier.classes), classifier.recipe.difficulty).tolist(),
            "attributes": {name: list(values) for name, (_, values) in ATTRIBUTES.items()},
            "noise": NOISE,
            "noise_size": NOISE_SIZE,
            "size": classifier.recipe.image_size,
            "difference_from_python": difference,
            "accuracy_with_rounded_weights": torch.cat(right).mean().item(),
            "sha256": digest,
            "trained": record,
        },
    )
    print(f"difference from Python {difference:.1e}; accuracy {torch.cat(right).mean():.3f}, ", end="")
    print(f"before rounding {record['result']['test']['accuracy']:.3f}")


if __name__ == "__main__":
    main()
