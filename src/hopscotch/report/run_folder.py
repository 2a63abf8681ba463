"""Read the folder of a run: whatever a report, a table or a search wants to know of a run comes from here.

A file is read when it is first asked for, so that a table of hundreds of runs reads nothing but their summaries.
A run that goes on, was stopped or has failed has fewer files: they are empty here, and missing by name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hopscotch.plain import read_config, read_csv, read_json, read_json_lines, read_words, shown
from hopscotch.registry import PLACES, class_at
from hopscotch.report.text import Table, number

if TYPE_CHECKING:
    from hopscotch.report.clips import ClipRow  # and with it torch
    from hopscotch.types import Primary

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
PROFILE = "profile"  # folder of the tables of trainer.profiler
CLIPS = "clips.csv"  # in report/ of the test, in an evaluation's folder of that
EVALUATION = Path("report") / "evaluation"  # of the latest evaluation without a folder of its own
EVALUATION_METRICS = "metrics.json"
BEST = Path("checkpoints") / "best.ckpt"
WHY_MISSING = {  # file -> what its absence means
    SUMMARY: "the run is still going, or was ended before it could sum up",
    METRICS: "nothing is logged yet: no learning curves",
    f"report/{CLIPS}": "no test clips yet: nothing on classes, routes and single clips",
}
OF_ALL_TASKS = ("loss", "compute_fraction", "macs")  # logged of every task, beside its metrics


class Kept(NamedTuple):
    """The validation whose weights a run keeps, as its checkpoint callback chose it."""

    epoch: int  # from 0
    step: int  # optimizer steps done
    monitor: str | None  # the metric that it was chosen by; None: the last one was kept
    value: float | None


class RunFolder:
    """Everything that the folder of a run says of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_config(self.path / CONFIG)

    @cached_property
    def overrides(self) -> list[str]:
        """What was typed, word by word."""
        return read_words(self.path / OVERRIDES)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / SUMMARY)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_json_lines(self.path / METRICS)

    @cached_property
    def clips(self) -> "list[ClipRow]":
        """Rows of the test clips."""
        from hopscotch.report.clips import read_clips

        return read_clips(self.path / "report" / CLIPS)

    @cached_property
    def decision_value(self) -> dict[str, Any]:
        """What `callbacks=decision_value` measured."""
        return read_json(self.path / "report" / "decision_value.json")

    @cached_property
    def budgets(self) -> list[dict[str, str]]:
        """What scripts/evaluate.py measured under other budgets."""
        return read_csv(self.path / "report" / "budgets.csv")

    @property
    def status(self) -> str:
        return str(self.summary.get("status", "no summary"))

    @property
    def data(self) -> Mapping[str, Any]:
        """What the summary says of the data: fingerprint, classes, clips and seconds by split."""
        found = self.summary.get("data") or {}
        if not isinstance(found, Mapping):
            raise ValueError(f"{shown(self.path / SUMMARY)} must have a map at data.")
        return found

    @property
    def started(self) -> str:
        """Date and time."""
        began = datetime.fromtimestamp((self.path / CONFIG).stat().st_mtime).astimezone()
        return str(self.summary.get("started", began.isoformat(timespec="seconds")))

    @property
    def kept(self) -> Kept | None:
        """None where no checkpoint was kept, or an older version kept it without saying which."""
        found = self.summary.get("kept")
        return Kept(**{name: found[name] for name in Kept._fields}) if found else None

    @property
    def primary(self) -> "Primary | None":
        """The metric that the task is judged by: as the summary says or, before there is one, a task of ours."""
        from hopscotch.types import Primary

        if found := primary_of(self.summary):
            return Primary(found["name"], found["larger_is_better"])
        task = self.config.get("task")
        target = task.get("_target_") if isinstance(task, dict) else None
        if target not in PLACES["task"].names:
            return None
        kind: Any = class_at("task", target, self.path / CONFIG)
        return kind.primary

    @property
    def skips(self) -> frozenset[str]:
        """What the model can skip, as it declared; nothing is known of it where an older version trained it."""
        return frozenset(self.summary.get("skips") or ())

    @property
    def has_classes(self) -> bool:
        """Whether the test clips have one label each."""
        return bool(self.clips) and self.clips[0].has_classes

    @property
    def metric_names(self) -> list[str]:
        """Names of the task's metrics that were logged of validation clips."""
        tags = dict.fromkeys(tag for row in self.epochs for tag in row)
        names = [tag.removeprefix("val/") for tag in tags if tag.startswith("val/")]
        return [name for name in names if name not in OF_ALL_TASKS]

    @property
    def classes(self) -> list[str]:
        """Names in the order of the data; without a summary those that the clips show."""
        known = self.data.get("classes")
        if not (known or self.has_classes):
            return []
        return list(known or dict.fromkeys([row.label for row in self.clips] + [row.prediction for row in self.clips]))

    @property
    def missing(self) -> list[str]:
        """One sentence for each file that is not there."""
        there = {SUMMARY: self.summary, METRICS: self.metrics, f"report/{CLIPS}": self.clips}
        return [f"{name} is missing: {words}." for name, words in WHY_MISSING.items() if not there[name]]

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The last value of every tag in every epoch with a validation, with its `step` and `epoch`."""
        found: dict[int, dict[str, Any]] = {}
        for line in self.metrics:
            if line.get("epoch") is not None and not any(tag.startswith("test/") for tag in line):
                known = {tag: value for tag, value in line.items() if value is not None}
                found.setdefault(line["epoch"], {}).update(known)
        return [found[epoch] for epoch in sorted(found) if any(tag.startswith("val/") for tag in found[epoch])]

    def curve(self, tag: str) -> dict[int, float]:
        """Step -> value. Where a resumed run logged a step again the later line is true."""
        return {line["step"]: line[tag] for line in self.metrics if line.get(tag) is not None}

    def last(self, tag: str) -> float | None:
        """Find the latest value of a tag."""
        return next((line[tag] for line in reversed(self.metrics) if line.get(tag) is not None), None)

    def picture(self, name: str) -> Path | None:
        path = self.path / "report" / name
        return path if path.is_file() and not path.is_symlink() else None


def primary_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Find the primary metric in a summary; in one of an older version it is the metric that the task tested."""
    if found := summary.get("primary"):
        return found
    test = summary.get("test") or {}
    name = next((name for name in test if name not in OF_ALL_TASKS), None)
    return {"name": name, "larger_is_better": True, "test": test[name]} if name else {}


def config_of(run: Path) -> Path:
    """Where a run has its configuration; a folder without one is refused."""
    if not (run / CONFIG).is_file():
        raise ValueError(f"run must be the folder of a run, got {shown(run)}: no {CONFIG} there.")
    return run / CONFIG


def find_runs(folder: Path) -> list[Path]:
    """Find the runs in a folder and the jobs of its sweeps, newest first."""
    found = [path for pattern in (CONFIG, f"*/{CONFIG}", f"*/*/{CONFIG}") for path in folder.glob(pattern)]
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def runs_table(runs: Sequence[Path], folder: Path) -> Table:
    """Make a table of runs, a row each; one that cannot be read says so."""
    heads = ("started", "model", "seed", "status", "test", "compute", "minutes", "run")
    rows = []
    for path in runs:
        run, name = RunFolder(path), str(path.relative_to(folder) if path != folder else path)
        try:
            summary, model = run.summary, run.config.get("model")
            model = model.get("name", "") if isinstance(model, dict) else ""
            primary, compute, seconds = (summary.get(key) or {} for key in ("primary", "compute", "seconds"))
            test = "" if primary.get("test") is None else f"{primary['name']} {number(primary['test'])}"
            minutes = number(seconds["total"] / 60, 1) if "total" in seconds else ""
            cells = [run.started[:16], model, run.config.get("seed", ""), run.status, test]
            rows.append([*map(str, cells), number(compute.get("fraction"), 3), minutes, name])
        except (ValueError, AttributeError, TypeError) as error:
            rows.append(["", "", "", f"cannot be read: {error}", "", "", "", name])
    return Table(heads, rows, numbers=("seed", "compute", "minutes"))


def read_run(path: Path) -> RunFolder:
    """Open the folder of a run; one without config.yaml is refused."""
    config_of(path)
    return RunFolder(path)
