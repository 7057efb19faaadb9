from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cra_smra import Recipe


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """Sums depend on the number of threads; the values that tests compare must not."""
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small work: two threads on a busy machine are ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def chromium(profile: Path) -> list[str]:
    """The command of a browser without a window and without network; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs chromium, which is not installed")
    command = [program, "--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    return command + ["--no-sandbox"] * (os.getuid() == 0)


def tiny(**changes) -> Recipe:
    """A run of a few seconds."""
    small = {
        "num_classes": 4,
        "train_per_class": 12,
        "test_per_class": 6,
        "image_size": 64,
        "batch_size": 8,
        "out_channels": 32,
        "epochs": 3,
        "difficulty": "easy",
    }
    return Recipe.quick("birds", **(small | changes))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run directory of the tiny recipe; tests only read it."""
    from cra_smra import train

    return train(tiny(), tmp_path_factory.mktemp("runs") / "tiny", progress=False)


def refused(match: str, function, *arguments, error: type[Exception] = ValueError, **options) -> str:
    """The one line with which a call is refused; ``match`` must be found in it."""
    with pytest.raises(error, match=match) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert caught.type is error and "\n" not in text and len(text) > 20, text
    return text


def luma(image: torch.Tensor) -> torch.Tensor:
    """The grey (H, W) of an image (3, H, W), as ITU-R 601 weighs the colours."""
    return (image.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)


@contextmanager
def without_rights(path: Path):
    """Inside the block a file or folder may not be read, not even by root, who becomes nobody for as long."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions of this kind are not known here")
    mode, is_root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Inside the block no file can grow beyond ``limit`` bytes: a write fails as on a full disk, after a part of it."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def open_folder():
    """A folder that everybody may enter; the folders above ``tmp_path`` are for its owner alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def made_sets(tmp_path_factory) -> dict[str, Path]:
    """A small copy of every set of photographs; tests only read them."""
    from cra_smra.data.make import MADE, make

    small = {"num_classes": 3, "train_per_class": 6, "test_per_class": 3, "size": 64}
    return {name: make(name, tmp_path_factory.mktemp(name), **small) for name in MADE}


@pytest.fixture
def copy_of(made_sets, tmp_path):
    """A function: name of a set -> the root of a copy to break, below which nothing else lies."""
    return lambda name: Path(shutil.copytree(made_sets[name], tmp_path / "root" / made_sets[name].name)).parent


def images(name: str, root: Path, split: str = "train") -> list[Path]:
    """The files of a split, in the order of its listing."""
    from cra_smra.data import READERS

    listing = READERS[name](root, split)
    return [listing.folder / path for path in listing.paths]


def pick(name: str, root: Path, split: str, label: int, number: int = 1) -> Path:
    """An image of a class; number 0 is the odd one of many a class."""
    from cra_smra.data import READERS

    targets = READERS[name](root, split).targets.tolist()
    return [path for path, target in zip(images(name, root, split), targets, strict=True) if target == label][number]
