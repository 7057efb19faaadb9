from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import refused
from cra_smra import bench
from cra_smra.cli import main
from cra_smra.data import Split
from cra_smra.data.cache import Cached
from cra_smra.data.make import make
from cra_smra.data.photographs import Photographs
from cra_smra.data.transforms import STATISTICS, crop_and_flip, normalise, resize_and_crop


@pytest.mark.parametrize("size", [448, 96])
def test_all_ways_of_loading_show_the_same_picture(tmp_path, size):
    listing = bench.draw_photographs(tmp_path, 3)
    plain = Split(Photographs(listing), range(3), resize_and_crop(size, train=False))
    cached = Split(Cached(listing, size, tmp_path / "cache"), range(3), crop_and_flip(size, train=False))
    deviation = torch.tensor(STATISTICS["imagenet"][1]).view(3, 1, 1)
    for i in range(3):
        picture = Image.open(listing.folder / listing.paths[i]).convert("RGB")
        reference = bench.v1_chain(size, train=False)(picture)  # (3, S, S), normalised
        assert reference.shape == (3, size, size)
        assert torch.equal(plain[i][0], cached[i][0])
        apart = (normalise(cached[i][0][None])[0] - reference) * deviation * 255  # grey levels
        assert apart.abs().mean() < 0.5 and apart.abs().max() < 4
        turned = (normalise(cached[i][0].flip(-1)[None])[0] - reference) * deviation * 255
        assert turned.abs().mean() > 10


def test_drawn_photographs_are_like_those_of_cub(tmp_path):
    listing = bench.draw_photographs(tmp_path, 4)
    sizes = [(tmp_path / path).stat().st_size for path in listing.paths]
    assert all(85_000 < size < 110_000 for size in sizes)  # 1,150,585,339 bytes / 11,788 images = 97,606
    assert Image.open(tmp_path / listing.paths[0]).size == (500, 375)
    assert len({(tmp_path / path).read_bytes() for path in listing.paths}) == 4


def test_training_batches_of_every_chain(tmp_path):
    listing = bench.draw_photographs(tmp_path, 3)
    steps = [type(step).__name__ for step in bench.v1_chain(64).transforms]
    assert steps == ["Resize", "RandomCrop", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    chains = bench.data_chains(listing, 64, tmp_path / "cache")
    kinds = {name: (load([0, 2]).shape, load([1]).dtype) for name, load in chains.items()}
    assert {shape for shape, _ in kinds.values()} == {(2, 3, 64, 64)}
    assert {name for name, (_, dtype) in kinds.items() if dtype == torch.uint8} == {"without cache", "with cache"}
    for load in chains.values():
        assert len({load([0]).numpy().tobytes() for _ in range(8)}) > 2  # cropped and not only flipped at random


def test_a_summary_by_hand():
    found = bench.summary([0.1, 0.4, 0.2], [0.8, 1.6, 1.2], images=100)
    assert found["ms_per_image"] == pytest.approx(2)
    assert found["ms_per_image_range"] == pytest.approx([1, 4])
    assert found["images_per_s"] == pytest.approx(500)
    assert found["times_faster"] == pytest.approx(6)  # the median of 8, 4 and 6, not 1.2 / 0.2
    assert found["times_faster_range"] == pytest.approx([4, 8])


def test_chains_are_measured_in_turn_and_every_image_once(monkeypatch):
    calls, clock = [], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def chain(name, cost):
        def load(indices):
            calls.append((name, indices))
            clock[0] += cost * len(indices)
        return load

    seconds = bench.in_turn({"a": chain("a", 1), "b": chain("b", 3)}, number=5, batch_size=2, repeats=2)
    assert seconds == {"a": [5, 5], "b": [15, 15]}
    batches = [[0, 1], [2, 3], [4]]
    assert calls == [(name, batch) for _ in range(3) for name in "ab" for batch in batches]


def test_the_command_prints_a_table_and_keeps_the_numbers(tmp_path, capsys):
    root = make("folder", tmp_path, num_classes=2, train_per_class=3, test_per_class=1, size=80)
    out = tmp_path / "data.json"
    before = torch.get_num_threads()
    main(["bench", "data", "--name", "folder", "--root", str(root), "--images", "5", "--batch-size", "2",
          "--image-size", "64", "--repeats", "2", "--out", str(out)])
    assert torch.get_num_threads() == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 images of") and "one process with one thread" in lines[0]
    found = json.loads(out.read_text())
    assert found["device"]["threads"] == 1 and found["versions"]["torch"] and "commit" in found
    assert found["images"] == 5 and found["dataset"] == "folder"
    for name, row in found["chains"].items():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert f"{row['ms_per_image']:.3f} ms" in line
        assert ("times as fast" in line) == (name != bench.REFERENCE)
        assert row["times_faster_range"][0] <= row["times_faster"] <= row["times_faster_range"][1]
    assert np.isclose(found["chains"][bench.REFERENCE]["times_faster"], 1)


def test_bad_numbers_are_refused():
    refused("repeats must be at least 1, got 0", bench.bench_data, repeats=0)
    refused("images must be at least 1, got -3", bench.bench_data, images=-3)
    refused("its root, or neither", bench.bench_data, "cub")
    refused("its root, or neither", bench.bench_data, None, "somewhere")
    refused("got 'birds'", bench.bench_data, "birds", "somewhere")
