"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cra_smra

SOURCE = Path(cra_smra.__file__)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_public_names_are_listed_once_for_people_and_once_for_type_checkers():
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    typed = {alias.name: node.module.removeprefix("cra_smra.") for node in block.body for alias in node.names}
    assert typed == cra_smra.ROOMS and sorted(cra_smra.__all__) == sorted(cra_smra.ROOMS)
    assert set(cra_smra.__all__) <= set(dir(cra_smra))


def test_every_public_name_is_a_function_or_class_from_its_room():
    for name, room in cra_smra.ROOMS.items():
        value = getattr(cra_smra, name)
        assert callable(value) and value.__module__.startswith(f"cra_smra.{room}")


@pytest.mark.parametrize("name", [name for name, room in cra_smra.ROOMS.items() if name == room])
@pytest.mark.parametrize(
    "first", ["import cra_smra.{0}", "from cra_smra.{0} import {0} as other", "from cra_smra import {0}", "pass"]
)
def test_a_function_called_as_its_room_is_the_function_in_whatever_order_they_are_imported(name, first):
    code = f"{first.format(name)}\nimport cra_smra\nfrom cra_smra import {name}\n"
    assert python(code + f"print(callable({name}), {name} is cra_smra.{name})") == "True True"


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'fly'"):
        _ = cra_smra.fly
    with pytest.raises(ImportError):
        from cra_smra import fly  # noqa: F401


def test_the_list_of_commands_is_printed_without_torch():
    code = (
        "import sys; from cra_smra.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    assert python(code).endswith("\n0 False")


def test_the_module_cram_imports_nothing_of_ours_but_itself():
    code = "import sys; from cra_smra import CRAM; print(sorted(m for m in sys.modules if m.startswith('cra_smra')))"
    assert python(code) == "['cra_smra', 'cra_smra.cram']"
