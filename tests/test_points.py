"""What is a point of the frontier, how sure it is, and which points nothing beats."""

import json
from pathlib import Path

import pytest

from hopscotch.report.jobs import Job
from hopscotch.report.points import Group, RunPoint, group_points, over_seeds, pareto, read_points, time_measured
from hopscotch.report.summary import Status, write_summary


def job(accuracy: float, macs: float = 2e6, *, model: str = "m", words: tuple[str, ...] = (), **facts) -> Job:
    given = {"seed": "0", "speaker": "", "fit_seconds": 5.0, **facts}
    return Job("f", model, overrides=words, status="finished", test_acc=accuracy, macs=macs, **given)


def grouped(*jobs: Job) -> list[Group]:
    return group_points(RunPoint(Path(job.folder), job) for job in jobs)


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
        job(0.0, seed=seed, speaker=speaker)
        for seed, speaker in (("0", "easy"), ("0", "hard"), ("1", "easy"), ("1", "hard"))
    ]
    spread = over_seeds(jobs, [0.9, 0.5, 0.96, 0.56])
    assert spread is not None
    assert (spread.mean, spread.low, spread.high) == pytest.approx((0.73, 0.70, 0.76))
    assert spread.deviation == pytest.approx(0.06 / 2**0.5)


def test_a_seed_that_lacks_a_speaker_counts_in_the_mean_and_not_in_the_spread() -> None:
    jobs = [job(0.0, seed=seed, speaker=speaker) for seed, speaker in (("0", "easy"), ("0", "hard"), ("1", "easy"))]
    spread = over_seeds(jobs, [0.9, 0.5, 0.96])
    assert spread is not None
    assert spread.mean == pytest.approx((0.93 + 0.5) / 2)
    assert spread.deviation is None


def test_groups_join_seeds_and_speakers_and_come_cheapest_first() -> None:
    found = grouped(
        job(0.9, 3e6, model="big", seed="0"),
        job(0.8, 1e6, model="small", words=("a=1",), speaker="lucas"),
        job(0.6, 1e6, model="small", words=("a=1",), speaker="theo"),
        job(0.65, 2e6, model="small", words=("a=2",)),
    )
    assert [(group.name, group.accuracy.mean, group.is_best) for group in found] == [
        ("small, a 1", pytest.approx(0.7), True),
        ("small, a 2", 0.65, False),
        ("big", 0.9, True),
    ]
    assert found[0].speakers == ["lucas", "theo"]


def test_a_study_is_read_with_budgets_asked_afterwards_and_controls_by_their_kind(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "model=ls", "seed=0", "data.test_speaker=lucas", "data.root=x", "experiment=e", acc=0.9)
    write_run(tmp_path / "b", "control=depth_3", "seed=0", "data.test_speaker=lucas", acc=0.8, macs=1e6)
    write_run(tmp_path / "c", "model=ls", "seed=1", status="failed")
    clean = {"acc": 0.85, "macs": 1.5e6, "fraction": 0.3}
    (tmp_path / "a" / "report").mkdir()
    budgets = json.dumps({"time_fraction": 0.8, "budgets": [{"reach": 0.2, "clean": clean, "time_fraction": 0.6}]})
    (tmp_path / "a" / "report" / "adaptation.json").write_text(budgets)
    found = group_points(read_points(tmp_path))
    assert [(group.model, group.name, group.macs.mean, group.accuracy.mean) for group in found] == [
        ("control: depth", "depth_3", 1.0, 0.8),
        ("ls", "ls, asked 0.2", 1.5, 0.85),
        ("ls", "ls, asked as trained", 2.0, 0.9),
    ]
    milliseconds = [group.clip_ms and group.clip_ms.mean for group in found]
    assert milliseconds == pytest.approx([2.0, 1.5, 2.0])  # the budget in the middle takes 0.6 / 0.8 of the last one's


def test_time_is_that_of_a_test_clip_and_of_training_where_a_run_does_not_know_it() -> None:
    new, old = job(0.9, model="new", clip_ms=2.0), job(0.8, model="old")
    assert [time_measured(grouped(*jobs)).of(grouped(new)[0]) for jobs in ((new,), (new, old))] == [
        grouped(new)[0].clip_ms,
        grouped(new)[0].seconds,
    ]
    slow = job(0.9, 1e6, model="slow", fit_seconds=1.0, clip_ms=3.0)
    assert [group.is_fastest for group in grouped(slow, new)] == [False, True]
