from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from conftest import refused, tiny
from cra_smra import evaluate, train
from cra_smra.evaluate import compare_protocols, metrics
from cra_smra.runs import read_checkpoint, read_run, write_whole


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_metrics_by_hand():
    # Two images of class 0, one of class 1; two classes, two stages.
    stage_logits = torch.tensor([[[2.0, 0.0], [0.0, 9.0]], [[2.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]])
    overall_logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = metrics(
        {
            "stage_logits": stage_logits,
            "overall_logits": overall_logits,
            "targets": torch.tensor([0, 0, 1]),
        }
    )
    # Image 0: softmax of class 0 is 0.88, 0.0001, 0.88: mean 0.587, right; summed logits 4 against 9, wrong.
    # Image 1: right by both. Image 2: class 1 has 0.73, 0.047, 0.73: mean 0.503, right; summed 3 against 2, wrong.
    assert found["accuracy"] == 1.0
    assert found["accuracy_logits"] == pytest.approx(1 / 3)
    assert found["accuracy_stages"] == pytest.approx([1.0, 1 / 3])
    assert found["accuracy_overall"] == 1.0
    assert found["images"] == 3


def test_class_mean_and_standard_error_by_hand():
    overall = torch.eye(3)[torch.tensor([0, 0, 0, 1, 2])] * 5  # predicts 0, 0, 0, 1, 2
    found = metrics(
        {
            "stage_logits": torch.zeros(5, 0, 3),
            "overall_logits": overall,
            "targets": torch.tensor([0, 0, 0, 1, 1]),
        }
    )
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["accuracy_classes"] == pytest.approx((1 + 0.5) / 2)
    assert found["standard_error"] == pytest.approx((0.8 * 0.2 / 5) ** 0.5)


def test_stored_predictions_give_the_stored_accuracy(trained):
    stored = np.load(trained / "predictions.npz")
    probabilities = np.concatenate([softmax(stored["stage_logits"]), softmax(stored["overall_logits"])[:, None]], 1)
    accuracy = (probabilities.mean(axis=1).argmax(axis=1) == stored["targets"]).mean()
    result = read_run(trained)["result"]["test"]
    assert stored["stage_logits"].shape == (24, 3, 4)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert result["accuracy_stages"][1] == pytest.approx(
        (stored["stage_logits"][:, 1].argmax(axis=1) == stored["targets"]).mean()
    )


def test_evaluating_again_gives_the_result_of_the_training(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = np.load(run / "predictions.npz")["overall_logits"]
    (run / "predictions.npz").unlink()
    assert evaluate(run) == read_run(run)["result"]["test"]
    np.testing.assert_array_equal(np.load(run / "predictions.npz")["overall_logits"], before)
    assert evaluate(run, "val")["images"] == 4
    assert (run / "predictions_val.npz").is_file()


def test_a_broken_run_directory_is_answered_with_one_line(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    checkpoint = run / "checkpoints" / "chosen.pt"
    whole = checkpoint.read_bytes()

    def message() -> str:
        with pytest.raises(ValueError) as caught:
            evaluate(run)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "chosen.pt cannot be read" in message()
    checkpoint.unlink()
    assert "there is no checkpoint" in message()
    checkpoint.write_bytes(whole)
    record = read_run(run)
    record["dataset"]["classes"][0] = "Dodo"
    (run / "run.json").write_text(json.dumps(record))
    assert "classes" in message()
    (run / "run.json").write_text("{")
    assert "not valid JSON" in message()
    (run / "run.json").unlink()
    assert "is not a run directory" in message()


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_a_file_whose_writing_fails_keeps_its_old_contents(tmp_path):
    path = tmp_path / "value"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"


def test_the_two_protocols_are_compared_on_the_same_test_images(trained, tmp_path):
    paper = train(tiny(protocol="paper"), tmp_path / "paper", progress=False)
    found = compare_protocols(trained, paper)
    rows = [json.loads(line) for line in (paper / "metrics.jsonl").read_text().splitlines()]
    by_epoch = [row["test_accuracy"] for row in rows]
    assert (found["paper"], found["best"]) == (by_epoch[-1], max(by_epoch))
    assert found["clean"] == evaluate(trained)["accuracy"] and found["images"] == 24
    assert found["gap"] == pytest.approx(max(by_epoch) - found["clean"])
    assert found["selection"] == pytest.approx(max(by_epoch) - by_epoch[-1]) and found["selection"] >= 0
    assert found["paper_epoch"] == 3
    refused("was trained by protocol paper", compare_protocols, paper, trained)
    refused("was trained by protocol clean", compare_protocols, trained, trained)
    other = shutil.copytree(paper, tmp_path / "other")
    record = read_run(other)
    record["recipe"]["epochs"] = 4
    record["recipe"]["workers"] = 3
    (other / "run.json").write_text(json.dumps(record))
    assert "differ in epochs:" in refused("only the protocol may differ", compare_protocols, trained, other)
    record["status"] = "running"
    (other / "run.json").write_text(json.dumps(record))
    refused("is not finished", compare_protocols, trained, other)
