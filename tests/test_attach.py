"""attach and detach, on small networks written for it and on CRASMRA's own backbones."""

from __future__ import annotations

import copy
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

from conftest import refused
from cra_smra import CRASMRA, Recipe, attach, detach
from cra_smra.attach import Attached
from cra_smra.backbones import Backbone
from cra_smra.losses import total_loss
from cra_smra.train import inspect as look
from cra_smra.train import parameter_groups

STAGES = ("first", "second", "third")
LABELS = torch.tensor([0, 2, 1, 2])


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Step(nn.Module):
    """A stage: a convolution over the grid, and something of its own for the tokens before it."""

    def __init__(self, fan_in, fan_out, layout, grid, prefix):
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, 3, padding=1)
        self.token = nn.Linear(fan_in, fan_out) if prefix else nn.Identity()
        self.layout, self.grid, self.prefix = layout, grid, prefix

    def forward(self, x):
        if self.layout == "nhwc":
            return F.gelu(self.conv(x.movedim(-1, 1))).movedim(1, -1)
        if self.layout == "tokens":
            before, patches = x[:, : self.prefix], x[:, self.prefix :]
            patches = patches.reshape(len(x), *self.grid, -1).movedim(-1, 1)
            patches = F.gelu(self.conv(patches)).movedim(1, -1).reshape(len(x), self.grid[0] * self.grid[1], -1)
            return torch.cat([self.token(before), patches], dim=1) if self.prefix else patches
        return F.gelu(self.conv(x))


def unchanged(x):
    return x


def plainly(stage, x):
    return stage(x)


class Small(nn.Module):
    """Three stages on one grid of 6 x 8 patches, in any layout; no BatchNorm, and a classifier that is not needed."""

    def __init__(self, layout="nchw", prefix=0, size=(24, 32)):
        super().__init__()
        self.layout, self.prefix = layout, prefix
        grid = (size[0] // 4, size[1] // 4)
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.first = Step(16, 20, layout, grid, prefix)
        self.second = Step(20, 24, layout, grid, prefix)
        self.third = Step(24, 28, layout, grid, prefix)
        self.fc = nn.Linear(28, 7)
        self.extra = nn.Parameter(torch.randn(1, prefix, 16)) if prefix else None
        self.image_size = size
        self.between, self.call = unchanged, plainly  # what is done after each stage, and how it is called

    def forward(self, images):
        x = self.embed(images)
        if self.layout == "nhwc":
            x = x.movedim(1, -1)
        if self.layout == "tokens":
            x = x.flatten(2).mT
            x = x if self.extra is None else torch.cat([self.extra.expand(len(x), -1, -1), x], dim=1)
        for stage in (self.first, self.second, self.third):
            x = self.between(self.call(stage, x))
        if self.layout == "nchw":
            x = x.flatten(2).mT
        return self.fc(x.flatten(1, -2).mean(dim=1))


def small(layout="nchw", prefix=0, **options):
    return attach(Small(layout, prefix), STAGES, 3, **({"out_channels": 12, "reduction": 4, "delta": 0.95} | options))


def photos(count=4, size=(24, 32), dtype=torch.float32):
    return torch.randn(count, 3, *size, dtype=dtype)


def step(network, images, labels=LABELS):
    """Loss, gradients and state after one pass forward and backward in training."""
    network.zero_grad()
    loss, _ = total_loss(network.train()(images), labels[: len(images)])
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return loss.item(), gradients, copy.deepcopy(network.state_dict())


def same(one, other, **tolerance):
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# Agreement with CRASMRA


OPTIONS = [
    {},
    {"omega": 0.3, "delta": 0.8, "neck": "fbsd", "head": "linear", "reduction": 8},
    {"cram": "cbam", "pooling": "mean"},
    {"cram": None, "pooling": "top5", "shared_phi": True},
    {"smram": False, "omega": 1.0, "delta": 0.95},
]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_with_crasmra_of_the_same_weights(options, own):
    expected = CRASMRA("resnet10", 3, out_channels=24, **options)
    module = Backbone("resnet10") if own else ResNet(BasicBlock, [1, 1, 1, 1])
    network = attach(module, num_classes=3, image_size=64, out_channels=24, **options)
    state = expected.state_dict()
    found = network.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and all(key.startswith("backbone.fc.") for key in found.missing_keys)
    images = photos(4, (64, 64))
    for model in (expected, network):
        with torch.no_grad():
            model.train()(images), model.train()(2 * images)  # so that the running statistics are not those of new ones
        model.eval()
    exactly = {"rtol": 0, "atol": 0}
    for mine, theirs in zip(network(images)[:2], expected(images)[:2], strict=True):
        torch.testing.assert_close(mine, theirs, **exactly)
    torch.testing.assert_close(network.predict(images), expected.predict(images), **exactly)
    for mine, theirs in zip(network.inspect(images), expected.inspect(images), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    (loss, gradients, after), (other, wanted, other_after) = step(network, images), step(expected, images)
    assert loss == other
    same({name: gradients[name] for name in wanted}, wanted, **exactly)
    assert set(gradients) == set(wanted)
    same({name: after[name] for name in other_after}, other_after, **exactly)


def test_agrees_with_crasmra_on_densenet_whose_last_relu_works_in_place():
    expected = CRASMRA("densenet161", 3, out_channels=8).eval()
    stages = ("features.denseblock2", "features.denseblock3", "final_relu")
    network = attach(Backbone("densenet161").eval(), stages, 3, image_size=64, out_channels=8)
    network.load_state_dict(expected.state_dict())
    images = photos(1, (64, 64))
    assert torch.equal(network.predict(images), expected.predict(images))


def test_options_are_those_of_crasmra():
    own = set(inspect.signature(CRASMRA).parameters) - {"backbone", "weights", "final_norm", "num_classes"}
    values = {"cram": "cbam", "smram": False, "out_channels": 8, "reduction": 2, "omega": 0.25, "delta": 0.7}
    values |= {"neck": "fbsd", "shared_phi": True, "smram_norm": "map", "pooling": "mean", "head": "linear"}
    assert set(values) == own
    for name, value in values.items():
        network = attach(Small(), STAGES, 3, **({"out_channels": 16, "reduction": 4} | {name: value}))
        default = attach(Small(), STAGES, 3, out_channels=16, reduction=4)
        changed = (
            network.state_dict().keys() != default.state_dict().keys()
            or any(a.shape != b.shape for a, b in zip(network.parameters(), default.parameters(), strict=True))
            or repr(network) != repr(default)
            or network.pooling != default.pooling
            or (network.cram[0].omega, network.cram[0].delta) != (default.cram[0].omega, default.cram[0].delta)
        )
        assert changed, name
    defaults = attach(Small(), STAGES)
    assert defaults.heads[0][-1].out_features == 200 and defaults.cram[0].conv_layer[0].out_channels == 1024


# Layouts


@pytest.mark.parametrize("options", [{}, {"neck": "fbsd"}, {"cram": "cbam"}], ids=str)
@pytest.mark.parametrize(("layout", "prefix"), [("nhwc", 0), ("tokens", 0), ("tokens", 1), ("tokens", 5)])
def test_the_layout_of_the_backbone_changes_nothing(layout, prefix, options):
    one, other = small(**options).double(), small(layout, prefix, **options).double()
    assert {(stage.layout, stage.prefix_tokens, stage.grid) for stage in other.stages} == {(layout, prefix, (6, 8))}
    found = other.load_state_dict(one.state_dict(), strict=False)
    assert not found.unexpected_keys and all("token" in key or "extra" in key for key in found.missing_keys)
    images = photos(dtype=torch.float64)
    (loss, gradients, after), (other_loss, other_gradients, other_after) = step(one, images), step(other, images)
    assert loss == pytest.approx(other_loss, rel=1e-10)
    assert all(not other_gradients[name].any() for name in set(other_gradients) - set(gradients))
    same(gradients, {name: other_gradients[name] for name in gradients}, rtol=1e-7, atol=1e-10)
    same(after, {name: other_after[name] for name in after}, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(one.eval().predict(images), other.eval().predict(images), rtol=1e-6, atol=1e-8)


def test_prefix_tokens_stay_as_they_are_and_patches_are_suppressed():
    network = small("tokens", 5, omega=1.0, delta=0.3).eval()  # every channel of every patch becomes 0
    module, images, before, after = network.backbone, photos(), [], []
    plain = detach(copy.deepcopy(network))
    plain.first.register_forward_hook(lambda *call: before.append(call[2]))
    module.first.register_forward_hook(lambda *call: after.append(call[2]))
    plain(images), network(images)
    assert torch.equal(after[0][:, :5], before[0][:, :5]) and before[0][:, :5].any()
    assert not after[0][:, 5:].any() and before[0][:, 5:].any()


# The backbone


def test_detach_gives_back_the_module_as_it_was():
    module, images = Small("tokens", 2), photos()
    module.second.conv.bias.requires_grad_(False)  # frozen by its owner
    module.third.eval()
    module.fc.weight.requires_grad_(False)
    state, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    flags = [parameter.requires_grad for parameter in module.parameters()]
    output, generator = module(images), torch.get_rng_state()
    network = attach(module, STAGES, 3, out_channels=8, reduction=4)
    assert network.backbone is module and list(module.state_dict()) == list(state)
    assert not torch.equal(torch.get_rng_state(), generator)  # the new layers draw theirs; nothing else is random
    assert [part.training for part in module.modules()] == modes
    assert not module.fc.bias.requires_grad and module.embed.weight.requires_grad
    network(images)
    assert detach(network) is module
    assert torch.equal(module(images), output)
    assert [parameter.requires_grad for parameter in module.parameters()] == flags
    same(module.state_dict(), state, rtol=0, atol=0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    refused("attach the backbone anew", network, images, error=RuntimeError)
    assert detach(network) is module  # a second time changes nothing
    assert attach(module, STAGES, 3, out_channels=8, reduction=4)(images).stage_logits.shape == (4, 3, 3)


def test_the_users_own_hooks_stay_and_work():
    module, calls = Small(), []
    module.first.register_forward_hook(lambda *call: calls.append(1))
    network = attach(module, STAGES, 3, out_channels=8, reduction=4)
    del calls[:]
    network(photos())
    detach(network)(photos())
    assert len(calls) == 2 and len(module.first._forward_hooks) == 1


def test_what_no_stage_depends_on_is_not_trained_until_detach():
    class Branches(Small):
        def forward(self, images):
            self.side(self.embed(images))  # a stage that nothing follows
            return super().forward(images)

    module = Branches()
    module.side = nn.Conv2d(16, 16, 1)
    network = attach(module, ("side", *STAGES), 3, out_channels=8, reduction=4)
    assert network.unused == ("fc.weight", "fc.bias")
    _, gradients, _ = step(network, photos())
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert set(gradients) == trained
    assert "backbone.side.weight" in trained and "backbone.fc.weight" not in trained


@pytest.mark.parametrize("training", [True, False])
def test_device_dtype_and_mode_are_the_modules(training):
    module = Small().double().train(training)
    network = attach(module, STAGES, 3, out_channels=8, reduction=4)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert {part.training for part in network.modules()} == {training}
    with torch.device("meta"):
        module = Small("nhwc")
    network = attach(module, STAGES, 3, out_channels=8, reduction=4)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network(torch.empty(2, 3, 24, 32, device="meta")).overall_logits.shape == (2, 3)


@pytest.mark.parametrize("cram", ["cram", "cbam", None])
def test_backbones_that_work_in_place_get_the_same_gradients(cram):
    networks = [small(cram=cram), small(cram=cram)]
    networks[1].load_state_dict(networks[0].state_dict())
    networks[0].backbone.between, networks[1].backbone.between = F.relu, F.relu_
    images = photos()
    one, other = (step(network, images) for network in networks)
    assert one[0] == other[0]
    same(one[1], other[1], rtol=0, atol=0)


# Training


def test_trains_with_the_projects_own_loss_and_learning_rates():
    network, images = small(head="linear"), photos()
    recipe = Recipe.quick("birds", lr_backbone=0.03, lr_cram=0.02, lr_heads=0.01)
    groups = parameter_groups(network, recipe)
    assert [name for name, _ in network.named_children()] == ["backbone", "cram", "smram", "heads", "overall_head"]
    assert [group["lr"] for group in groups] == [0.03, 0.02, 0.03, 0.01, 0.01]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    classifier = network.backbone.fc.weight.clone()
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
    losses = []
    for _ in range(12):
        loss, _ = total_loss(network.train()(images), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(network.backbone.fc.weight, classifier)  # weight decay has not touched it
    log = look(network, images)
    assert len(log["suppressed"]) == len(log["entropy"]) == 3 and 0 <= log["overlap"] <= 1


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "tokens"])
def test_activation_checkpointing_changes_nothing(layout):
    network = small(layout, cram="cram")
    twin = copy.deepcopy(network)
    twin.backbone.call = lambda stage, x: checkpoint(stage, x, use_reentrant=False)
    images = photos()
    ran = []
    twin.backbone.second.register_forward_pre_hook(lambda *call: ran.append(1))
    for _ in range(2):
        one, other = step(network, images), step(twin, images)
        assert one[0] == other[0]
        same(one[1], other[1], rtol=0, atol=0)
        same(one[2], other[2], rtol=0, atol=0)  # running statistics count each batch once
    assert len(ran) == 4  # each stage did run a second time, in the backward pass
    assert torch.equal(twin.eval().predict(images), network.eval().predict(images))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_of_the_kind_that_cuts_gradients_off_is_refused():
    network = small()
    network.backbone.call = lambda stage, x: checkpoint(stage, x, use_reentrant=True)
    refused("'first' runs without gradients.*use_reentrant must be False", network, photos(), error=RuntimeError)
    network.eval().predict(photos())  # where no gradient is asked for it may


def test_a_stage_that_is_gone_around_or_runs_twice_is_named():
    network = small()
    network.backbone.call = lambda stage, x: stage.forward(x) if stage is network.backbone.second else stage(x)
    refused("^second did not run", network, photos(), error=RuntimeError)
    network = small()
    network.backbone.call = lambda stage, x: stage(stage(x)[:, :16] if stage is network.backbone.first else x)
    refused("'first' ran twice", network, photos(), error=RuntimeError)
    network.backbone.call = plainly
    assert network(photos()).stage_logits.shape == (4, 3, 3)  # nothing is left over from the pass that failed


def test_the_backbone_called_by_itself_hands_suppressed_maps_on_and_leaves_statistics_alone():
    network, images = small(omega=1.0, delta=0.3).train(), photos()
    state = copy.deepcopy(network.state_dict())
    suppressed = network.backbone(images)
    same(network.state_dict(), state, rtol=0, atol=0)
    plain = detach(copy.deepcopy(network))
    assert not torch.allclose(plain(images), suppressed)


@pytest.mark.parametrize("layout", ["nchw", "tokens"])
def test_compiles_to_one_graph(layout):
    torch._dynamo.reset()
    network, images = small(layout, 2 if layout == "tokens" else 0), photos()
    expected = step(copy.deepcopy(network), images)
    twin = copy.deepcopy(network)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    loss, _ = total_loss(compiled(images), LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(expected[0], rel=1e-6)
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    same(expected[1], gradients, rtol=1e-4, atol=1e-6)
    same(expected[2], twin.state_dict(), rtol=1e-5, atol=1e-6)
    assert isinstance(twin, Attached) and not torch.equal(detach(twin)(images), torch.zeros(4, 7))


WORKER = """
import copy, os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from test_attach import LABELS, photos, same, small, step
torch.set_num_threads(1)
torch.manual_seed(0)
network = small("tokens", 1, head="linear")
images = photos()
# DDP averages gradients over processes; BatchNorm sees each process' own images.
halves = [step(copy.deepcopy(network), images[rank::2], LABELS[rank::2]) for rank in range(2)]
expected = {name: (halves[0][1][name] + halves[1][1][name]) / 2 for name in halves[0][1]}

def work(rank):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=2)
    wrapped = DistributedDataParallel(network)
    for _ in range(2):  # the second pass stops where parameters got no gradient in the first
        loss, gradients, _ = step(wrapped, images[rank::2], LABELS[rank::2])
    same({f"module.{name}": value for name, value in expected.items()}, gradients, rtol=1e-4, atol=1e-6)
    dist.destroy_process_group()
    os.write(1, f"agreed {rank}\\n".encode())  # one piece: print writes the end of a line by itself

mp.start_processes(work, nprocs=2, start_method="fork")
"""


def test_distributed_training_averages_the_gradients_of_two_processes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "store")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["0", "1", "agreed", "agreed"]


# Copies, files, threads


def test_a_deep_copy_is_a_network_of_its_own():
    network, images = small().eval(), photos()
    expected = network.predict(images)
    twin = copy.deepcopy(network)
    assert torch.equal(twin.predict(images), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(network.predict(images), expected) and not torch.equal(twin.predict(images), expected)
    twin = copy.deepcopy(network)
    for cram in network.cram:
        cram.omega, cram.delta = 1.0, 0.3
    assert torch.equal(twin.predict(images), expected) and not torch.equal(network.predict(images), expected)
    # the copy's backbone is in its own hands, in a pass of the network and outside of one
    suppressed = network.backbone(images)
    plain = detach(network)
    assert not torch.allclose(plain(images), suppressed)
    assert torch.equal(twin.predict(images), expected)
    detach(twin)


def test_goes_through_files_whole_or_as_a_state_dict(tmp_path):
    network, images = small("tokens", 1).eval(), photos()
    expected = network.predict(images)
    torch.save(network.state_dict(), tmp_path / "state.pt")
    other = small("tokens", 1).eval()
    assert not torch.equal(other.predict(images), expected)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.predict(images), expected)
    torch.save(network, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(whole.predict(images), expected)
    with torch.no_grad():
        network.cram[0].conv_layer[0].weight.zero_()
    assert torch.equal(whole.predict(images), expected)
    assert torch.equal(detach(whole)(images), detach(other)(images))


def in_two_threads(networks, batches):
    """Predictions made at the same time: each waits for the other after its first stage."""
    barrier, found = threading.Barrier(2, timeout=60), [None, None]
    for network in set(networks):
        network.backbone.between = lambda x: (barrier.wait(), x)[1]

    def work(index):
        found[index] = networks[index].predict(batches[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_one_network_predicts_in_two_threads_at_once():
    network, batches = small().eval(), [photos(), photos()]
    expected = [network.predict(images) for images in batches]
    found = in_two_threads([network, network], batches)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def replica(network, scale):
    """What DataParallel makes of a network for one device: shallow copies with the same hooks and their own tensors."""
    copies = {module: module._replicate_for_data_parallel() for module in network.modules()}
    for module, twin in copies.items():
        for name, child in module._modules.items():
            twin._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            setattr(twin, name, None if parameter is None else parameter.detach() * scale)
    return copies[network]


def test_replicas_that_share_their_hooks_use_their_own_weights():
    network, batches = small().eval(), [photos(), photos()]
    expected = []
    for scale, images in zip((1.0, 1.5), batches, strict=True):
        alone = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter.mul_(scale)
        expected.append(alone.predict(images))
    found = in_two_threads([replica(network, 1.0), replica(network, 1.5)], batches)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


# Refusals


def test_images_of_another_size_are_refused_where_the_grid_is_fixed():
    network = small("tokens", 1)
    refused(r"\(24, 32\) pixels.*\(32, 24\).*image_size", network, photos(2, (32, 24)))
    assert small("nchw")(photos(2, (40, 24))).stage_logits.shape == (2, 3, 3)
    # dropped patches, say: not a grid any more
    network.backbone.call = lambda stage, x: stage(x)[:, :-3] if stage is network.backbone.first else stage(x)
    with pytest.raises(RuntimeError):
        network(photos())


def test_attaching_twice_is_refused():
    network = small()
    refused("Small has CRAM attached already: detach", attach, network.backbone, STAGES, 3)
    refused("attached already", attach, nn.Sequential(network.backbone), ("0.first",), 3)
    refused("attached already", attach, network, ("backbone.first",), 3)


def test_detach_takes_what_attach_returned_only():
    refused("got Small .*\\.module.*_orig_mod", detach, Small())
    refused("got CRASMRA", detach, CRASMRA("resnet10", 3, out_channels=8))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": "IMAGENET1K_V1"}, "weights is for CRASMRA's own backbones"),
        ({"final_norm": False}, "final_norm is for CRASMRA's own backbones"),
        ({"stages": "first"}, "different names, got 'first'"),
        ({"stages": ()}, "one or more different names"),
        ({"stages": ("first", "first")}, "different names"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"omega": 1.5}, r"omega must lie in \[0, 1\]"),
        ({"reduction": 21}, "between 1 and the 20 channels"),
        ({"pooling": "most"}, "pooling must be"),
    ],
)
def test_bad_options_leave_the_module_alone(options, match):
    module = Small()
    refused(match, attach, module, **({"stages": STAGES, "num_classes": 3} | options))
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(TypeError, match="omgea"):
        attach(module, STAGES, 3, omgea=0.5)
