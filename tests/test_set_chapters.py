"""The chapters of the four data sets: the commands that they print, and what they have to say."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from cra_smra.cli import main
from cra_smra.data.make import MADE

BOOK = Path(__file__).resolve().parents[1] / "book"
CHAPTERS = {"cub": "07_cub", "aircraft": "08_aircraft", "cars": "09_cars", "dogs": "10_dogs"}
every_set = pytest.mark.parametrize("name", CHAPTERS)


def calls(name: str, folder: Path) -> list[str]:
    """The arguments of every cra-smra that the chapter's shell blocks call, as bash takes them apart."""
    text = (BOOK / f"{CHAPTERS[name]}.md").read_text()
    stand_in = folder / "bin" / "cra-smra"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\necho "$*" >> {folder / "calls"}\n')
    stand_in.chmod(0o755)
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        environment = {"PATH": f"{stand_in.parent}:/usr/bin:/bin"}
        subprocess.run(["bash", "-euc", block], cwd=folder, env=environment, check=True)
    return (folder / "calls").read_text().splitlines()


@every_set
def test_every_command_of_a_chapter_is_understood(name, tmp_path, monkeypatch, capsys):
    """With nothing there, each fails for want of a folder or a run, not for its options."""
    found = calls(name, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for call in found:
        if call.startswith("data get"):  # would download
            assert call.split()[2] in MADE
            continue
        with pytest.raises(SystemExit) as stop:
            main(call.split())
        said = "".join(capsys.readouterr())
        assert stop.value.code == 1 and re.search("there is no folder data|is not a run directory", said), (call, said)
        assert not list(empty.iterdir())
    trained = [set(re.findall(r"--(?:backbone|protocol) (\S+)", call)) for call in found if call.startswith("train")]
    assert all(call.startswith(f"train {name} ") for call in found if call.startswith("train"))
    wanted = [set(pair) for pair in product(("resnet50", "resnet101", "densenet161"), ("clean", "paper"))]
    assert len(trained) == 6 and all(pair in trained for pair in wanted)
    outs = [call.split("--out ")[1] for call in found if call.startswith("train")]
    assert len(set(outs)) == 6
    assert "data check data" in found
    assert f"eval runs/{name}-resnet50-clean runs/{name}-resnet50-paper" in found


@every_set
def test_a_chapter_shows_the_set_its_cost_and_the_paper_beside_ours(name):
    text = (BOOK / f"{CHAPTERS[name]}.md").read_text()
    for call in (f'make("{name}"', 'check("data"', f'budget_table("{name}")', f'paper_beside_ours("{name}")'):
        assert call in text
    assert "annotated_pictures(" in text
    assert "**What it shows.**" in text and "**What it does not show.**" in text
    assert f"cra_smra/results/{name}/" in text


def test_wherever_dogs_are_measured_the_overlap_is_said():
    text = (BOOK / "10_dogs.md").read_text()
    first, summary = text.index("comes from ImageNet"), text.index("## Summary")
    assert first < text.index("```{code-cell}") and "ImageNet" in text[summary : text.index("## Exercises")]
