"""The cache of decoded photographs: the same pixels as without it, and what may go wrong with a file of gigabytes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from collections import namedtuple
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest
from torch.utils.data import DataLoader

from conftest import refused
from cra_smra import Recipe, load_dataset, train
from cra_smra.cli import main
from cra_smra.data.cache import Cached, find_or_make
from cra_smra.data.make import MADE, make
from cra_smra.data.photographs import Listing, Photographs
from cra_smra.data.transforms import resize
from cra_smra.runs import read_checkpoint

FAST = {"image_size": 64, "backbone": "resnet10", "weights": None, "out_channels": 32, "epochs": 2, "batch_size": 4,
        "workers": 0}
SIDE = 79  # 64 * 550 / 448
FORK = multiprocessing.get_context("fork")


def photographs(folder: Path, number: int = 5, side: int = 40, copies: int = 1, suffix: str = "png") -> Listing:
    """Noise in image files, each in as many copies."""
    folder.mkdir()
    paths = []
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side + 7, 3), dtype=np.uint8)
        paths.append(f"{i}.{suffix}")
        Image.fromarray(pixels).save(folder / paths[-1])
        for j in range(copies - 1):
            os.link(folder / f"{i}.{suffix}", folder / f"{i}-{j}.{suffix}")
            paths.append(f"{i}-{j}.{suffix}")
    return Listing(folder, tuple(paths), torch.arange(len(paths)) % 2, ("a", "b"))


def expected(listing: Listing, size: int = 64) -> torch.Tensor:
    """What the cache must hold, taken from the files."""
    return torch.stack([resize(size)(image) for image, _ in Photographs(listing)])


def content(cached: Cached) -> torch.Tensor:
    return torch.stack([cached[i][0] for i in range(len(cached))])


def files(folder: Path, pattern: str = "*.uint8") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def child(function, *arguments) -> multiprocessing.Process:
    """A process of its own that does something; a fork, since importing torch anew would take longer than all else."""

    def alone():
        torch.set_num_threads(1)  # the threads of the process before are not in the fork
        function(*arguments)

    process = FORK.Process(target=alone)
    process.start()
    return process


@contextmanager
def as_nobody():
    """Inside the block even root has no more rights than anybody."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions of this kind are not known here")
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


# --- the same images


@pytest.mark.parametrize("name", MADE)
def test_every_set_is_the_same_with_and_without_a_cache(tmp_path, name):
    root = make(name, tmp_path, num_classes=3, train_per_class=4, test_per_class=2, size=72)
    plain = Recipe(dataset=name, root=str(root), **FAST)
    cached = replace(plain, cache=str(tmp_path / "cache"))
    for split in ("test", "val", "train"):
        one, other = plain.load(split), cached.load(split)
        assert isinstance(other.base, Cached) and not isinstance(one.base, Cached)
        assert (len(one), one.classes, one.class_to_idx) == (len(other), other.classes, other.class_to_idx)
        assert one.fingerprint == other.fingerprint and one.base.part_names == other.base.part_names
        assert torch.equal(one.targets, other.targets)
        for field in ("boxes", "part_locations"):
            values = getattr(one, field)
            assert getattr(other, field) is None if values is None else torch.equal(values, getattr(other, field))
        one.seed_draws(5)
        other.seed_draws(5)
        for (image, label), (kept, kept_label) in zip(one, other, strict=True):
            assert kept.dtype == torch.uint8 and kept.shape == (3, 64, 64)
            assert torch.equal(image, kept) and label == kept_label and type(label) is type(kept_label)
        assert other.base[0][0].shape == (3, SIDE, SIDE)
    everything = replace(cached, protocol="paper").load("train")
    assert torch.equal(everything.base[0][0], resize(64)(Photographs(everything.base.listing)[0][0]))
    own_validation = name in ("folder", "groceries") and cached.load("val").base.file != everything.base.file
    assert len(files(tmp_path / "cache")) == 2 + own_validation  # "train" serves both protocols and their "val"


def test_training_with_a_cache_and_with_processes_that_load_gives_the_same_network(tmp_path):
    root = make("cub", tmp_path, num_classes=3, train_per_class=6, test_per_class=2, size=72)
    plain = Recipe(dataset="cub", root=str(root), method="plain", **FAST)
    cached = replace(plain, cache=str(tmp_path / "cache"), workers=2)
    runs = [train(recipe, tmp_path / name, progress=False) for name, recipe in (("plain", plain), ("cached", cached))]
    one, other = (read_checkpoint(run / "checkpoints" / "last.pt")["model"] for run in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    predictions = [np.load(run / "predictions.npz")["overall_logits"] for run in runs]
    assert np.array_equal(*predictions)
    plain_rows, cached_rows = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs
    )
    assert [row["loss"] for row in plain_rows] == [row["loss"] for row in cached_rows]


def test_levels_of_aircraft_share_the_pixels_and_not_the_labels(tmp_path):
    root = make("aircraft", tmp_path, num_classes=6, train_per_class=2, test_per_class=1, size=64)
    options = {"cache": tmp_path / "cache", "image_size": 64, "protocol": "paper"}
    variant, family = (load_dataset("aircraft", root, **options, level=level) for level in ("variant", "family"))
    assert variant.base.file == family.base.file and len(files(tmp_path / "cache")) == 1
    assert variant.classes != family.classes and not torch.equal(variant.targets, family.targets)
    banner = load_dataset("aircraft", root, **options, banner=True)
    assert banner.base.file != variant.base.file and not torch.equal(banner[0][0], variant[0][0])
    assert load_dataset("aircraft", root, **(options | {"image_size": 80}))[0][0].shape == (3, 98, 98)


def test_it_travels_to_other_processes_without_its_pixels(tmp_path):
    listing = photographs(tmp_path / "images", number=40)
    cached = Cached(listing, 64, tmp_path / "cache")
    want = expected(listing)
    assert torch.equal(cached[3][0], want[3])  # mapped now
    sent = pickle.dumps(cached)
    assert len(sent) < 20_000 < cached.file.stat().st_size
    assert torch.equal(content(pickle.loads(sent)), want)
    batches = list(DataLoader(cached, 7, num_workers=2))
    assert torch.equal(torch.cat([images for images, _ in batches]), want)
    assert torch.equal(torch.cat([labels for _, labels in batches]), listing.targets)


def test_an_image_belongs_to_who_asked_for_it(tmp_path):
    cached = Cached(photographs(tmp_path / "images"), 64, tmp_path / "cache")
    cached[2][0].zero_()
    assert cached[2][0].float().mean() > 50
    assert torch.equal(cached[-1][0], cached[4][0])
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"index {index} is outside a set of 5 images"):
            cached[index]


def test_birds_have_nothing_to_cache(tmp_path):
    refused("birds are drawn, not decoded", Recipe.quick(cache=str(tmp_path / "c")).load, "train")
    assert not (tmp_path / "c").exists()


# --- what is noticed


def test_an_image_is_read_again_only_when_it_may_have_changed(tmp_path, monkeypatch):
    listing = photographs(tmp_path / "images")
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(Path(file.name).name) or
                        digest(file, kind))
    file = Cached(listing, 64, tmp_path / "cache").file
    assert sorted(read) == sorted(listing.paths)
    before = file.stat()
    read.clear()
    assert Cached(listing, 64, tmp_path / "cache").file == file and read == []
    os.utime(tmp_path / "images" / "3.png")
    assert Cached(listing, 64, tmp_path / "cache").file == file and read == ["3.png"]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    read.clear()
    Cached(listing, 64, tmp_path / "cache")
    assert read == []  # the new time was noted


def test_a_changed_image_leads_to_a_new_file_and_the_old_one_goes(tmp_path):
    listing = photographs(tmp_path / "images", suffix="bmp")
    one, two = tmp_path / "images" / "1.bmp", tmp_path / "images" / "2.bmp"
    old = Cached(listing, 64, tmp_path / "cache")
    first, before = content(old), two.stat()
    two.write_bytes(one.read_bytes())
    os.utime(two, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same size, and made to look as old
    assert (two.stat().st_size, two.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    new = Cached(listing, 64, tmp_path / "cache")
    assert new.file != old.file and files(tmp_path / "cache") == [new.file.name]
    assert torch.equal(content(new), expected(listing)) and torch.equal(content(new)[2], first[1])
    assert torch.equal(content(old), first)  # a training that goes on keeps what it has mapped


def test_a_file_is_kept_while_another_place_of_the_same_images_uses_it(tmp_path):
    listing = photographs(tmp_path / "images")
    shutil.copytree(tmp_path / "images", tmp_path / "moved")
    moved = replace(listing, folder=tmp_path / "moved")
    old = Cached(listing, 64, tmp_path / "cache")
    assert Cached(moved, 64, tmp_path / "cache").file == old.file
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "2.png")
    new = Cached(listing, 64, tmp_path / "cache")
    assert files(tmp_path / "cache") == sorted([old.file.name, new.file.name])
    assert torch.equal(content(Cached(moved, 64, tmp_path / "cache")), expected(moved))


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone"])
def test_a_file_of_another_length_is_made_again(tmp_path, damage):
    listing = photographs(tmp_path / "images")
    file = Cached(listing, 64, tmp_path / "cache").file
    whole = file.read_bytes()
    assert len(whole) == 5 * 3 * SIDE * SIDE
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": whole[:-1], "empty": b"", "longer": whole + b"\0"}[damage])
    assert torch.equal(content(Cached(listing, 64, tmp_path / "cache")), expected(listing))
    assert file.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "{", "\xff", "null", "{}", '{"stamps": [1], "digests": [2]}'])
def test_a_damaged_list_of_digests_is_made_again(tmp_path, text):
    listing = photographs(tmp_path / "images")
    file = Cached(listing, 64, tmp_path / "cache").file
    (index,) = (tmp_path / "cache").glob("index-*.json")
    good, before = index.read_text(), file.stat().st_mtime_ns
    index.write_text(text, encoding="latin-1")
    assert Cached(listing, 64, tmp_path / "cache").file == file
    assert index.read_text() == good and file.stat().st_mtime_ns == before


# --- what goes wrong while it is made


def test_a_broken_image_is_named_and_nothing_is_left(tmp_path):
    listing = photographs(tmp_path / "images")
    (tmp_path / "images" / "3.png").write_bytes(b"")
    threads = torch.get_num_threads()
    refused(r"3\.png is empty", Cached, listing, 64, tmp_path / "cache")
    assert torch.get_num_threads() == threads == 2  # as before, for what follows
    assert files(tmp_path / "cache", "*.*") in ([], [".lock"])


def test_images_that_change_while_they_are_read_are_refused(tmp_path):
    listing = photographs(tmp_path / "images")

    def image(i):
        if i == 4:
            os.utime(tmp_path / "images" / "1.png")
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    refused("changed while they were read", find_or_make, listing, (5, 3, 8, 8), tmp_path / "cache", image,
            error=RuntimeError)
    assert files(tmp_path / "cache", "*.*") in ([], [".lock"])


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    listing = photographs(tmp_path / "images")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 93_614, 93_614))
    refused(r"cache has 0\.00 GB free and the cache of 5 photographs needs 0\.00 GB", Cached, listing, 64,
            tmp_path / "cache", error=RuntimeError)
    assert files(tmp_path / "cache", "*.*") in ([], [".lock"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 93_615, 93_615))
    assert len(Cached(listing, 64, tmp_path / "cache")) == 5  # 5 * 3 * 79 * 79 = 93,615 bytes


def test_a_disk_that_fills_up_gives_one_line_and_leaves_nothing(tmp_path, capfd):
    root = make("cub", tmp_path, num_classes=3, train_per_class=4, test_per_class=2, size=72)
    command = ["data", "cache", "cub", str(root), "--cache", str(tmp_path / "cache"), "--image-size", "64"]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # 12 * 3 * 79 * 79 = 224,676 bytes
        main(command)

    process = child(limited)
    process.join(60)
    said = capfd.readouterr()
    assert process.exitcode == 1 and said.out == ""
    line = said.err.splitlines()[-1]  # below the progress bars
    assert line.startswith("cra-smra: the cache") and "cannot be written (File too large)" in line
    assert files(tmp_path / "cache", "*.*") in ([], [".lock"])


def test_a_folder_that_may_only_be_read(open_folder):
    listing = photographs(open_folder / "images")
    cache = open_folder / "cache"
    want = content(Cached(listing, 64, cache))
    cache.chmod(0o555)
    try:
        with as_nobody():
            assert torch.equal(content(Cached(listing, 64, cache)), want)
            text = refused("cannot be written", Cached, listing, 96, cache, error=RuntimeError)
            assert "Permission denied" in text
            refused("cannot be written", Cached, listing, 64, cache / "deeper", error=RuntimeError)
        os.utime(open_folder / "images" / "0.png")
        with as_nobody():
            assert torch.equal(content(Cached(listing, 64, cache)), want)
    finally:
        cache.chmod(0o755)
    assert len(files(cache)) == 1 and files(cache, "*.part") == []


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    listing = photographs(tmp_path / "images", number=2, side=900, copies=30)
    cache = tmp_path / "cache"
    process = child(Cached, listing, 64, cache)
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 0 for part in cache.glob("images-*.part")) and time.monotonic() < deadline:
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (part,) = cache.glob("images-*.part")
    assert 0 < part.stat().st_size < 60 * 3 * SIDE * SIDE and files(cache) == []  # in the middle of it
    part.rename(part.with_name("images-79px-of-other-contents.uint8.part"))
    cached = Cached(listing, 64, cache)
    assert torch.equal(content(cached), expected(listing))
    assert files(cache) == [cached.file.name] and files(cache, "*.part") == []


def test_two_processes_that_make_it_at_once_make_one(tmp_path):
    listing = photographs(tmp_path / "images", number=2, side=600, copies=20)
    cache, both = tmp_path / "cache", FORK.Barrier(2)

    def build(name):
        both.wait()
        torch.save(content(Cached(listing, 64, cache)), tmp_path / name)

    processes = [child(build, name) for name in ("one", "other")]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    want = expected(listing)
    assert all(torch.equal(torch.load(tmp_path / name), want) for name in ("one", "other"))
    assert len(files(cache)) == 1 and files(cache, "*.part") == []


def test_the_command_makes_it_for_all_splits(tmp_path, capsys):
    root = make("groceries", tmp_path, num_classes=3, train_per_class=4, test_per_class=2, size=72)
    command = ["data", "cache", "groceries", str(root), "--cache", str(tmp_path / "cache"), "--image-size", "64"]
    main(command)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2].partition(" ")[0] for line in lines] == ["12", "2", "6"]
    assert sorted(Path(line.partition("  ")[0]).name for line in lines) == files(tmp_path / "cache")
    times = [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()]
    recipe = Recipe(dataset="groceries", root=str(root), cache=str(tmp_path / "cache"), **FAST)
    assert [len(recipe.load(split)) for split in ("train", "val", "test")] == [12, 2, 6]
    main(command)
    assert capsys.readouterr().out.splitlines() == lines
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()] == times


# --- what is drawn for an image


def draws(seed: int | None, order: list[int], **loading) -> dict[int, list[float]]:
    """Image -> four random numbers that its transform drew."""
    split = load_dataset("birds", num_classes=2, per_class=150, size=32, protocol="paper",
                         transform=lambda image: torch.rand(4, dtype=torch.float64))
    if seed is not None:
        split.seed_draws(seed)
    if loading:
        loader = DataLoader(split, 16, sampler=order, **loading)
        return dict(zip(order, torch.cat([numbers for numbers, _ in loader]).tolist(), strict=True))
    return {i: split[i][0].tolist() for i in order}


def test_draws_depend_on_seed_and_image_alone():
    everything = draws(7, list(range(100)))
    assert draws(7, list(range(99, -1, -1))) == everything
    assert draws(7, list(range(100)), num_workers=2) == everything
    assert not set(map(tuple, draws(8, list(range(100))).values())) & set(map(tuple, everything.values()))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draws(7, [3])
    assert torch.equal(torch.get_rng_state(), state)  # what else is drawn is not disturbed
    assert draws(None, [3]) != draws(None, [3])


def test_processes_that_live_on_learn_of_the_next_epoch():
    split = load_dataset("birds", num_classes=2, per_class=150, size=32, protocol="paper",
                         transform=lambda image: torch.rand(4, dtype=torch.float64))
    split.seed_draws(1)
    loader = DataLoader(split, 50, num_workers=2, persistent_workers=True)
    for seed in (1, 2, 1):
        split.seed_draws(seed)
        found = torch.cat([numbers for numbers, _ in loader]).tolist()
        assert dict(enumerate(found)) == draws(seed, list(range(300)))


def test_draws_are_uniform_and_those_of_neighbours_unrelated():
    drawn = torch.tensor([list(draws(seed, list(range(300))).values()) for seed in range(6)])  # (epochs, images, 4)
    assert kstest(drawn.flatten(), "uniform").pvalue > 0.001
    for one, other in ((drawn[:, 1:], drawn[:, :-1]), (drawn[1:], drawn[:-1]), (drawn[..., 1:], drawn[..., :-1])):
        correlation = np.corrcoef(one.flatten(), other.flatten())[0, 1]
        assert abs(correlation) < 4 / one.numel() ** 0.5
