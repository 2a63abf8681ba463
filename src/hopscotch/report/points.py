"""The points of a sweep's frontier: finished runs, at each budget they were asked for, joined over seeds and speakers.

A point that joins runs has the mean over left-out speakers of the mean over seeds. Its spread is that over seeds alone:
how much harder one speaker is than another says nothing about how sure a mean is. A seed counts in it that has run
every speaker of the point.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from hopscotch.report.jobs import HIDDEN, Job, at_budgets, label, model_shown, read_jobs, read_json


@dataclass(frozen=True)
class Spread:
    """Of one quantity over seeds."""

    mean: float
    low: float  # of the seeds
    high: float
    deviation: float | None  # None with fewer than two seeds


@dataclass(frozen=True)
class RunPoint:
    """A finished run at one budget; `job` has the figures at that budget, and what it shares with other seeds."""

    run: Path
    job: Job


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seed and left-out speaker: a point of the frontier, a row of its table."""

    model: str
    words: tuple[str, ...]  # what tells it from the groups of the same sweep
    points: tuple[RunPoint, ...]
    accuracy: Spread
    macs: Spread  # millions, per test clip
    fraction: Spread | None
    seconds: Spread | None  # of training
    clip_ms: Spread | None  # of testing, for each clip
    is_best: bool = False  # in the Pareto set of accuracy and multiply-accumulates
    is_fastest: bool = False  # in that of accuracy and `time_measured`

    @property
    def name(self) -> str:
        return label(self.words) or self.model

    @property
    def dealt(self) -> set[tuple[str, str]]:
        """The seeds and speakers that its runs were given."""
        return {(point.job.seed, point.job.speaker) for point in self.points}

    @property
    def seeds(self) -> list[str]:
        return sorted({point.job.seed for point in self.points})

    @property
    def speakers(self) -> list[str]:
        return sorted({point.job.speaker for point in self.points} - {""})


def read_points(sweep_folder: Path, jobs: Sequence[Job] | None = None) -> list[RunPoint]:
    """What finished; a run that was stopped has figures too, but of a shorter training."""
    points = []
    for job in read_jobs(sweep_folder) if jobs is None else jobs:
        if job.status == "finished" and job.test_acc is not None and job.macs is not None:
            run = sweep_folder / job.folder
            points += [RunPoint(run, at_budget) for at_budget in budgets_of(job, run)]
    return points


def budgets_of(job: Job, run: Path) -> list[Job]:
    """The run at the budget that it was trained for, then at those that `callbacks=probe` asked of it afterwards."""
    words = tuple(word for word in job.overrides if word.partition("=")[0] not in HIDDEN)
    own = replace(job, model=model_shown(job.model, job.overrides))
    found = []
    probe = read_json(run / "report" / "adaptation.json")
    for told, budget in at_budgets(words, probe):
        figures = {}
        if budget:
            clean = budget["clean"]
            figures = {"test_acc": clean["acc"], "macs": clean["macs"], "compute_fraction": clean["fraction"]}
            if job.clip_ms is not None:  # in proportion to the model's own time, which the probe took
                figures["clip_ms"] = job.clip_ms * budget["time_fraction"] / probe["time_fraction"]
        found.append(replace(own, overrides=told, **figures))
    return found


def group_points(points: Iterable[RunPoint]) -> list[Group]:
    """Cheapest first, the Pareto sets marked."""
    found: dict[tuple[str, tuple[str, ...]], list[RunPoint]] = {}
    for point in points:
        found.setdefault(point.job.group, []).append(point)
    told = {key: {f"model={key[0]}", *key[1]} for key in found}
    shared = set.intersection(*told.values()) if len(told) > 1 else set()
    groups = []
    for (model, overrides), members in found.items():
        jobs = [point.job for point in members]
        words = overrides if "control" in overrides_keys(overrides) else (f"model={model}", *overrides)
        accuracy = over_seeds(jobs, [job.test_acc for job in jobs])
        macs = over_seeds(jobs, [None if job.macs is None else job.macs / 1e6 for job in jobs])
        assert accuracy is not None
        assert macs is not None
        groups.append(
            Group(
                model=model,
                words=tuple(word for word in words if word not in shared),
                points=tuple(members),
                accuracy=accuracy,
                macs=macs,
                fraction=over_seeds(jobs, [job.compute_fraction for job in jobs]),
                seconds=over_seeds(jobs, [job.fit_seconds for job in jobs]),
                clip_ms=over_seeds(jobs, [job.clip_ms for job in jobs]),
            )
        )
    groups.sort(key=lambda group: (group.macs.mean, -group.accuracy.mean))
    best = pareto([group.macs.mean for group in groups], [group.accuracy.mean for group in groups])
    time_of = time_measured(groups).of
    timed = [(group, spread.mean) for group in groups if (spread := time_of(group)) is not None]
    costs, accuracies = [cost for _, cost in timed], [group.accuracy.mean for group, _ in timed]
    fastest = [group for (group, _), fast in zip(timed, pareto(costs, accuracies), strict=True) if fast]
    return [
        replace(group, is_best=is_best, is_fastest=group in fastest)
        for group, is_best in zip(groups, best, strict=True)
    ]


class Measure(NamedTuple):
    """Of time: what a picture calls it, and where a group has it."""

    words: str
    of: Callable[[Group], Spread | None]


def time_measured(groups: Iterable[Group]) -> Measure:
    """Of a test clip; of training where there are runs that do not know the former."""
    if all(group.clip_ms is not None for group in groups):
        return Measure("milliseconds of testing per clip", lambda group: group.clip_ms)
    return Measure("seconds of training", lambda group: group.seconds)


def overrides_keys(overrides: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in overrides}


def over_seeds(jobs: Sequence[Job], values: Sequence[float | None]) -> Spread | None:
    """See the head of this file; None where no job knows the quantity."""
    by_speaker: dict[str, list[float]] = {}
    by_seed: dict[str, dict[str, list[float]]] = {}
    for job, value in zip(jobs, values, strict=True):
        if value is not None:
            by_speaker.setdefault(job.speaker, []).append(value)
            by_seed.setdefault(job.seed, {}).setdefault(job.speaker, []).append(value)
    if not by_speaker:
        return None
    middle = mean(map(mean, by_speaker.values()))
    whole = [mean(map(mean, of.values())) for of in by_seed.values() if of.keys() == by_speaker.keys()]
    ends = [middle, *whole]
    return Spread(middle, min(ends), max(ends), stdev(whole) if len(whole) > 1 else None)


def pareto(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """Whether each point is in the Pareto set.

    It is when no other point has at least its accuracy for at most its cost and is better in one of the two.
    """
    points = list(zip(costs, accuracies, strict=True))
    return [
        not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
        for cost, accuracy in points
    ]
