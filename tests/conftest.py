from __future__ import annotations

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
