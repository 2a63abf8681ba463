"""What a search goes by."""

import json
from pathlib import Path
from typing import Any

import pytest

from hopscotch.report.score import FAILED, SLACK, read_score, score_of


def score(run: Path, *epochs: tuple[float, float, float], target: float | None, **summary: Any) -> float:
    """Of a run that had these losses, accuracies and compute fractions on its validation clips."""
    lines = [{"step": 0, "train/loss": 0.1}]
    lines += [{"step": 1, "val/loss": loss, "val/acc": acc, "val/compute_fraction": part} for loss, acc, part in epochs]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    compute = {"fraction": 0.1} if target is None else {"fraction": 0.1, "target": target}
    return score_of(run, {"status": "finished", "test": {"acc": 0.123}, "compute": compute, **summary})


def test_it_is_the_validation_accuracy_of_the_epoch_that_is_kept_and_never_the_tests(tmp_path: Path) -> None:
    assert score(tmp_path, (0.5, 0.8, 0.7), (0.4, 0.7, 0.7), (0.6, 0.9, 0.7), target=0.7) == 0.7


def test_more_compute_than_the_target_scores_below_zero_by_how_much_more(tmp_path: Path) -> None:
    near = score(tmp_path, (0.4, 0.99, 0.75), target=0.7)
    far = score(tmp_path, (0.4, 0.99, 0.95), target=0.7)
    assert (near, far) == (pytest.approx(-(0.05 - SLACK)), pytest.approx(-(0.25 - SLACK)))
    assert FAILED < far < near < 0 <= score(tmp_path, (0.4, 0.0, 0.7 + SLACK / 2), target=0.7)


def test_a_model_without_decisions_has_no_target_to_keep(tmp_path: Path) -> None:
    assert score(tmp_path, (0.4, 0.9, 1.0), target=None) == 0.9


def test_a_run_that_failed_or_never_validated_scores_lowest(tmp_path: Path) -> None:
    assert score(tmp_path, (0.4, 0.9, 1.0), target=None, status="failed") == FAILED
    assert score(tmp_path, target=None) == FAILED
    assert score_of(tmp_path / "none", {"status": "finished"}) == FAILED
    assert read_score(tmp_path) is None
