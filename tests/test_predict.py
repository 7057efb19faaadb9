"""Predicting with a trained network, saving and loading it, and files that somebody changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2.functional import resize

from conftest import refused, tiny, without_rights
from cra_smra import Classifier, Recipe
from cra_smra.cli import main
from cra_smra.data.birds import Birds
from cra_smra.data.make import make
from cra_smra.data.transforms import normalise
from cra_smra.runs import read_run
from cra_smra.saved import CONFIG, NEEDED, WEIGHTS, build, read_saved


def write_png(path: Path, pixels: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return path


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def classifier(trained) -> Classifier:
    return Classifier.load(trained, "cpu")


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory) -> Path:
    """A folder written by save; tests only read it."""
    return classifier.save(tmp_path_factory.mktemp("saved") / "birds")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """One to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module")
def birds() -> Birds:
    """The test images of the trained run: 4 species of 6."""
    return Birds("test", num_classes=4, per_class=6, size=64, difficulty="easy")


# what is predicted


def test_predictions_are_those_of_the_evaluation(classifier, trained, birds):
    stored = np.load(trained / "predictions.npz")
    logits = np.concatenate([stored["stage_logits"], stored["overall_logits"][:, None]], axis=1).astype(float)
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(2, keepdims=True)).mean(1)  # (24, 4): the mean of four softmax outputs
    found = classifier.predict(birds.images, top=4, batch_size=7, progress=False)
    names = read_run(trained)["dataset"]["classes"]
    assert len(found) == 24 and classifier.classes == names
    for prediction, row in zip(found, probabilities, strict=True):
        by_name = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert [by_name[name] for name in names] == pytest.approx(list(row), abs=1e-5)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        assert prediction.image is None and prediction.maps is None


def test_top_is_a_prefix_and_at_most_all_classes(classifier, birds):
    one = classifier.predict(birds.images[0], progress=False, top=1)[0]
    two = classifier.predict(birds.images[0], progress=False, top=2)[0]
    everything = classifier.predict(birds.images[0], progress=False)[0]
    assert (len(one.classes), len(two.classes), len(everything.classes)) == (1, 2, 4)
    assert everything.classes[:1] == one.classes and everything.probabilities[:2] == two.probabilities
    assert sum(everything.probabilities) == pytest.approx(1, abs=1e-6)


def test_files_folders_and_tensors_give_the_same(classifier, birds, tmp_path):
    # Names whose order is not that of writing; a folder in the folder; what is no image is left alone.
    names = ["z/2.png", "a.PNG", "c.bmp", "z/10.png", "m/0.png", "k/0.png"]
    paths = [write_png(tmp_path / "all" / name, birds.images[4 * k]) for k, name in enumerate(names)]
    for name in ("README.txt", ".hidden.png", "z/Thumbs.db"):
        (tmp_path / "all" / name).write_text("no image")
    (tmp_path / "all" / ".cache").mkdir()
    (tmp_path / "all" / ".cache" / "x.png").write_text("no image")
    order = [1, 2, 5, 4, 3, 0]  # the files, then the folders k, m, z, in which 10 comes before 2
    tensors = classifier.predict(birds.images[::4][order], progress=False)
    for given_ in (tmp_path / "all", str(tmp_path / "all"), [paths[k] for k in order], [tmp_path / "all"]):
        found = classifier.predict(given_, progress=False)
        assert [prediction.image for prediction in found] == [str(paths[k]) for k in order]
        assert [p._replace(image=None) for p in found] == tensors
    mixed = classifier.predict([birds.images[6], [str(paths[2])]], progress=False)
    assert [p.image for p in mixed] == [None, str(paths[2])]
    pair = birds.images[:2]
    assert classifier.predict([*pair], progress=False) == classifier.predict(pair, progress=False)


def test_batches_do_not_change_a_prediction(classifier, birds):
    whole = classifier.predict(birds.images, top=4, progress=False)
    single = classifier.predict(birds.images, top=4, batch_size=1, progress=False)
    for a, b in zip(whole, single, strict=True):
        assert a.classes == b.classes and a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_maps_are_those_of_smram(classifier, birds):
    found = classifier.predict(birds.images[:3], maps=True, batch_size=2, progress=False)
    network = classifier.network
    with torch.no_grad():
        expected = network.smram.attention(network.enhanced_maps(normalise(birds.images[:3])))  # (3, 3, 2 * 2)
    for prediction, own in zip(found, expected, strict=True):
        assert prediction.maps.shape == (3, 2, 2)
        assert torch.allclose(prediction.maps.flatten(1), own, atol=1e-6)
        assert prediction.maps.sum((1, 2)).tolist() == pytest.approx([1, 1, 1])
        assert prediction.maps[0, 0, 1] == prediction.maps[0].flatten()[1]  # row by row
    plain = tiny(method="plain")
    refused("has no SMRAM", Classifier(plain.build(2), plain, ["a", "b"]).predict, birds.images[0], maps=True)


# preprocessing


def test_a_bird_of_its_own_size_reaches_the_network_untouched_and_another_is_resized(classifier, birds):
    image = birds.images[3]
    assert torch.equal(classifier.prepare([image])[0], image)
    large = Birds("test", num_classes=4, per_class=6, size=128, difficulty="easy").images[3]
    assert torch.equal(classifier.prepare([large])[0], resize(large, [64, 64], antialias=True))
    assert (classifier.prepare([large])[0].float() - image).abs().mean() < 3  # the same scene, nothing cut off
    assert classifier.prepare([image[:, :1, :1], image[:, :, :40]]).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_photographs_are_prepared_as_the_test_images_of_their_recipe(tmp_path, crop):
    root = make("folder", tmp_path, num_classes=2, train_per_class=3, test_per_class=3, size=80)
    recipe = replace(tiny(), dataset="folder", root=str(root), crop=crop)
    test = recipe.load("test")
    classifier = Classifier(recipe.build(2), recipe, test.classes, "cpu")
    files = [test.base.path(i) for i in test.indices]
    assert torch.equal(classifier.prepare(files), torch.stack([test[i][0] for i in range(len(test))]))
    refused("holds no saved classifier", Classifier.load, root)


def test_a_photograph_is_turned_as_the_camera_noted(classifier, birds, tmp_path):
    upright = birds.images[2]
    lying = Image.fromarray(upright.rot90(1, (1, 2)).permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter to see it upright
    lying.save(tmp_path / "lying.png", exif=exif)
    assert torch.equal(classifier.prepare([tmp_path / "lying.png"])[0], upright)


# images that cannot be predicted


def broken(folder: Path, kind: str) -> Path:
    """A folder with a good image first and then one that cannot be read."""
    good = write_png(folder / "a.png", torch.full((3, 70, 70), 90, dtype=torch.uint8))
    if kind == "truncated":
        (folder / "b.png").write_bytes(good.read_bytes()[:60])
    elif kind == "empty":
        (folder / "b.jpg").touch()
    elif kind == "text":
        (folder / "b.jpg").write_text("<html>404</html>")
    elif kind == "heic":
        (folder / "b.HEIC").write_bytes(b"\0" * 99)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [("truncated", "b.png cannot be decoded"), ("empty", "b.jpg is empty"), ("text", "b.jpg cannot be decoded"),
     ("heic", "b.HEIC cannot be read: convert it")],
)
def test_a_broken_image_in_a_folder_stops_everything_before_anything_is_written(
    saved, tmp_path, capsys, kind, message
):
    folder = broken(tmp_path / "photos", kind)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(saved), str(folder), "--json", str(tmp_path / "out.json")])
    output, errors = capsys.readouterr()
    assert stop.value.code == 1 and output == ""
    line = errors.splitlines()[-1]
    assert line.startswith("cra-smra: ") and message in line and str(folder) in line
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_what_cannot_be_predicted_is_named(classifier, open_folder, tmp_path, birds):
    refused(f"{tmp_path}/none.png is not there", classifier.predict, tmp_path / "none.png", progress=False)
    refused("holds no image", classifier.predict, tmp_path, progress=False)
    refused("there is no image", classifier.predict, [], progress=False)
    refused(r"must be uint8 of shape .* got torch.float32 \(3, 8, 8\)", classifier.predict, torch.zeros(3, 8, 8))
    refused(r"got torch.uint8 \(8, 8, 3\)", classifier.predict, torch.zeros(8, 8, 3, dtype=torch.uint8))
    refused("got ndarray", classifier.predict, np.zeros((8, 8, 3), np.uint8))
    refused("top must be at least 1, got 0", classifier.predict, birds.images, top=0)
    refused("batch_size must be at least 1, got -1", classifier.predict, birds.images, batch_size=-1)
    hidden = write_png(open_folder / "all" / "sub" / "x.png", birds.images[0])
    with without_rights(hidden.parent):  # a folder that may not be read is not skipped
        refused("sub may not be read", classifier.predict, open_folder / "all", progress=False)


# saving and loading


def test_saving_and_loading_agree_bit_for_bit(classifier, saved, birds):
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, WEIGHTS]
    expected = classifier.predict(birds.images, top=4, progress=False)
    for source in (saved, str(saved), saved / WEIGHTS, saved / CONFIG):
        again = Classifier.load(source, "cpu")
        assert same_state(again.network, classifier.network) and not again.network.training
        assert again.predict(birds.images, top=4, progress=False) == expected
        assert (again.classes, again.recipe) == (classifier.classes, classifier.recipe)


def test_the_weights_are_the_chosen_checkpoint(trained, saved):
    stored = torch.load(trained / "checkpoints" / "chosen.pt", weights_only=True)["model"]
    tensors = load_file(saved / WEIGHTS)
    assert tensors.keys() == stored.keys() and all(torch.equal(tensors[name], stored[name]) for name in stored)


def test_config_tells_readers_in_other_languages_what_to_do(saved):
    config = json.loads((saved / CONFIG).read_text())
    assert config["preprocessing"] == {
        "resize": [64, 64], "crop": [64, 64], "mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225],
    }
    assert len(config["classes"]) == 4 and set(NEEDED) <= config["recipe"].keys() <= tiny().to_dict().keys()


def test_a_photograph_s_recipe_travels_without_its_owner_s_folders(tmp_path):
    recipe = replace(tiny(), dataset="folder", root=str(tmp_path), image_size=224, normalisation="half",
                     weights=str(tmp_path / "first.pth"))
    network = tiny().build(2)
    folder = Classifier(network, recipe, ["a", "b"], "cpu").save(tmp_path / "new" / "saved")
    text = (folder / CONFIG).read_text()
    assert str(tmp_path) not in text and "first.pth" in text
    assert json.loads(text)["preprocessing"] == {
        "resize": [275, 275], "crop": [224, 224], "mean": [0.5] * 3, "deviation": [0.5] * 3,
    }
    assert same_state(Classifier.load(folder).network, network)


def test_an_existing_folder_is_left_alone_and_a_failure_leaves_nothing(classifier, saved, tmp_path, monkeypatch):
    refused("exists: choose another name", classifier.save, saved)
    monkeypatch.setattr("safetensors.torch.save", lambda tensors: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        classifier.save(tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [
    {"method": "plain"}, {"backbone": "efficientnet_lite0"}, {"backbone": "densenet161", "final_norm": False},
    {"cram": "cbam", "smram": False, "head": "linear"}, {"cram": None, "shared_phi": True, "neck": "fbsd"},
])
def test_every_kind_of_network_comes_back_whole(tmp_path, changes):
    recipe = tiny(**changes)
    network = recipe.build(3).eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    again = build(recipe, ["a", "b", "c"], state, tmp_path)
    assert not again.training and not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
    assert all(parameter.requires_grad for parameter in again.parameters())  # it can be trained further
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(network.predict(images), again.predict(images))


# files that somebody changed


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def change(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    name = "overall_head.4.weight"
    if how == "shape":
        return state | {name: state[name][:-1]}
    if how == "missing":
        return {key: value for key, value in state.items() if key != name}
    if how == "extra":
        return state | {"backdoor.weight": torch.zeros(2)}
    if how == "type":
        return state | {name: state[name].double()}
    return state | {name: state[name].clone().fill_(float("nan"))}


@pytest.mark.parametrize(("how", "message"), [
    ("shape", r"1 of another shape or type \(first: 'overall_head.4.weight'"), ("missing", "are 1 missing"),
    ("extra", "1 unknown.*'backdoor.weight'"), ("type", "1 of another shape or type"), ("nan", "1 not finite"),
])
@pytest.mark.parametrize("place", ["saved", "run"])
def test_weights_that_are_not_the_network_s_are_refused(saved, trained, tmp_path, how, message, place):
    target = Path(shutil.copytree(saved if place == "saved" else trained, tmp_path / "copy"))
    state = change(load_file(saved / WEIGHTS), how)
    if place == "saved":
        save_file(state, target / WEIGHTS)
    else:
        torch.save({"model": state}, target / "checkpoints" / "chosen.pt")
    refused(message, Classifier.load, target)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_truncated_weights_are_refused(copy, keep):
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refused("is damaged or holds code", Classifier.load, copy)


def test_code_in_a_file_is_not_run(copy, trained, tmp_path):
    ran = tmp_path / "ran"
    torch.save({"model": Trap(ran)}, tmp_path / "trap.pt")
    shutil.copy(tmp_path / "trap.pt", copy / WEIGHTS)
    refused("is damaged or holds code", Classifier.load, copy)
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.copy(tmp_path / "trap.pt", run / "checkpoints" / "chosen.pt")
    refused("is damaged or holds code", Classifier.load, run)
    (copy / WEIGHTS).unlink()
    shutil.copy(tmp_path / "trap.pt", copy / "pytorch_model.bin")  # what the hub's mixin would fall back to
    refused(f"{WEIGHTS} is not there", Classifier.load, copy)
    refused("is no classifier", Classifier.load, copy / "pytorch_model.bin")
    assert not ran.exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)  # the trap does work
    assert ran.exists()


def rewrite(path: Path, **changes: object) -> None:
    """Change JSON: a key of the recipe by its name, another by its own; ... takes it away."""
    config = json.loads(path.read_text())
    for name, value in changes.items():
        place = config["recipe"] if name in config["recipe"] else config
        if value is ...:
            del place[name]
        else:
            place[name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("changes", "message"), [
    ({"out_channels": 10**9}, "of another shape or type"),  # and no memory is taken for it
    ({"out_channels": -5}, "describes no network that can be built"),
    ({"out_channels": 10**30}, "describes no network that can be built"),
    ({"out_channels": 32.5}, "out_channels of the recipe cannot be 32.5"),
    ({"reduction": 0}, "reduction must lie between 1 and the 128 channels"),
    ({"omega": "0.5"}, 'omega of the recipe cannot be "0.5"'),
    ({"omega": 7}, r"omega must lie in \[0, 1\], got 7"),
    ({"delta": float("nan")}, r"delta must lie in \(0, 1\], got nan"),
    ({"smram": "no"}, 'smram of the recipe cannot be "no"'),
    ({"smram": False}, "unknown"),
    ({"image_size": True}, "image_size of the recipe cannot be true"),
    ({"image_size": 10**6}, "image_size must be at most 4096, got 1000000"),
    ({"image_size": 96}, "preprocessing is not what the recipe says"),
    ({"normalisation": "half"}, "preprocessing is not what the recipe says"),
    ({"backbone": "resnet1000"}, 'backbone of the recipe cannot be "resnet1000"'),
    ({"backbone": "resnet50"}, "does not fit its recipe"),
    ({"backbone": ["resnet10"]}, "backbone of the recipe cannot be"),
    ({"dataset": None}, "dataset of the recipe cannot be null"),
    ({"omega": ...}, "the recipe lacks omega, on which the network depends"),
    ({"recipe": "birds"}, "holds no recipe"),
    ({"recipe": ...}, "holds no recipe"),
    ({"classes": ["Finch"]}, "classes must be a list of at least 2 different names"),
    ({"classes": ["a", "b", "c", "a"]}, "classes must be"),
    ({"classes": [1, 2, 3, 4]}, "classes must be"),
    ({"classes": "abcd"}, "classes must be"),
    ({"classes": ...}, "classes must be"),
    ({"classes": ["a", "b", "c"]}, "of another shape or type"),
    ({"preprocessing": ...}, "preprocessing is not what the recipe says"),
])
def test_a_config_of_nonsense_is_refused(copy, changes, message):
    rewrite(copy / CONFIG, **changes)
    refused(message, Classifier.load, copy)


def test_a_recipe_field_that_does_not_exist_is_refused(copy):
    config = json.loads((copy / CONFIG).read_text())
    config["recipe"]["wings"] = 2
    (copy / CONFIG).write_text(json.dumps(config))
    refused("unknown recipe fields: wings", Classifier.load, copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_a_config_that_is_no_object_is_refused(copy, trained, tmp_path, text):
    (copy / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    refused("config.json (is not valid JSON|holds no recipe)", Classifier.load, copy)


@pytest.mark.parametrize(("text", "message"), [
    ("[]", "does not say which data set"), ("{}", "does not say which data set"),
    ('{"dataset": {}}', "holds no recipe"), ("{", "not valid JSON"),
])
def test_a_run_without_sense_is_refused(trained, tmp_path, text, message):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "run.json").write_text(text)
    refused(message, Classifier.load, run)
    shutil.copy(trained / "run.json", run)
    torch.save([1, 2], run / "checkpoints" / "chosen.pt")
    refused("holds no state dict", Classifier.load, run)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*NEEDED, "epochs", "root", "classes", "recipe", "preprocessing"]), value=JSON)
def test_whatever_a_config_says_it_loads_or_is_refused(copy, saved, name, value):
    shutil.copy(saved / CONFIG, copy)
    rewrite(copy / CONFIG, **{name: value})
    try:
        read_saved(copy)
    except ValueError as error:
        assert "\n" not in str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_head_of_the_weights_says_they_load_or_are_refused(copy, saved, data):
    content = bytearray((saved / WEIGHTS).read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")  # the length of the head, then the head, in JSON
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    (copy / WEIGHTS).write_bytes(content)
    try:
        read_saved(copy)
    except ValueError as error:
        assert "\n" not in str(error)


# the hub


def test_a_name_that_is_nothing_here_is_answered_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in ("nowhere", "runs/brids", "/no/where", "a/b/c", "../birds", "a b/c"):
        assert source in refused("is not there: give a run directory", Classifier.load, source)
    (tmp_path / "notes.txt").write_text("mine")
    refused("notes.txt is no classifier", Classifier.load, "notes.txt")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs; ``folder`` is set on the class."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        commit, name = "0" * 40, self.path.split("?")[0].rpartition("/")[2]
        files = [path.name for path in self.folder.iterdir()]
        if self.path.startswith("/api/models/us/birds"):
            tree = [{"type": "file", "path": f, "oid": "1" * 40, "size": (self.folder / f).stat().st_size}
                    for f in files]
            about = {"id": "us/birds", "sha": commit, "siblings": [{"rfilename": f} for f in files]}
            self.answer(json.dumps(tree if "/tree/" in self.path else about).encode())
        elif self.path.startswith("/us/birds/resolve/") and name in files:
            self.answer((self.folder / name).read_bytes(), ETag=f'"{name}"', **{"X-Repo-Commit": commit})
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


PROGRAM = """
import sys
from cra_smra import Classifier
classifier = Classifier.load("us/birds", "cpu")
print(isinstance(classifier, Classifier), hasattr(classifier, "save_pretrained"))
classifier.save(sys.argv[1])
try:
    Classifier.load("us/dodos")
except RuntimeError as error:
    print(error)
"""


def test_a_classifier_comes_from_the_hub(saved, copy, tmp_path):
    """In another process, since huggingface_hub reads its variables when it is imported."""
    shutil.copy(copy / CONFIG, copy / "pytorch_model.bin")  # not asked for
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Ours", (Hub,), {"folder": copy}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home"),
                 "NO_PROXY": "*", "HF_HUB_OFFLINE": "0"}
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "saved")], env=os.environ | variables,
                              cwd=tmp_path, capture_output=True, text=True, timeout=300)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    first, refusal = done.stdout.splitlines()
    assert first == "True True"
    assert refusal.startswith("us/dodos is not a folder here and could not be fetched from the hub: ")
    assert "404" in refusal
    assert all((tmp_path / "saved" / name).read_bytes() == (saved / name).read_bytes() for name in (CONFIG, WEIGHTS))
    assert not list((tmp_path / "home").rglob("pytorch_model.bin"))


def test_without_a_network_one_line_says_so(tmp_path):
    from cra_smra.predict import hub_class

    cut_off = {"endpoint": "http://127.0.0.1:9", "cache_dir": tmp_path}  # nobody listens there
    refused("us/birds is not a folder here and could not be fetched from the hub: ", hub_class().from_pretrained,
            "us/birds", error=RuntimeError, **cut_off)


def test_pretrained_of_the_hub_writes_and_reads_our_files_and_no_others(classifier, saved, copy, tmp_path):
    from cra_smra.predict import hub_class

    ours = hub_class()(classifier.network, classifier.recipe, classifier.classes, "cpu")
    ours.save_pretrained(tmp_path / "pretrained")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "pretrained" / name).read_bytes() == (saved / name).read_bytes()
    assert same_state(hub_class().from_pretrained(tmp_path / "pretrained").network, classifier.network)
    rewrite(copy / CONFIG, classes=["a", "b", "c"])
    refused("does not fit its recipe", hub_class().from_pretrained, copy)


def test_without_the_hub_s_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    from cra_smra.predict import hub_class

    hub_class.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(r"install it with pip install 'cra_smra\[hub\]'", Classifier.load, "us/birds")
    hub_class.cache_clear()


# the command


def test_the_command_prints_and_writes_what_is_predicted(classifier, trained, birds, tmp_path, capsys):
    folder = tmp_path / "photos"
    for k in (0, 7):
        write_png(folder / f"{k}.png", birds.images[k])
    main(["predict", str(trained), str(folder / "7.png"), str(folder), "--top", "2", "--maps",
          "--json", str(tmp_path / "out.json")])
    output = capsys.readouterr().out.splitlines()
    written = json.loads((tmp_path / "out.json").read_text())
    expected = classifier.predict([folder / "7.png", folder], top=2, maps=True, progress=False)
    assert [Path(line).name for line in output[::3]] == ["7.png", "0.png", "7.png"]
    assert len(output) == 9
    for row, lines, prediction in zip(written, zip(output[1::3], output[2::3], strict=True), expected, strict=True):
        assert row["image"] == prediction.image and tuple(row["classes"]) == prediction.classes
        assert row["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)
        assert np.allclose(row["maps"], prediction.maps, atol=1e-6)
        for line, name, probability in zip(lines, prediction.classes, prediction.probabilities, strict=True):
            assert line == f"  {probability:7.2%}  {name}"


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere", "a.png"], "nowhere is not there"), (["RUN", "a.png"], "a.png is not there"),
    (["RUN", "a.png", "--top", "0"], "top must be at least 1"), (["RUN", "a.png", "--maps"], "name it with --json"),
    (["RUN", "a.png", "--json", "."], "is a folder"), (["RUN"], "there is no image"),
])
def test_a_mistake_is_answered_with_one_line(saved, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["predict", *(str(saved) if word == "RUN" else word for word in arguments)])
    output, errors = capsys.readouterr()
    assert stop.value.code != 0 and output == "" and message in errors.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_recipe_fields_on_which_a_network_depends_are_known():
    """A field that is added to Recipe and shapes the network or its input must be named in NEEDED."""
    assert set(NEEDED) <= Recipe().to_dict().keys()
