"""Describe the runs of a sweep as records, and join those that differ in nothing but seed and speaker or fold held out.

The mean of a group is the mean over speakers of the mean over seeds; its deviation is that of seeds alone, because how
much harder one speaker is than another says nothing about how sure a mean is. A seed counts in the deviation if it ran
every speaker of the group. The interval is for other speakers, or folds, than those that were held out.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, TypeVar

from hopscotch.plain import read_json, read_json_lines, shown
from hopscotch.registry import SOURCE_KEYS
from hopscotch.report.run_folder import CONFIG, OVERRIDES, SUMMARY, RunFolder, primary_of

VALUE = "value"  # stands for the primary metric where none, or more than one, has a name
LEDGER = "sweep.jsonl"
FILES = (CONFIG, OVERRIDES, SUMMARY)  # a job's folder has at least one of them
DEPTHS = ("[!.]*", "[!.]*/[!.]*", "[!.]*/[!.]*/[!.]*")  # of hydra.sweep.subdir
STUDY_JOB = re.compile(r"(.*_)?seed-\d+(_.*)?|.*_[0-9a-f]{8}")  # as scripts.studies.runner.job_names has it
NOT_FAILED = ("finished", "stopped")
HELD_OUT = {"data.test_speaker": "", "data.fold": "fold "}  # key, and a word before its value
DECISION_VALUE = "decision_value.json"  # of callbacks=decision_value: the same run at other budgets
HIDDEN = {"seed", *HELD_OUT, "experiment", "callbacks.decision_value.levels"}  # do not tell groups apart
HIDDEN |= {"trainer.enable_progress_bar", "hydra.run.dir", *(f"{key}.root" for key in SOURCE_KEYS)}
COMPUTE = "macs_m"  # millions, per test clip
FIGURES = ("value", "f1", COMPUTE, "compute_fraction", "fit_seconds", "clip_ms")  # of a record, joined in a group
SLACK = 0.01  # of a search, as a share of the dense compute: decisions of few layers cannot meet every fraction
FAILED = -1.0  # below every score, so that a search turns away from what fails
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Record:
    """Describe one run at one budget as a row of a table; a figure is None where the run never got to it."""

    run: Path | None  # its folder; None for a job that never started
    model: str
    seed: str
    overrides: tuple[str, ...]  # without model and seed
    status: str
    value: float | None = None  # of the primary metric, on the test clips
    f1: float | None = None  # the mean over classes, likewise, where there are any
    compute_fraction: float | None = None
    macs: float | None = None
    seconds: float | None = None  # of the whole job
    error: str | None = None
    fit_seconds: float | None = None
    clip_ms: float | None = None  # of the test pass, per clip
    speaker: str = ""  # or fold: held out from training, and tested
    metric: str = VALUE  # the name of the primary metric
    larger_is_better: bool = True
    score: float | None = None  # what a search goes by
    folder: str = ""  # within that of the sweep

    @property
    def macs_m(self) -> float | None:
        return None if self.macs is None else self.macs / 1e6

    @property
    def has_failed(self) -> bool:
        return self.status not in NOT_FAILED

    @property
    def described(self) -> str:
        """Return the overrides as they would be typed."""
        return " ".join([f"model={self.model}", *self.overrides, f"seed={self.seed}"]) if self.model else ""


def read_records(sweep: Path, planned: Sequence[Sequence[str]] = ()) -> list[Record]:
    """Read all jobs of a sweep: those with a folder in the order of their numbers, then those that never started."""
    ledger = {_inside(row.get("folder"), sweep): row for row in read_json_lines(sweep / LEDGER)}
    found = [path.parent for file in FILES for depth in DEPTHS for path in sweep.glob(f"{depth}/{file}")]
    names = {path.relative_to(sweep).as_posix() for path in found}
    # scripts/study.py keeps a log next to each folder; of a job that came to nothing only the log is there.
    logs = {path.stem for path in sweep.glob("[!.]*.log")}
    names |= {name for name in logs if (sweep / name).is_dir() or STUDY_JOB.fullmatch(name)}
    records, started = [], []
    for name in sorted(names | set(ledger), key=job_number):
        row, run = ledger.get(name, {}), RunFolder(sweep / name)
        overrides = list(row.get("overrides") or run.overrides)
        started.append(set(overrides))
        summary = run.summary or {"error": row.get("error") or logged_error(sweep / f"{name}.log")}
        record = make_record(sweep / name, overrides, summary, row.get("status", "no summary"))
        records.append(replace(record, folder=name))
    missing = [overrides for overrides in planned if set(overrides) not in started]
    return records + [make_record(None, overrides, {}, "never started") for overrides in missing]


def _inside(folder: object, sweep: Path) -> str:
    """Return the name of a job's folder in the ledger, if it lies within the folder of the sweep."""
    if not isinstance(folder, str) or not folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise ValueError(f"{shown(sweep / LEDGER)} must name folders within the sweep's, it does not.")
    return folder


def make_record(run: Path | None, overrides: Sequence[str], summary: Mapping[str, Any], status: str) -> Record:
    """Make a record from the summary of a run, or from its overrides and the ledger's `status` if it wrote none."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    compute, seconds = summary.get("compute") or {}, summary.get("seconds") or {}
    primary = primary_of(summary)
    score = score_of(summary)
    return Record(
        run=run,
        model=shown(summary.get("model", given.get("model", ""))),
        seed=shown(summary.get("seed", given.get("seed", ""))),
        overrides=tuple(f"{key}={value}" for key, value in given.items() if key not in ("model", "seed")),
        status=shown(summary.get("status", status)),
        value=primary.get("test"),
        f1=(summary.get("test") or {}).get("f1"),
        compute_fraction=compute.get("fraction"),
        macs=compute.get("macs"),
        seconds=seconds.get("total"),
        error=summary.get("error"),
        fit_seconds=seconds.get("fit"),
        clip_ms=1e3 * seconds["test_clip"] if "test_clip" in seconds else None,
        speaker=next((f"{word}{given[key]}" for key, word in HELD_OUT.items() if key in given), ""),
        metric=primary.get("name", VALUE),
        larger_is_better=primary.get("larger_is_better", True),
        score=None if score == FAILED else score,
    )


def score_of(summary: Mapping[str, Any]) -> float:
    """Score a run for a search, which maximises: the primary metric on the validation clips under a compute target.

    The score is the metric, or 1 / (1 + metric) where smaller is better, both of the epoch that was kept. A run that
    spent more than the target plus SLACK scores below zero, by how much more; so nothing beyond the target beats what
    keeps it. The test clips have no say. A run that did not finish or never validated scores FAILED.
    """
    kept, primary = summary.get("kept") or {}, summary.get("primary") or {}
    value, fraction = primary.get("val"), kept.get("compute_fraction")
    if summary.get("status") != "finished" or value is None or not math.isfinite(value):
        return FAILED
    target = (summary.get("compute") or {}).get("target")
    if target is not None and fraction is not None and fraction > target + SLACK:
        return target + SLACK - fraction
    return value if primary.get("larger_is_better", True) else 1 / (1 + max(0.0, value))


def points_of(records: Iterable[Record]) -> list[Record]:
    """Keep the finished records, each at every budget; a stopped run has figures, but of a shorter training."""
    done = (one for one in records if one.status == "finished" and one.value is not None and one.macs is not None)
    return [point for record in done for point, _ in at_budgets(record)]


def at_budgets(record: Record) -> list[tuple[Record, Mapping[str, Any]]]:
    """Return a run at its own budget, then at those of its decision_value.json, each with what was found there.

    The overrides keep only what tells groups apart, with at_budget=<level> where there are several budgets.
    """
    assert record.run is not None
    found = read_json(record.run / "report" / DECISION_VALUE)
    budgets = found.get("budgets", ())
    words = tuple(word for word in record.overrides if word.partition("=")[0] not in HIDDEN)
    baseline = next((word.partition("=")[2] for word in record.overrides if word.startswith("baseline=")), "null")
    model = record.model if baseline in ("", "null") else f"baseline: {baseline.partition('_')[0]}"
    own = replace(record, model=model, overrides=(*words, "at_budget=as trained") if budgets else words)
    points: list[tuple[Record, Mapping[str, Any]]] = [(own, found)]
    for budget in budgets:
        clean, time = budget["clean"], record.clip_ms
        if time is not None:  # in proportion to the model's own time, which was measured too
            time *= budget["time_fraction"] / found["time_fraction"]
        point = replace(
            own,
            overrides=(*words, f"at_budget={budget['level']:g}"),
            value=clean.get(record.metric),
            f1=clean.get("f1"),
            macs=clean["macs"],
            compute_fraction=clean["fraction"],
            clip_ms=time,
        )
        points.append((point, budget))
    return points


def job_number(folder: str) -> tuple[float, str]:
    """Sort `10_...` after `9_...`, and what has no number last."""
    head = folder.split("_", 1)[0]
    return float(head) if head.isdecimal() else float("inf"), folder


def logged_error(path: Path) -> str | None:
    """Find the last error in what a job printed, or else its last line."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    said = [line for line in reversed(lines) if line.strip()]
    return next((line.removeprefix("Error: ") for line in said if "Error: " in line), said[0] if said else None)


def group(items: Iterable[Item], by: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items that have the same key, in order of appearance."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    return found


class Spread(NamedTuple):
    """Hold the mean of one quantity, and how far whole seeds are from it."""

    mean: float
    seeds: tuple[float, ...]  # the mean of each seed that has all held-out speakers
    speakers: tuple[float, ...] = ()  # the mean of each speaker

    @property
    def interval(self) -> str:
        """Return the interval of the mean over speakers; an empty text with fewer than two."""
        from hopscotch.intervals import student  # which needs numpy

        found = student(self.speakers)
        return "" if found is None else f"{found.low:.4f} to {found.high:.4f}"

    @property
    def low(self) -> float:
        return min((self.mean, *self.seeds))

    @property
    def high(self) -> float:
        return max((self.mean, *self.seeds))

    @property
    def deviation(self) -> float | None:
        """Return the standard deviation over seeds; None with fewer than two."""
        return stdev(self.seeds) if len(self.seeds) > 1 else None


def spread_of(records: Iterable[Record], of: Callable[[Record], float | None]) -> Spread | None:
    """Join a quantity over seeds and speakers as the head of this file says; None if no record has it."""
    known = [(record, found) for record in records if (found := of(record)) is not None]
    cells, means = group(known, by=lambda pair: (pair[0].speaker, pair[0].overrides)), []
    for members in [known, *group(known, by=lambda pair: pair[0].seed).values()]:
        own = group(members, by=lambda pair: (pair[0].speaker, pair[0].overrides))
        if own.keys() == cells.keys():
            means.append(mean(mean(number for _, number in cell) for cell in own.values()) if known else 0.0)
    held_out = tuple(mean(number for _, number in cell) for cell in cells.values())
    return Spread(means[0], tuple(means[1:]), held_out) if known else None


@dataclass
class Group:
    """Join records that differ in nothing but seed and held-out speaker: a point of the frontier, a row of a table."""

    model: str
    words: tuple[str, ...]  # what tells it from the other groups of the sweep
    records: tuple[Record, ...]
    spreads: Mapping[str, Spread]  # of the FIGURES that its records have
    number: int = 0  # in tables and pictures, from 1
    best_by: set[str] = field(default_factory=set)  # the costs in whose Pareto set with the primary metric it is

    @property
    def name(self) -> str:
        return label(self.words) or self.model

    @property
    def value(self) -> Spread:
        """Return the primary metric, which every point has."""
        return self.spreads["value"]

    @property
    def metric(self) -> str:
        return self.records[0].metric

    @property
    def runs(self) -> set[tuple[str, str]]:
        """Return the seed and the held-out speaker of every run."""
        return {(record.seed, record.speaker) for record in self.records}


def group_records(points: Iterable[Record]) -> list[Group]:
    """Group points, cheapest first, number the groups and mark the Pareto sets of the metric and each cost."""

    def words_of(point: Record) -> tuple[str, ...]:
        is_baseline = any(word.startswith("baseline=") for word in point.overrides)
        return point.overrides if is_baseline else (f"model={point.model}", *point.overrides)

    found = group(points, by=lambda point: (point.model, words_of(point)))
    shared = set.intersection(*(set(words) for _, words in found)) if len(found) > 1 else set()
    groups = []
    for (model, words), members in found.items():
        spreads = {name: spread_of(members, attrgetter(name)) for name in FIGURES}
        known = {name: spread for name, spread in spreads.items() if spread is not None}
        groups.append(Group(model, tuple(word for word in words if word not in shared), tuple(members), known))
    larger = all(record.larger_is_better for one in groups for record in one.records)
    groups.sort(key=lambda one: (one.spreads[COMPUTE].mean, -one.value.mean if larger else one.value.mean))
    for number, one in enumerate(groups, start=1):
        one.number = number
    for cost in (COMPUTE, time_measured(groups)):
        timed = [one for one in groups if cost in one.spreads]
        costs, values = [one.spreads[cost].mean for one in timed], [one.value.mean for one in timed]
        for one, is_best in zip(timed, pareto(costs, values, larger_is_better=larger), strict=True):
            one.best_by |= {cost} if is_best else set()
    return groups


def metric_of(found: Iterable[Record | Group]) -> str:
    """Return the primary metric of records or groups, or `value` where they have several."""
    names = {one.metric for one in found if one.value is not None}
    return names.pop() if len(names) == 1 else VALUE


def time_measured(groups: Iterable[Group]) -> str:
    """Choose the time per test clip if every run recorded it, otherwise the time of training."""
    return "clip_ms" if all("clip_ms" in group.spreads for group in groups) else "fit_seconds"


def pareto(costs: Sequence[float], values: Sequence[float], *, larger_is_better: bool = True) -> list[bool]:
    """Tell for each point whether it is in the Pareto set.

    It is when no other point is at least as good for at most its cost and better in one of the two.
    """
    sign = 1 if larger_is_better else -1
    points = [(cost, sign * value) for cost, value in zip(costs, values, strict=True)]
    return [not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points]


def label(words: Iterable[str]) -> str:
    """Name a row without the paths of its keys: model=dense compute.level=0.2 -> dense, level 0.2."""
    told = [word.partition("=") for word in words]
    heads = [value for key, _, value in told if key in ("model", "baseline")]
    return ", ".join([*heads, *(f"{k.rpartition('.')[2]} {v}" for k, _, v in told if k not in ("model", "baseline"))])


def shared_overrides(records: Sequence[Record]) -> list[str]:
    """Return the overrides that all records have, which therefore tell none from another: none of a single record."""
    if len(records) < 2:
        return []
    return [word for word in records[0].overrides if all(word in other.overrides for other in records)]


def each_once(folders: Iterable[Path]) -> list[Path]:
    """Drop folders that are another name of one before."""
    return [members[0] for members in group(folders, by=lambda folder: folder.resolve()).values()]
