"""Networks and the drawing of birds as files for other programs: what they say is what Python says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import cra_smra
from conftest import refused, tiny
from cra_smra import Classifier
from cra_smra.cli import main
from cra_smra.data.birds import ATTRIBUTES, NOISE_SIZE, PARTS, Birds, noise, render
from cra_smra.data.transforms import normalise
from cra_smra.export import export, export_birds_renderer, sample


def opened(content: bytes | Path) -> onnxruntime.InferenceSession:
    content = content.read_bytes() if isinstance(content, Path) else content
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def birds() -> torch.Tensor:
    """100 test images of the trained run's species."""
    return Birds("test", num_classes=4, per_class=25, size=64, difficulty="easy").images


@pytest.fixture(scope="module")
def classifier(trained) -> Classifier:
    return Classifier.load(trained, "cpu")


@pytest.fixture(scope="module")
def written(classifier, tmp_path_factory):
    return export(classifier, tmp_path_factory.mktemp("onnx") / "network.onnx")


@pytest.fixture(scope="module")
def command(trained, tmp_path_factory) -> tuple[Path, list[str]]:
    """A run with the file that the command wrote, with maps, and the lines that it printed."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("command") / "run"))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text: lines.append(text))
        main(["export", str(run), "--maps"])
    return run / "network.onnx", lines


def reference(classifier: Classifier, images: torch.Tensor) -> np.ndarray:
    """(B, 4, K) from the logits, with ImageNet's statistics written out."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        output = classifier.network((images.float() / 255 - mean) / deviation)
    return softmax(torch.cat([output.stage_logits, output.overall_logits[:, None]], 1))


def test_onnx_says_what_python_says_on_a_hundred_birds(classifier, written, birds):
    file = opened(written.path)
    assert [(i.name, i.type, i.shape[1:]) for i in file.get_inputs()] == [("images", "tensor(uint8)", [3, 64, 64])]
    assert [(o.name, o.shape[1:]) for o in file.get_outputs()] == [
        ("probabilities", [4]), ("stage_probabilities", [4, 4])]
    expected = reference(classifier, birds)
    for part in (slice(0, 1), slice(1, 6), slice(6, 100)):  # any number of images
        found, stages = file.run(None, {"images": birds[part].numpy()})
        assert np.abs(stages - expected[part]).max() < 1e-4
        assert np.abs(found - expected[part].mean(1)).max() < 1e-4
    assert (expected.std(0).max(1) > 0.01).all()  # no classifier says the same of all birds
    predicted = [p.classes[0] for p in classifier.predict(birds, top=1, progress=False)]
    found = file.run(["probabilities"], {"images": birds.numpy()})[0]
    assert [classifier.classes[label] for label in found.argmax(1)] == predicted


def test_the_report_tells_what_was_measured(classifier, written, birds):
    assert written.size == written.path.stat().st_size and written.images == 132
    assert 0 <= written.difference < 1e-4 and written.latency > 0 and written.latency_python > 0
    images = sample(classifier)
    assert torch.equal(images[32:], birds)
    assert abs(images[:32].float().mean() - 127.5) < 1  # pixels of any value
    assert [path.name for path in written.path.parent.iterdir()] == ["network.onnx"]


def test_without_maps_smram_is_gone_and_with_maps_they_are_its_own(classifier, written, command, birds):
    plain, with_maps = onnx.load(written.path), onnx.load(command[0])
    assert not [t.name for t in plain.graph.initializer if "smram" in t.name]
    convolutions = [sum(node.op_type == "Conv" for node in model.graph.node) for model in (plain, with_maps)]
    assert convolutions[1] == convolutions[0] + 3  # phi of each stage; the backbone is there once
    assert written.size < command[0].stat().st_size
    file = opened(command[0])
    found, stages, maps = file.run(None, {"images": birds[:5].numpy()})
    network = classifier.network
    with torch.no_grad():
        expected = network.smram.attention(network.enhanced_maps(normalise(birds[:5])))
    assert maps.shape == (5, 3, 2, 2) and np.abs(maps.reshape(5, 3, 4) - expected.numpy()).max() < 1e-4
    assert np.abs(stages - reference(classifier, birds[:5])).max() < 1e-4


def test_the_file_knows_its_classes_and_nothing_of_this_machine(classifier, written, command):
    for path in (written.path, command[0]):
        about = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
        assert about["classes"] == classifier.classes and about["image_size"] == 64
        assert about["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
        content = path.read_bytes()
        for place in (Path(cra_smra.__file__).parent, Path(torch.__file__).parents[1], Path(sys.prefix), Path.home()):
            assert str(place).encode() not in content
        assert b".py" not in content
    assert {d.dim_param for d in onnx.load(written.path).graph.input[0].type.tensor_type.shape.dim} == {"batch", ""}


def test_the_command_tells_size_difference_and_latency(trained, command):
    path, (first, second, third) = command
    assert path.parent.is_dir() and first == f"{path}: {path.stat().st_size / 2**20:.1f} MiB"
    assert second.startswith("largest difference from Python ") and second.endswith("on 132 images")
    assert third.startswith("one image ") and " ms, in Python " in third and third.endswith("(median of 30)")
    assert {p.name for p in path.parent.iterdir()} == {"network.onnx", *(p.name for p in trained.iterdir())}


def test_a_program_of_torch_says_what_python_says(classifier, birds, tmp_path):
    report = export(classifier, tmp_path / "network.pt2", format="torch")
    about = {"classifier.json": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=about)
    assert json.loads(about["classifier.json"])["classes"] == classifier.classes
    for part in (birds[:1], birds[1:]):
        found, stages = program.module()(part)
        assert np.abs(stages.detach().numpy() - reference(classifier, part)).max() < 1e-4
        assert torch.allclose(found, stages.mean(1), atol=1e-6)
    assert not any("smram" in name for name in program.state_dict)
    assert report.size == (tmp_path / "network.pt2").stat().st_size
    content = (tmp_path / "network.pt2").read_bytes()
    assert str(Path(cra_smra.__file__).parent).encode() not in content


def test_the_plain_network_has_one_classifier(birds, tmp_path):
    recipe = tiny(method="plain", normalisation="half")
    torch.manual_seed(0)
    classifier = Classifier(recipe.build(4), recipe, ["a", "b", "c", "d"], "cpu")
    export(classifier, tmp_path / "plain.onnx")
    found, stages = opened(tmp_path / "plain.onnx").run(None, {"images": birds[:3].numpy()})
    with torch.no_grad():
        expected = softmax(classifier.network(birds[:3] / 127.5 - 1).overall_logits)  # half: from -1 to 1
    assert stages.shape == (3, 1, 4) and np.abs(found - expected).max() < 1e-4
    assert np.abs(stages[:, 0] - found).max() < 1e-6
    refused("has no SMRAM", export, classifier, tmp_path / "maps.onnx", maps=True)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx"]


def test_exporting_leaves_the_classifier_as_it_was(classifier, written):
    assert classifier.network.smram is not None and not classifier.network.training
    assert not any(module._forward_hooks for module in classifier.network.modules())


class Restless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("fault", ["random", "nan"])
def test_a_file_that_disagrees_is_not_written(trained, tmp_path, fault):
    classifier = Classifier.load(trained, "cpu")
    if fault == "random":
        classifier.network.overall_head.append(Restless())
    else:
        classifier.network.overall_head[4].bias.data[0] = float("nan")
    (tmp_path / "old.pt2").write_text("what was there")
    refused("differs from Python by .* nothing was written", export, classifier, tmp_path / "old.pt2", format="torch",
            error=RuntimeError)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.pt2", "what was there")]


def test_what_cannot_be_exported_is_answered_with_one_line(classifier, tmp_path, monkeypatch, capsys, trained):
    refused("format must be one of onnx, torch, got 'tflite'", export, classifier, tmp_path / "x", format="tflite")
    refused("is a folder", export, classifier, tmp_path)
    refused("size must be at least 32 pixels, got 31", export_birds_renderer, tmp_path / "x.onnx", 31)
    with pytest.raises(SystemExit) as stop:
        main(["export", "us/birds"])
    assert stop.value.code == 1 and "name a file with --out" in capsys.readouterr().err
    for name in ("onnx", "onnxruntime", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            wanted = rf"needs {name}: install it with pip install 'cra_smra\[export\]'"
            refused(wanted, export, classifier, tmp_path / "x.onnx")
            refused(wanted, export_birds_renderer, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


# the drawing


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    return export_birds_renderer(tmp_path_factory.mktemp("drawing") / "birds.onnx", 48, parts=True)


def test_the_drawing_says_what_python_says_whatever_the_bird(drawing):
    file = opened(drawing.path)
    generator = torch.Generator().manual_seed(1)
    sizes = [len(values) for _, values in ATTRIBUTES.values()]
    for k in range(40):  # any combination of attributes, not only those that are a species
        code = torch.tensor([[int(torch.randint(n, (1,), generator=generator)) for n in sizes]])
        draw = noise("val", k, k) if k else torch.full((1, NOISE_SIZE), 0.5)
        scene = render(code, draw, 48)
        image, parts = file.run(None, {"code": code.numpy(), "noise": draw.numpy()})
        assert image.dtype == np.uint8 and image.shape == (1, 3, 48, 48) and parts.shape == (1, len(PARTS), 48, 48)
        assert np.abs(image - scene.image.numpy() * 255).max() < 1.5  # one grey level, and half of one by rounding
        assert np.abs(parts - scene.parts.numpy() * 255).max() < 1.5
        assert image.std() > 10


def test_the_drawing_is_the_data_set_s(drawing):
    ds = Birds("test", num_classes=20, per_class=5, size=48)
    file = opened(drawing.path)
    for index in (0, 33, 99):
        label = index // 5
        feed = {"code": ds.codes[[label]].numpy(), "noise": noise("test", label, index % 5).numpy()}
        difference = np.abs(file.run(["image"], feed)[0][0].astype(int) - ds.images[index].int().numpy())
        assert difference.max() <= 1 and difference.mean() < 0.01  # nearly all values are equal
    assert drawing.images == 100 and drawing.difference <= 1 and drawing.size == drawing.path.stat().st_size


def test_the_drawing_names_its_inputs(drawing):
    about = {prop.key: json.loads(prop.value) for prop in onnx.load(drawing.path).metadata_props}
    assert [*about["attributes"]] == [*ATTRIBUTES] and about["attributes"]["eye"] == ["eye", ["plain", "ring", "stripe",
                                                                                           "brow"]]
    assert sum(about["noise"].values()) == NOISE_SIZE and about["parts"] == list(PARTS) and about["size"] == 48
    inputs = {i.name: (i.type, i.shape) for i in opened(drawing.path).get_inputs()}
    assert inputs == {"code": ("tensor(int64)", [1, len(ATTRIBUTES)]), "noise": ("tensor(float)", [1, NOISE_SIZE])}
    assert b".py" not in drawing.path.read_bytes()

