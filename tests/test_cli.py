from __future__ import annotations

import pytest

from cra_smra.cli import COMMANDS, main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        main(list(arguments))
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_every_command(capsys):
    code, output, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"\n  {command} " in output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    code, output, _ = run(capsys, command, "--help")
    assert code == 0 and f"cra-smra {command}" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fly"], "unknown command 'fly'; there are train, eval"),
        (["data", "get", "cars", "x"], "Stanford Cars cannot be downloaded by a program"),
        (["data", "get", "folder", "x"], "cannot be downloaded by a program"),
        (["data", "make", "cub", "x", "--num-classes", "61"], "num_classes must be from 2 to 60, got 61"),
        (["train", "cars", "--root", "x", "--out", "y"], "there is no folder x"),
        (["eval", "nowhere"], "nowhere is not a run directory"),
        (["train", "birds", "--omega", "1.5", "--out", "x"], "omega must lie in [0, 1], got 1.5"),
        (["train", "birds", "--delta", "0", "--out", "x"], "delta must lie in (0, 1], got 0"),
        (["train", "birds", "--num-classes", "1", "--out", "x"], "got 1"),
        (["train", "birds", "--epochs", "0", "--out", "x"], "epochs must be at least 1, got 0"),
        (["train", "birds", "--weights", "IMAGENET1K_V1", "--out", "x"], "weights for resnet10 must be None"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_leaves_nothing(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    code, output, errors = run(capsys, *arguments)
    assert code != 0 and output == ""
    assert expected in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_refused(capsys):
    code, _, errors = run(capsys, "train", "birds", "--wings", "2")
    assert code == 2 and "wings" in errors


def test_evaluation_prints_every_accuracy(capsys, trained):
    code, output, _ = run(capsys, "eval", str(trained))
    assert code == 0
    for words in ("mean of softmax", "sum of logits", "stage 3", "stage 4", "stage 5", "joint", "24 images"):
        assert words in output




def test_a_set_is_made_and_a_training_on_it_ends_with_its_accuracies(capsys, tmp_path):
    code, output, _ = run(capsys, "data", "make", "dogs", str(tmp_path), "--num-classes", "2", "--train-per-class", "5")
    assert code == 0 and output.strip() == str(tmp_path / "StanfordDogs")
    fast = "--backbone resnet10 --weights None --image-size 64 --epochs 1 --batch-size 4 --workers 0"
    arguments = ["dogs", "--root", str(tmp_path), "--out", str(tmp_path / "run"), *fast.split()]
    code, output, _ = run(capsys, "train", *arguments)
    assert code == 0 and "8 images" in output and "joint" in output
    paper = [*arguments[:4], str(tmp_path / "paper"), *fast.split(), "--protocol", "paper"]
    code, output, _ = run(capsys, "train", *paper)
    assert code == 0 and "upper bound, best test epoch" in output
    code, output, _ = run(capsys, "eval", str(tmp_path / "run"), str(tmp_path / "paper"))
    assert code == 0 and [line.split(":")[0] for line in output.splitlines()][1:3] == ["clean", "paper"]
    assert "points" in output.splitlines()[-1]
