"""Every network of the table: the stages are there, the changed map flows on, and detaching leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cra_smra import attach, detach
from cra_smra.architectures import ARCHITECTURES, table
from cra_smra.losses import total_loss
from cra_smra.stages import as_size, check_stages, dry_run, find_stage

NEEDS = {"torchvision": "torchvision", "timm": "timm", "lite": "efficientnet_lite_pytorch"}
every_row = pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda row: f"{row.source}-{row.name}", indirect=True)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settle(module, images):
    """Give BatchNorm the statistics of these images: with those it starts with, deep networks return almost zeros."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return module


class Case:
    """A network of the table on small images: its features before anything was attached, and the network attached."""

    def __init__(self, row):
        pytest.importorskip(NEEDS[row.source])
        torch.manual_seed(0)
        self.row, self.size = row, 56 if "patch14" in row.name else 64
        self.images = torch.randn(2, 3, self.size, self.size)
        self.module = settle(row.build(self.size), self.images).eval()
        self.state = copy.deepcopy(self.module.state_dict())
        self.hooks = self.count_hooks()
        self.clean = []  # what each stage returned
        handles = [
            self.module.get_submodule(name).register_forward_hook(lambda *call: self.clean.append(call[2].clone()))
            for name in row.stages
        ]
        with torch.no_grad():
            self.output = self.module(self.images)
        for handle in handles:
            handle.remove()
        self.network = attach(self.module, row.stages, 5, image_size=self.size, out_channels=16)

    def count_hooks(self):
        return [len(part._forward_hooks) for part in self.module.modules()]

    def set(self, stage, omega, delta):
        self.network.cram[stage].omega, self.network.cram[stage].delta = omega, delta

    def seen(self):
        """What each CRAM gets and what each stage then returns, in evaluation mode."""
        maps, returned = [], []
        parts = [self.module.get_submodule(name) for name in self.row.stages]
        handles = [cram.register_forward_pre_hook(lambda _, a: maps.append(a[0].clone())) for cram in self.network.cram]
        handles += [part.register_forward_hook(lambda *call: returned.append(call[2].clone())) for part in parts]
        with torch.no_grad():
            self.network.eval()(self.images)
        for handle in handles:
            handle.remove()
        return maps, returned

    def as_map(self, output, stage):
        """(B, C, H, W) from a stage's output, written out a second time."""
        if self.row.layout == "nhwc":
            return output.movedim(3, 1)
        if self.row.layout == "tokens":
            grid = output[:, self.row.prefix_tokens :].reshape(2, *self.network.stages[stage].grid, -1)
            return grid.movedim(3, 1)
        return output


@pytest.fixture(scope="module")
def case(request):
    return Case(request.param)


@every_row
def test_layout_channels_and_grid_are_found(case):
    stages, row = case.network.stages, case.row
    assert [stage.name for stage in stages] == list(row.stages)
    assert {(stage.layout, stage.prefix_tokens) for stage in stages} == {(row.layout, row.prefix_tokens)}
    assert tuple(stage.channels for stage in stages) == row.channels
    assert [gate.gate.mlp.fc1.in_channels for gate in case.network.cram] == list(row.channels)
    if row.layout == "tokens":  # timm says itself how many tokens come before the patches; torchvision has one
        assert row.prefix_tokens == getattr(case.module, "num_prefix_tokens", 1)
        assert {stage.grid for stage in stages} == {(4, 4)}
    else:
        assert [stage.grid for stage in stages] == [(8, 8), (4, 4), (2, 2)]  # strides 8, 16 and 32


@every_row
def test_without_suppression_the_features_are_the_untouched_networks(case):
    for omega, delta in ((0.0, 0.3), (1.0, 1.0)):
        for stage in range(3):
            case.set(stage, omega, delta)
        maps, returned = case.seen()
        for stage in range(3):
            assert torch.equal(maps[stage], case.as_map(case.clean[stage], stage))
            assert torch.equal(returned[stage], case.clean[stage])
        with torch.no_grad():
            assert torch.equal(case.module(case.images), case.output)


@every_row
def test_the_changed_map_flows_on(case):
    for stage in range(3):
        case.set(stage, 0.0, 0.3)
    before = case.network.eval().predict(case.images)
    case.set(0, 1.0, 0.3)  # all channels of the first stage become 0
    maps, returned = case.seen()
    assert torch.equal(maps[0], case.as_map(case.clean[0], 0))
    assert not case.as_map(returned[0], 0).any()
    if case.row.layout == "tokens":
        count = case.row.prefix_tokens
        assert torch.equal(returned[0][:, :count], case.clean[0][:, :count])
    for stage in (1, 2):
        change = (maps[stage] - case.as_map(case.clean[stage], stage)).abs().max()
        assert change > 1e-3 * case.clean[stage].abs().max()
    assert not torch.allclose(case.network.predict(case.images), before, atol=1e-6)


@every_row
def test_evaluation_does_not_use_smram(case):
    before = case.network.eval().predict(case.images)
    assert case.network(case.images).diversity_loss is None
    smram, case.network.smram = case.network.smram, None
    assert torch.equal(case.network.predict(case.images), before)
    case.network.smram = smram


@every_row
def test_a_step_of_training_reaches_every_parameter_that_is_trained(case):
    for stage in range(3):
        case.set(stage, 0.5, 0.9)
    case.network.train()
    output = case.network(case.images)
    assert output.stage_logits.shape == (2, 3, 5) and output.overall_logits.shape == (2, 5)
    assert 0 <= output.diversity_loss.item() <= 2 / 3 + 1e-6
    loss, _ = total_loss(output, torch.tensor([1, 4]))
    loss.backward()
    named = dict(case.network.named_parameters())
    assert [name for name, p in named.items() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in named.values() if p.requires_grad)
    # what is not trained is the classifier and nothing near a stage
    still = [name for name, p in named.items() if not p.requires_grad]
    assert all(any(word in name for word in ("fc", "classifier", "head")) for name in still), still
    for p in named.values():
        p.grad = None


@every_row
def test_detaching_gives_the_untouched_network_back(case):
    assert list(case.network.backbone.state_dict()) == list(case.state)
    case.module.load_state_dict(case.state)  # the training step changed running statistics
    assert detach(case.network) is case.module
    assert case.count_hooks() == case.hooks
    assert all(parameter.requires_grad for parameter in case.module.parameters())
    with torch.no_grad():
        assert torch.equal(case.module.eval()(case.images), case.output)
    state = case.module.state_dict()
    assert list(state) == list(case.state) and all(torch.equal(state[key], case.state[key]) for key in state)


SIBLINGS = [(row, name) for row in ARCHITECTURES for name in row.siblings]


@pytest.mark.parametrize(("row", "name"), SIBLINGS, ids=lambda value: value if isinstance(value, str) else value.source)
def test_siblings_have_the_same_stages(row, name):
    pytest.importorskip(NEEDS[row.source])
    if name.startswith("regnet"):  # torchvision computes its widths with tensors
        network = row.build(name=name)
    else:
        with torch.device("meta"):
            network = row.build(name=name)
    size = as_size(network, None)
    outputs, _ = dry_run(network, size)
    check_stages(network, row.stages, outputs)
    stages = [find_stage(network, stage, outputs, size) for stage in row.stages]
    assert {(stage.layout, stage.prefix_tokens) for stage in stages} == {(row.layout, row.prefix_tokens)}
    if row.layout != "tokens":
        assert [size[0] // stage.grid[0] for stage in stages] == [8, 16, 32]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "swin_t", "vit_b_16"])
def test_what_runs_after_the_last_stage_is_less_than_three_percent_of_the_arithmetic(name):
    row = next(row for row in ARCHITECTURES if row.name == name and row.source == "torchvision")
    with torch.device("meta"):
        network, images = row.build(), torch.empty(1, 3, 224, 224)
    after = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.get_submodule(row.stages[-1]).register_forward_hook(lambda *_: after.append(counter.get_total_flops()))
        network.eval()(images)
    assert 0.97 < after[0] / counter.get_total_flops() < 1


def test_the_table_has_the_families_and_is_markdown():
    lines = table().splitlines()
    assert len(lines) == 2 + len(ARCHITECTURES) and len({line.count("|") for line in lines}) == 1
    for family in ("resnet", "densenet", "convnext", "efficientnet", "mobilenet", "regnet", "swin", "vit"):
        assert {"torchvision", "timm"} <= {row.source for row in ARCHITECTURES if row.name.startswith(family)}, family
    assert "`features.3`, `features.5`, `norm` | nhwc | 192, 384, 768 |" in table()
    assert isinstance(ARCHITECTURES[0].build(), nn.Module)
