"""Records join over seeds and speakers, the Pareto set is what nothing beats, a search has one honest score."""

import json
from operator import attrgetter
from pathlib import Path

import pytest

from hopscotch.report.records import (
    FAILED,
    SLACK,
    Record,
    group_records,
    make_record,
    pareto,
    points_of,
    read_records,
    score_of,
    spread_of,
    time_measured,
)
from hopscotch.report.summary import Status, write_summary


def job(value: float, macs: float = 2e6, *, model: str = "m", words: tuple[str, ...] = (), **facts) -> Record:
    given = {"seed": "0", "speaker": "", "fit_seconds": 5.0, **facts}
    return Record(Path("f"), model, overrides=words, status="finished", value=value, macs=macs, **given)


def write_run(folder: Path, *words: str, acc: float = 0.9, macs: float = 2e6, status: Status = "finished") -> None:
    """A run folder as scripts/study.py leaves it."""
    given = dict(word.split("=") for word in words)
    write_summary(
        folder,
        status=status,
        model=given.get("model", "dense"),
        seed=int(given.get("seed", 0)),
        test={"acc": acc},
        compute={"fraction": 0.5, "macs": macs, "dense_macs": 4e6, "floor": 0.4},
        seconds={"total": 10.0, "fit": 8.0, "to_first_step": 1.0, "test_clip": 0.002},
    )
    (folder / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))


def test_a_point_is_in_the_pareto_set_when_none_is_as_good_for_less() -> None:
    costs, accuracies = [1.0, 2.0, 2.0, 3.0, 4.0], [0.5, 0.7, 0.6, 0.7, 0.8]
    assert pareto(costs, accuracies) == [True, True, False, False, True]


def test_equal_points_are_both_in_the_pareto_set() -> None:
    assert pareto([1.0, 1.0, 1.0], [0.5, 0.5, 0.4]) == [True, True, False]
    assert pareto([], []) == []


def test_the_pareto_set_is_that_of_the_slow_definition() -> None:
    costs = [(7 * i * i + 3) % 11 for i in range(40)]
    accuracies = [(5 * i * i * i + i) % 13 for i in range(40)]
    beaten = {
        i
        for i in range(40)
        for j in range(40)
        if costs[j] <= costs[i]
        and accuracies[j] >= accuracies[i]
        and (costs[j] < costs[i] or accuracies[j] > accuracies[i])
    }
    assert pareto(costs, accuracies) == [i not in beaten for i in range(40)]


def test_the_spread_is_that_over_seeds_and_not_over_speakers() -> None:
    jobs = [
        job(value, seed=seed, speaker=speaker)
        for value, seed, speaker in ((0.9, "0", "easy"), (0.5, "0", "hard"), (0.96, "1", "easy"), (0.56, "1", "hard"))
    ]
    spread = spread_of(jobs, attrgetter("value"))
    assert spread is not None
    assert (spread.mean, spread.low, spread.high) == pytest.approx((0.73, 0.70, 0.76))
    assert spread.deviation == pytest.approx(0.06 / 2**0.5)


def test_the_interval_is_that_over_folds(tmp_path: Path) -> None:
    for fold, acc in (("1", 0.7), ("2", 0.8), ("3", 0.75)):
        write_run(tmp_path / fold, "model=dense", "seed=0", f"data.fold={fold}", acc=acc)
    (one,) = group_records(points_of(read_records(tmp_path)))
    assert one.runs == {("0", "fold 1"), ("0", "fold 2"), ("0", "fold 3")}
    half = 4.303 * 0.05 / 3**0.5  # Student's with two degrees of freedom, deviation 0.05
    assert one.value.mean == pytest.approx(0.75)
    assert one.value.interval == f"{0.75 - half:.4f} to {0.75 + half:.4f}"
    assert spread_of(one.records[:1], attrgetter("value")).interval == ""  # type: ignore[union-attr]


def test_a_seed_that_lacks_a_speaker_counts_in_the_mean_and_not_in_the_spread() -> None:
    jobs = [
        job(value, seed=seed, speaker=speaker)
        for value, seed, speaker in ((0.9, "0", "easy"), (0.5, "0", "hard"), (0.96, "1", "easy"))
    ]
    spread = spread_of(jobs, attrgetter("value"))
    assert spread is not None
    assert spread.mean == pytest.approx((0.93 + 0.5) / 2)
    assert spread.deviation is None


def test_groups_join_seeds_and_speakers_and_come_cheapest_first() -> None:
    found = group_records(
        [
            job(0.9, 3e6, model="big", seed="0"),
            job(0.8, 1e6, model="small", words=("a=1",), speaker="lucas"),
            job(0.6, 1e6, model="small", words=("a=1",), speaker="theo"),
            job(0.65, 2e6, model="small", words=("a=2",)),
        ]
    )
    assert [(group.name, group.value.mean, "macs_m" in group.best_by) for group in found] == [
        ("small, a 1", pytest.approx(0.7), True),
        ("small, a 2", 0.65, False),
        ("big", 0.9, True),
    ]
    assert found[0].runs == {("0", "lucas"), ("0", "theo")}


def test_a_study_is_read_with_its_other_budgets_and_baselines_by_their_kind(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "model=ls", "seed=0", "data.test_speaker=lucas", "data.root=x", "experiment=e", acc=0.9)
    write_run(tmp_path / "b", "baseline=depth_3", "seed=0", "data.test_speaker=lucas", acc=0.8, macs=1e6)
    write_run(tmp_path / "c", "model=ls", "seed=1", status="failed")
    clean = {"acc": 0.85, "macs": 1.5e6, "fraction": 0.3}
    (tmp_path / "a" / "report").mkdir()
    budgets = json.dumps({"time_fraction": 0.8, "budgets": [{"level": 0.2, "clean": clean, "time_fraction": 0.6}]})
    (tmp_path / "a" / "report" / "decision_value.json").write_text(budgets)
    found = group_records(points_of(read_records(tmp_path)))
    assert [(group.model, group.name, group.spreads["macs_m"].mean, group.value.mean) for group in found] == [
        ("baseline: depth", "depth_3", 1.0, 0.8),
        ("ls", "ls, at_budget 0.2", 1.5, 0.85),
        ("ls", "ls, at_budget as trained", 2.0, 0.9),
    ]
    milliseconds = [group.spreads["clip_ms"].mean if "clip_ms" in group.spreads else None for group in found]
    assert milliseconds == pytest.approx([2.0, 1.5, 2.0])  # the budget in the middle takes 0.6 / 0.8 of the last one's


def test_time_is_that_of_a_test_clip_and_of_training_where_a_run_does_not_know_it() -> None:
    new, old = job(0.9, model="new", clip_ms=2.0), job(0.8, model="old")
    assert [time_measured(group_records(jobs)) for jobs in ((new,), (new, old))] == ["clip_ms", "fit_seconds"]
    slow = job(0.9, 1e6, model="slow", fit_seconds=1.0, clip_ms=3.0)
    assert ["clip_ms" in group.best_by for group in group_records([slow, new])] == [False, True]


def test_where_smaller_is_better_the_pareto_set_has_the_smallest() -> None:
    assert pareto([1.0, 2.0, 3.0], [0.5, 0.6, 0.4], larger_is_better=False) == [True, False, True]
    small, large = (job(v, m, model=str(v), metric="wer", larger_is_better=False) for v, m in ((0.3, 2e6), (0.4, 3e6)))
    assert [(group.metric, "macs_m" in group.best_by) for group in group_records([large, small])] == [
        ("wer", True),
        ("wer", False),
    ]


def test_a_record_has_the_primary_metric_of_its_task_and_accuracy_where_none_is_named() -> None:
    primary = {"name": "mae", "larger_is_better": False, "val": 0.25, "test": 0.5}
    record = make_record(Path("f"), [], {"status": "finished", "test": {"loss": 1.0}, "primary": primary}, "")
    assert (record.metric, record.value, record.larger_is_better, record.score) == ("mae", 0.5, False, 1 / 1.25)
    assert make_record(Path("f"), [], {"test": {"acc": 0.7}}, "").value == 0.7
    assert make_record(Path("f"), [], {"test": {"loss": 0.7}}, "").value is None


def score(value: float | None, fraction: float | None, target: float | None, **summary: object) -> float:
    """Score a run whose kept epoch had this metric and this compute fraction on the validation clips."""
    kept = {"epoch": 1, "step": 8, "monitor": "val/loss", "value": 0.4, "compute_fraction": fraction}
    primary = {"name": "acc", "larger_is_better": True, "val": value, "test": 0.123}
    given = {"status": "finished", "kept": kept, "primary": primary, "compute": {"target": target}}
    return score_of({**given, **summary})


def test_a_search_goes_by_the_validation_metric_and_never_by_the_test() -> None:
    assert score(0.7, 0.7, 0.7) == 0.7
    assert score(0.9, 1.0, None) == score(0.9, None, 0.5) == 0.9  # no target to keep, or nothing known of its compute


def test_more_compute_than_the_target_scores_below_zero_by_how_much_more() -> None:
    near, far = score(0.99, 0.75, 0.7), score(0.99, 0.95, 0.7)
    assert (near, far) == (pytest.approx(-(0.05 - SLACK)), pytest.approx(-(0.25 - SLACK)))
    assert FAILED < far < near < 0 <= score(0.0, 0.7 + SLACK / 2, 0.7)


def test_a_smaller_error_scores_higher() -> None:
    errors = [{"name": "mae", "larger_is_better": False, "val": value, "test": None} for value in (0.1, 0.5, 20.0)]
    scores = [score(None, 0.5, 0.7, primary=primary) for primary in errors]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0


def test_a_run_that_failed_or_never_validated_scores_lowest() -> None:
    assert score(0.9, 1.0, None, status="failed") == score(None, 0.5, None) == score(float("nan"), 0.5, None) == FAILED
    assert score_of({"status": "finished"}) == score_of({"status": "finished", "kept": None, "primary": None}) == FAILED
