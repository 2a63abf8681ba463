import json
from pathlib import Path

import pytest
import torch

from hopscotch.intervals import Interval, Units, share_interval
from hopscotch.report.collect import Evaluation
from hopscotch.report.findings import find_warnings, no_better, overfitting, warnings_so_far
from hopscotch.report.run_folder import RunFolder
from hopscotch.types import Primary, SkipTrace
from tests.hand_made import jump_trace, make_evaluation, make_trace, stride_trace


def evaluate(trace: SkipTrace) -> Evaluation:
    """All clips are of one class; only the first is wrong."""
    clips = torch.arange(len(trace.strides))
    return make_evaluation(trace, predictions=(clips < 1).long(), labels=0 * clips)


def test_a_policy_that_takes_one_route_is_called_constant() -> None:
    constant = make_trace(strides=torch.full((4, 3), 2), entropy=0.1)
    (warning,) = find_warnings(evaluate(constant), decides=True, floor=0.5)
    assert warning.startswith("constant policy: 100% of the test clips take the same route")
    assert find_warnings(evaluate(constant), decides=False, floor=1.0) == []  # a fixed pattern is meant to be constant
    assert find_warnings(evaluate(jump_trace()), decides=True, floor=0.5) == []


def test_a_healthy_run_has_no_warning_whether_its_routes_are_many_or_its_gate_chooses() -> None:
    strides = 1 + torch.arange(20)[:, None] // torch.tensor([4, 2, 1])  # of every clip its own
    assert find_warnings(evaluate(make_trace(strides=strides)), decides=True, floor=0.5) == []
    one_route = make_trace(strides=torch.full((4, 3), 2), open_rate=torch.full((4, 3), 0.4))
    assert find_warnings(evaluate(one_route), decides=True, floor=0.5) == []


def test_a_run_that_was_stopped_early_is_not_judged() -> None:
    constant = make_trace(strides=torch.full((4, 3), 2), open_rate=torch.zeros(4, 3))
    given = {"decides": True, "floor": 0.5, "target": 0.7}
    assert len(find_warnings(evaluate(constant), **given)) == 5  # constant, over budget, three dead gates
    assert find_warnings(evaluate(constant), **given, early=True) == []
    assert len(find_warnings(evaluate(constant), **given, early=True, validated=False)) == 1


@pytest.mark.parametrize(("target", "is_missed"), [(0.65, False), (0.69, False), (0.71, True), (0.59, True)])
def test_a_missed_budget_is_named_with_its_figures(target: float, is_missed: bool) -> None:
    """The trace costs 0.65, within 0.002; a tenth of the reachable range [0.5, 1] is 0.05."""
    many = evaluate(stride_trace()).select(torch.arange(4).repeat(5000))
    warnings = find_warnings(many, decides=True, floor=0.5, target=target)
    assert [warning.startswith("budget missed: test clips use 0.650") for warning in warnings] == [True] * is_missed


def test_a_budget_that_a_handful_of_clips_misses_by_chance_is_not_missed() -> None:
    few = evaluate(stride_trace())  # of 0.65, within 0.13
    assert find_warnings(few, decides=True, floor=0.5, target=0.8) == []
    (warning,) = find_warnings(few, decides=True, floor=0.5, target=0.85)
    assert warning.startswith("budget missed")


def test_a_run_that_never_validated_says_so_instead() -> None:
    (warning,) = find_warnings(evaluate(stride_trace()), decides=True, floor=0.5, target=0.71, validated=False)
    assert warning.startswith("not validated: decisions meet their budget")


def test_dead_and_saturated_gates_are_named_with_their_layer() -> None:
    rates = torch.tensor([[0.0, 0.5, 1.0]] * 4)
    dead, saturated = find_warnings(evaluate(make_trace(open_rate=rates)), decides=False, floor=0.5)
    assert dead.startswith("layer 0 has a dead gate")
    assert saturated.startswith("layer 2 has a saturated gate")


def test_over_fitting_is_named() -> None:
    (warning,) = overfitting(Primary("acc", larger_is_better=True), 0.99, 0.75, "test")
    assert warning.startswith("over-fitting: acc is 0.990 on training clips and 0.750 on test clips")
    assert overfitting(Primary("acc", larger_is_better=True), 0.84, 0.75, "test") == []
    assert overfitting(Primary("acc", larger_is_better=True), None, 0.75, "test") == []


def test_an_error_that_is_larger_on_test_clips_is_over_fitting_too() -> None:
    (warning,) = overfitting(Primary("mae", larger_is_better=False), 2.0, 3.5, "test")
    assert warning.startswith("over-fitting: mae is 2.000 on training clips and 3.500 on test clips")
    assert overfitting(Primary("mae", larger_is_better=False), 3.5, 2.0, "test") == []


ROUTES = {"policy/routes": 4.0, "policy/common_routes": 4.0, "policy/top_route": 0.3}
CONSTANT = {"policy/routes": 2.0, "policy/common_routes": 1.0, "policy/top_route": 0.95}


@pytest.mark.parametrize(
    ("logged", "words"),
    [
        (CONSTANT, "so far: constant policy: 95% of the validation clips take the same route"),
        ({**CONSTANT, "gate/open_rate/layer_03": 0.5}, None),
        ({"gate/open_rate/layer_03": 0.001}, "so far: layer 3 has a dead gate: it opens for 0.1%"),
        ({"gate/open_rate/layer_03": 0.999}, "so far: layer 3 has a saturated gate: it is open for 99.9%"),
        ({"train/acc": 0.9, "val/acc": 0.7}, "so far: over-fitting: acc is 0.900 on training clips and 0.700"),
        ({"train/acc": 0.9, "val/acc": 0.85, **ROUTES, "gate/open_rate/layer_03": 0.5}, None),
        ({"policy/routes": 1.0}, None),  # of an older version, which logged no more of its routes
    ],
)
def test_a_run_on_its_way_is_judged_by_the_same_rules(
    tmp_path: Path, logged: dict[str, float], words: str | None
) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 9, "epoch": 0, "val/loss": 1.0, **logged}) + "\n")
    (tmp_path / "config.yaml").write_text("task: {_target_: hopscotch.training.classify.ClassificationTask}")
    found = warnings_so_far(RunFolder(tmp_path))
    assert [words in warning for warning in found if words] == [True] * (words is not None)
    assert len(found) == (words is not None)
    assert warnings_so_far(RunFolder(tmp_path / "none")) == []


def test_a_model_that_says_the_commonest_class_of_every_clip_is_named() -> None:
    clips = torch.arange(100) // 97
    trace = make_trace(strides=torch.full((100, 3), 2))
    always = make_evaluation(trace, predictions=0 * clips, labels=clips)
    assert no_better(always, 0.97, "common") == ["no better than always saying 'common' (0.970)."]
    assert no_better(always, 0.96, "common") == []


def test_a_gap_that_a_handful_of_clips_has_by_chance_is_no_over_fitting() -> None:
    share = Primary("acc", larger_is_better=True)
    assert overfitting(share, 0.49, 1 / 3, "test", sure(4, 12)) == []
    (warning,) = overfitting(share, 0.49, 1 / 3, "test", sure(400, 1200))
    assert warning.startswith("over-fitting")
    assert len(overfitting(share, 0.99, 0.5, "test", sure(6, 12))) == 1
    by_speaker = share_interval([True] * 400 + [False] * 800, Units.of([f"speaker: {i // 400}" for i in range(1200)]))
    assert overfitting(share, 0.49, 1 / 3, "test", by_speaker) == []


def sure(right: int, count: int) -> Interval:
    return share_interval([True] * right + [False] * (count - right), Units.of([None] * count))
