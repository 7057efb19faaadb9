from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cra_smra import Recipe


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """Sums depend on the number of threads; the values that tests compare must not."""
    torch.set_num_threads(2)


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


@pytest.fixture
def open_folder():
    """A folder that everybody may enter; the folders above ``tmp_path`` are for its owner alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
