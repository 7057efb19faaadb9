"""Fine-grained visual classification with CRAM and SMRAM."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cra_smra.attach import attach, detach
    from cra_smra.cram import CRAM
    from cra_smra.data import load_dataset
    from cra_smra.evaluate import evaluate
    from cra_smra.model import CRASMRA
    from cra_smra.predict import Classifier
    from cra_smra.recipes import Recipe
    from cra_smra.smram import SMRAM
    from cra_smra.train import train

# Each public name and its room, imported when the name is first asked for: the command line answers before torch is
# there, and who takes CRAM alone does not wait for the rest.
ROOMS = {
    "CRAM": "cram",
    "CRASMRA": "model",
    "SMRAM": "smram",
    "Classifier": "predict",
    "Recipe": "recipes",
    "attach": "attach",
    "detach": "attach",
    "evaluate": "evaluate",
    "load_dataset": "data",
    "train": "train",
}
__all__ = [
    "CRAM",
    "CRASMRA",
    "SMRAM",
    "Classifier",
    "Recipe",
    "attach",
    "detach",
    "evaluate",
    "load_dataset",
    "train",
]


class _Package(ModuleType):
    """The import system binds a room to its name here once it is loaded; where a function has the same name as its
    room, the name is the function's.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if ROOMS.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
