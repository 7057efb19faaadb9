"""The environment, the package as others install it, and what must or must not stand in the files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Every file of the project that is tracked or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def occurrences(files: list[Path], text: str) -> list[str]:
    """Return the file and line of every occurrence of a text; binary files are read as they are."""
    found = []
    for path in files:
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            found += [f"{path.relative_to(ROOT)}:{number}"] * line.lower().count(text.lower().encode())
    return found


# --- environment


def test_conda_asks_for_the_same_as_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    assert sorted(packages["pip"]) == sorted({*PROJECT["dependencies"], *extras, "--editable ."})


def test_torch_is_never_pinned():
    wanted = [item for item in PROJECT["dependencies"] if item.startswith("torch")]
    assert len(wanted) == 3
    assert all("==" not in item and "<" not in item for item in PROJECT["dependencies"])


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split()
    shown = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\w+) +\S", shown, re.MULTILINE) == sorted(targets, key=targets.index)


def make_env(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Try to make the environment in a folder that has nothing but the Makefile and pyproject.toml."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").write_text("[project]\nthis is no TOML\n", encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTHON"))}
    command = ["make", "env", f"PYTHON={python}"]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)


def pretender(folder: Path, patch: str) -> str:
    """Write an interpreter that runs ``patch`` before what it is given with -c."""
    path = folder / "pretender"
    program = f"import sys; {patch}; exec(sys.argv[2])"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("sys.version_info = (3, 10, 2); sys.version = '3.10.2 (main)'", "needs Python 3.11 or newer"),
        ("sys.modules['ensurepip'] = None", "has no venv module"),
    ],
)
def test_unsuitable_python_is_refused_in_one_line(tmp_path, patch, message):
    result = make_env(tmp_path, pretender(tmp_path, patch))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / ".venv").exists()


def test_missing_python_is_named(tmp_path):
    result = make_env(tmp_path, "python-that-is-not-there")
    assert result.returncode != 0
    assert "python-that-is-not-there is not there" in result.stderr


def test_failed_install_leaves_no_stamp(tmp_path):
    result = make_env(tmp_path, sys.executable)
    assert result.returncode != 0
    assert (tmp_path / ".venv" / "bin" / "python").exists()
    assert not list((tmp_path / ".venv").glob(".installed*"))


def test_ci_runs_book_and_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "make html" in lines and "make test" in lines


# --- the package as others install it


@pytest.fixture(scope="module")
def wheel(files, tmp_path_factory) -> Path:
    """The wheel, built from a copy: setuptools leaves a build folder, which the next wheel would swallow."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in files:
        if "_static" not in path.parts:
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_the_package_and_nothing_else(wheel, files):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = [path.relative_to(ROOT).as_posix() for path in files if ROOT / "cra_smra" in path.parents]
    results = "cra_smra/results/"
    wanted = {
        name
        for name in package
        if name.endswith((".py", "/py.typed")) or name.startswith(results)
    }
    assert "cra_smra/py.typed" in names
    assert names == wanted


def test_wheel_works_in_an_empty_folder(wheel, tmp_path):
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", target]
    subprocess.run([*install, wheel], check=True)
    program = "import cra_smra; print(cra_smra.__file__); cra_smra.CRAM(32)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()) == target / "cra_smra" / "__init__.py"
    assert (target / "bin" / "cra-smra").exists()


# --- what stands in the files


def test_address_of_the_repository_stands_once(files):
    """Except in the install cell of each chapter, which test_book.py compares with pyproject.toml."""
    address = PROJECT["urls"]["Repository"].removeprefix("https://")
    found = [place.split(":")[0] for place in occurrences(files, address)]
    chapters = [name for name in found if re.fullmatch(r"book/[0-9]{2}_\w+\.(md|ipynb)", name)]
    assert len(chapters) == len(set(chapters))
    assert sorted(set(found) - set(chapters)) == ["pyproject.toml"], found
    assert found.count("pyproject.toml") == 1


# Written in two pieces, so that this file does not contain what it looks for.
@pytest.mark.parametrize(
    "text",
    ["/work" + "/", "/root" + "/", "site" + "-packages/", "pypi" + ".org", "pytorch.org" + "/whl"],
)
def test_no_file_names_a_machine_or_a_registry(files, text):
    assert occurrences(files, text) == []
