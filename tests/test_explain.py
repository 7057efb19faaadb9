"""A run asked about an image file: what it says, what is written, what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import refused, tiny
from cra_smra import Recipe, evaluate, train
from cra_smra.attention import entropy, overlap
from cra_smra.cli import main
from cra_smra.data.transforms import normalise
from cra_smra.explain import explain
from cra_smra.measured_attention import unpacked
from cra_smra.model import PlainNetwork
from cra_smra.saved import geometry, read_trained


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def birds(trained):
    return read_trained(trained)[1].load("test")


@pytest.fixture
def photograph(tmp_path, birds):
    """A test image as a file, without loss."""
    path = tmp_path / "bird.png"
    Image.fromarray(birds[9][0].permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    recipe = tiny(method="plain", epochs=1, train_per_class=8, test_per_class=2)
    return train(recipe, tmp_path_factory.mktemp("plain") / "run", progress=False)


def changed(run, folder, **changes):
    """A copy of a run directory with another run.json."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))
    return folder


def command(capsys, *arguments):
    try:
        main(["explain", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err.strip()


# --- the network of a run


def test_the_network_of_a_run_predicts_what_the_run_did(trained, birds):
    network, recipe, classes = read_trained(trained)
    assert not network.training and recipe == tiny() and classes == list(birds.classes)
    stored = np.load(trained / "predictions.npz")
    images = torch.stack([birds[i][0] for i in range(len(birds))])
    with torch.no_grad():
        output = network(normalise(images, recipe.normalisation))
    np.testing.assert_allclose(output.stage_logits.numpy(), stored["stage_logits"], atol=1e-3)
    np.testing.assert_allclose(output.overall_logits.numpy(), stored["overall_logits"], atol=1e-3)


def test_the_last_checkpoint_is_another_than_the_chosen_one(trained, tmp_path):
    run = changed(trained, tmp_path / "run")
    path = run / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    torch.save({"model": {name: 2 * value for name, value in state["model"].items()}}, path)
    weight, _ = (read_trained(run, name)[0].heads[0][1].weight for name in ("last", "chosen"))
    assert torch.equal(weight, 2 * state["model"]["heads.0.1.weight"])


def test_a_checkpoint_of_another_network_is_refused(trained, plain, tmp_path):
    run = changed(trained, tmp_path / "run")
    shutil.copy(plain / "checkpoints" / "chosen.pt", run / "checkpoints" / "chosen.pt")
    for function in (read_trained, evaluate):
        refused("chosen.pt does not fit its recipe", function, run)
    (run / "checkpoints" / "chosen.pt").unlink()
    refused("there is no checkpoint", read_trained, run)


# --- what is said


def test_an_explanation_says_what_the_run_predicted(trained, birds, photograph):
    found = explain(trained, photograph)
    assert torch.equal(found.image, birds[9][0])  # the size is the network's already
    stored = np.load(trained / "predictions.npz")
    logits = torch.from_numpy(np.concatenate([stored["stage_logits"][9], stored["overall_logits"][9:10]]))  # (4, K)
    expected = dict(zip(("stage 3", "stage 4", "stage 5", "joint"), logits.softmax(dim=1), strict=True))
    expected["mean"] = logits.softmax(dim=1).mean(dim=0)
    said = found.facts["classifiers"]
    assert list(said) == list(expected)
    for name, probabilities in expected.items():
        order = probabilities.argsort(descending=True).tolist()
        assert [row["class"] for row in said[name]] == [birds.classes[k] for k in order]
        assert [row["probability"] for row in said[name]] == pytest.approx(probabilities[order].tolist(), abs=1e-3)
    assert found.facts["prediction"] == said["mean"][0]
    assert [row["class"] for row in explain(trained, photograph, top=2).facts["classifiers"]["joint"]] == [
        row["class"] for row in said["joint"][:2]
    ]


def test_an_explanation_has_maps_and_what_the_attention_did(trained, photograph):
    found = explain(trained, photograph)
    network, recipe, _ = read_trained(trained)
    inspected = network.inspect(normalise(found.image[None], recipe.normalisation))
    assert found.facts["suppressed"] == pytest.approx(inspected.suppressed.tolist())
    maps = torch.stack([x.flatten() for x in found.maps["smram"]])
    torch.testing.assert_close(maps, inspected.attention[0])
    facts = found.facts["maps"]["smram"]
    assert facts["entropy"] == pytest.approx(entropy(inspected.attention)[0].tolist(), abs=1e-6)
    assert facts["overlap"] == pytest.approx(overlap(inspected.attention).item())
    assert [stage["cells"] for stage in facts["stages"]] == [[2, 2]] * 3
    for found_map, kept in zip(found.maps["smram"], facts["stages"], strict=True):
        assert torch.allclose(unpacked(kept), found_map / found_map.max(), atol=0.003)
    assert {kind: [list(x.shape) for x in stages] for kind, stages in found.maps.items()} == {
        kind: [stage["cells"] for stage in facts["stages"]] for kind, facts in found.facts["maps"].items()
    }


def test_grad_cam_explains_the_prediction(trained, photograph):
    found = explain(trained, photograph)
    network, recipe, classes = read_trained(trained)
    predicted = classes.index(found.facts["prediction"]["class"])
    feature = network.enhanced_maps(normalise(found.image[None], recipe.normalisation))[1].detach().requires_grad_()
    network.heads[1](feature.amax(dim=(2, 3)))[0, predicted].backward()
    expected = (feature.grad.mean(dim=(2, 3), keepdim=True) * feature).sum(dim=1)[0].relu()
    torch.testing.assert_close(found.maps["grad_cam"][1], expected.detach(), atol=1e-5, rtol=1e-4)


def test_the_plain_network_has_one_classifier(plain, photograph):
    facts = explain(plain, photograph).facts
    assert isinstance(read_trained(plain)[0], PlainNetwork)
    assert list(facts["classifiers"]) == ["only"] and facts["suppressed"] is None
    assert facts["prediction"] == facts["classifiers"]["only"][0]
    assert list(facts["maps"]) == ["grad_cam", "channel_mean"]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_any_image_file_of_any_size_is_taken(trained, tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    picture = Image.effect_mandelbrot((230, 101), (-2, -1, 1, 1), 50)
    (picture if mode in ("L", "I;16") else picture.convert("RGB")).convert(mode).save(path)
    found = explain(trained, path)
    assert found.image.shape == (3, 64, 64) and found.facts["height_and_width"] == [101, 230]
    prepared = found.facts["preprocessing"]
    assert prepared["resize"] == prepared["crop"] == [64, 64] and prepared["mean"] == [0.485, 0.456, 0.406]


def test_a_photograph_is_turned_as_its_camera_noted(trained, tmp_path):
    picture = Image.new("RGB", (90, 60))
    notes = picture.getexif()
    notes[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.jpg", exif=notes)
    assert explain(trained, tmp_path / "turned.jpg").facts["height_and_width"] == [90, 60]


def test_photographs_are_prepared_as_in_the_test_of_their_recipe():
    image = torch.randint(0, 256, (3, 300, 500), dtype=torch.uint8)
    recipe = Recipe(dataset="cub", image_size=112)
    prepared = geometry(recipe)(image)
    assert prepared.shape == (3, 112, 112)
    whole = torch.nn.functional.interpolate(image[None].float(), (138, 138), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(prepared.float(), whole[:, 13:125, 13:125], atol=1, rtol=0)


# --- the command


def test_the_command_writes_a_figure_and_a_json(capsys, trained, photograph, tmp_path):
    out = tmp_path / "new" / "folder"
    code, output, errors = command(capsys, trained, photograph, "--out", out)
    assert code == 0 and not errors
    assert sorted(path.name for path in out.iterdir()) == ["bird.json", "bird.png"]
    facts = json.loads((out / "bird.json").read_text())
    assert facts == explain(trained, photograph).facts
    with Image.open(out / "bird.png") as picture:
        picture.load()
        assert picture.width >= 700 and picture.height >= 700
        assert len(picture.convert("RGB").resize((40, 40)).getcolors(1600)) > 100  # something is drawn
    for name, classes in facts["classifiers"].items():
        (line,) = [line for line in output.splitlines() if line.startswith(name)]
        assert f"{classes[0]['class']} {classes[0]['probability']:.1%}" in line
    assert "suppressed channels" in output


def test_without_a_folder_the_answer_lies_in_the_run(capsys, plain, photograph):
    code, output, _ = command(capsys, plain, photograph)
    assert code == 0 and output.startswith("only")
    assert sorted(path.name for path in (plain / "explained").iterdir()) == ["bird.json", "bird.png"]


def test_mistakes_are_answered_with_one_line_and_leave_nothing(capsys, trained, photograph, tmp_path):
    broken, empty, text = tmp_path / "broken.png", tmp_path / "empty.jpg", tmp_path / "text.jpg"
    broken.write_bytes(photograph.read_bytes()[:900])
    empty.write_bytes(b"")
    text.write_text("<html>not found</html>")
    unfinished = changed(trained, tmp_path / "unfinished", status="running")
    out = tmp_path / "out"
    for run, image, expected in (
        (tmp_path / "nowhere", photograph, "is not a run directory"),
        (unfinished, photograph, "is not finished: give its train command again"),
        (trained, tmp_path / "absent.jpg", "absent.jpg is not there"),
        (trained, tmp_path, "cannot be decoded"),
        (trained, broken, "broken.png cannot be decoded"),
        (trained, empty, "empty.jpg is empty"),
        (trained, text, "text.jpg cannot be decoded"),
    ):
        code, output, errors = command(capsys, run, image, "--out", out)
        assert code == 1 and not output and expected in errors and "\n" not in errors, errors
        assert not out.exists()
    code, output, errors = command(capsys, trained, photograph, "--out", text)  # a file in the folder's place
    assert code == 1 and not output and errors and "\n" not in errors
    assert text.read_text() == "<html>not found</html>"
