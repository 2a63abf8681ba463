"""A budget above the trained one is compared with it on the same validation clips; one that costs accuracy is named."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

from hopscotch.above import Dearer, warn_of, warn_of_budget
from hopscotch.dearer import compared, dearer_budgets, right_ones
from hopscotch.run import attempt
from hopscotch.training.calibration import Budget, budget_table, calibrate
from tests.tiny import build, tiny_config


def marks(num_right: int, of: int = 100) -> torch.Tensor:
    return torch.arange(of) < num_right


def test_a_difference_counts_from_one_standard_error_of_pairs() -> None:
    found = compared(0.9, marks(90), marks(96))
    assert found is not None
    assert (found.acc, found.trained_acc) == pytest.approx((0.90, 0.96))
    # By hand: six of 100 pairs differ by one, the mean is 0.06.
    assert found.error == pytest.approx(math.sqrt(0.06 * 0.94 / 99), rel=1e-6)
    assert found.costs_accuracy
    one = compared(0.9, marks(95), marks(96))
    assert one is not None
    assert not one.costs_accuracy  # 0.01, of an error of 0.01
    assert compared(0.9, None, marks(96)) is None
    better = compared(0.9, marks(99), marks(96))
    assert better is not None
    assert not better.costs_accuracy


def test_costly_budgets_are_named_and_others_are_not() -> None:
    fine, costly = Dearer(0.8, 0.955, 0.96, 0.01), Dearer(1.0, 0.9, 0.96, 0.01)
    assert warn_of([fine]) == []
    (warning,) = warn_of([fine, costly])
    assert warning.startswith("budgets above the trained one cost accuracy: 0.900 at 1.00 of the dense compute, 0.960")


@pytest.mark.parametrize(
    ("budget", "is_warned_of"),
    [(0.5, False), (0.7, False), (0.72, False), (0.79, False), (0.86, False), (0.94, True), (1.0, True)],
)
def test_a_budget_is_warned_of_by_the_nearest_that_the_run_measured(budget: float, is_warned_of: bool) -> None:
    fine, costly = Dearer(0.85, 0.955, 0.96, 0.01), Dearer(1.0, 0.9, 0.96, 0.01)
    table = [Budget(-4.0, 0.4), Budget(0.0, 0.7), Budget(4.0, 1.0)]
    summary = {"budgets_above": [fine._asdict(), costly._asdict()]}
    assert warn_of_budget(summary, table, 0.0, budget) == (warn_of([costly]) if is_warned_of else [])
    assert warn_of_budget(summary, table, 4.0, budget) == []  # trained for all that there is
    for unknown in ({}, {"budgets_above": None}, {"budgets_above": [{"fraction": 1.0}, "x"]}):
        assert warn_of_budget(unknown, table, 0.0, budget) == []


def test_budgets_above_the_bias_are_measured_and_the_model_stays(tones: Path, tmp_path: Path) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=skip_transformer"))
    batches = list(data.val_dataloader())
    calibrate(task.model, batches, 0.75)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    table = budget_table(task.model, batches)
    found = dearer_budgets(task, batches, table)
    assert [one.fraction for one in found] == sorted({one.fraction for one in found})
    assert found[-1].fraction == table[-1].fraction == 1.0
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    task.model.decision_bias.fill_(table[-1].bias)
    right = right_ones(task, batches)
    assert right is not None
    assert found[-1].acc == pytest.approx(float(right.double().mean()))
    assert dearer_budgets(task, batches, [Budget(-1400.0, 0.6)]) == []


def test_a_summary_holds_what_was_measured(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path / "run", "model=skip_transformer", "compute.target=0.87")
    attempt(cfg, tmp_path / "run", [], time.time(), is_job=False)
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["budgets_above"][-1]["fraction"] == pytest.approx(1.0)
    assert set(found["budgets_above"][-1]) == {"fraction", "acc", "trained_acc", "error"}
