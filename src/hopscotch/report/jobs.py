"""Read the jobs of a sweep from its folder: each job's summary, and the ledger to which each adds a line at its end."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hopscotch import plain

LEDGER = "sweep.jsonl"
NOT_FAILED = ("finished", "stopped")
SPEAKER = "data.test_speaker"
FILES = ("config.yaml", "overrides.yaml", "summary.json")  # one of them at least is in a job's folder
STUDY_JOB = re.compile(r"(.*_)?seed-\d+(_.*)?|.*_[0-9a-f]{8}")  # as scripts.studies.runner.job_names has it
JOINED = ("seed", SPEAKER)  # what does not tell rows of a study apart
HIDDEN = (
    *JOINED,
    "experiment",
    "data.root",
    "callbacks.adaptation.reaches",
    "trainer.enable_progress_bar",
    "hydra.run.dir",
)


@dataclass(frozen=True)
class Job:
    """One job of a sweep as far as it came; numbers are None where it never got there."""

    folder: str  # within the sweep's; empty for a job that never started
    model: str
    seed: str
    overrides: tuple[str, ...]  # without model and seed
    status: str
    test_acc: float | None = None
    compute_fraction: float | None = None
    macs: float | None = None
    seconds: float | None = None  # of the whole job
    error: str | None = None
    fit_seconds: float | None = None  # of its training
    clip_ms: float | None = None  # of the test pass, for each clip
    speaker: str = ""  # left out of training, and tested

    @property
    def group(self) -> tuple[str, tuple[str, ...]]:
        """Jobs that differ in nothing but the seed."""
        return self.model, self.overrides

    @property
    def has_failed(self) -> bool:
        return self.status not in NOT_FAILED


def read_jobs(sweep_folder: Path, planned: Sequence[Sequence[str]] = ()) -> list[Job]:
    """All jobs of a sweep: those with a folder, in the order of their numbers, then those that never started."""
    ledger = {_inside(row.get("folder"), sweep_folder): row for row in read_lines(sweep_folder / LEDGER)}
    names = {path.name for path in sweep_folder.glob("[!.]*") if any((path / file).is_file() for file in FILES)}
    # scripts/study.py keeps a log beside each folder, and of a job that came to none a log alone.
    logs = {path.stem for path in sweep_folder.glob("[!.]*.log")}
    names |= {name for name in logs if (sweep_folder / name).is_dir() or STUDY_JOB.fullmatch(name)}
    jobs, started = [], []
    for name in sorted(names | set(ledger), key=job_number):
        summary = read_json(sweep_folder / name / "summary.json")
        row = ledger.get(name, {})
        overrides = list(row.get("overrides") or read_overrides(sweep_folder / name / "overrides.yaml"))
        started.append(set(overrides))
        if not summary:
            summary = {"error": logged_error(sweep_folder / f"{name}.log")}
        jobs.append(make_job(name, overrides, summary, row.get("status", "no summary")))
    missing = [overrides for overrides in planned if set(overrides) not in started]
    return jobs + [make_job("", overrides, {}, "never started") for overrides in missing]


def _inside(folder: object, sweep: Path) -> str:
    """The name that a ledger gives a job's folder, if it lies within the sweep's."""
    if not isinstance(folder, str) or not folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise ValueError(f"{plain.shown(sweep / LEDGER)} must name folders within the sweep's, it does not.")
    return folder


def make_job(folder: str, overrides: Sequence[str], summary: Mapping[str, Any], status: str) -> Job:
    """A job from its summary, where it wrote one, else from its overrides and what the ledger calls its end."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    compute, seconds = summary.get("compute") or {}, summary.get("seconds") or {}
    return Job(
        folder=folder,
        model=plain.shown(summary.get("model", given.get("model", ""))),
        seed=plain.shown(summary.get("seed", given.get("seed", ""))),
        overrides=tuple(f"{key}={value}" for key, value in given.items() if key not in ("model", "seed")),
        status=plain.shown(summary.get("status", status)),
        test_acc=(summary.get("test") or {}).get("acc"),
        compute_fraction=compute.get("fraction"),
        macs=compute.get("macs"),
        seconds=seconds.get("total"),
        error=summary.get("error"),
        fit_seconds=seconds.get("fit"),
        clip_ms=1e3 * seconds["test_clip"] if "test_clip" in seconds else None,
        speaker=given.get(SPEAKER, ""),
    )


def job_number(folder: str) -> tuple[float, str]:
    """Sorts `10_...` after `9_...`, and what has no number last."""
    head = folder.split("_", 1)[0]
    return float(head) if head.isdecimal() else float("inf"), folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a ledger; a line that a kill or a full disk cut short is passed over."""
    return plain.read_json_lines(path) if path.exists() else []


def read_json(path: Path) -> dict[str, Any]:
    return plain.read_json(path) if path.exists() else {}


def each_once(folders: Iterable[Path]) -> list[Path]:
    """Without those that are another name of one before."""
    found: dict[Path, Path] = {}
    for folder in folders:
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_overrides(path: Path) -> list[str]:
    """As they were typed: what they refer to is not looked up."""
    return plain.read_words(path) if path.exists() else []


def logged_error(path: Path) -> str | None:
    """The last complaint in what a job printed, where that was kept."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    said = [line for line in reversed(lines) if line.strip()]
    return next((line.removeprefix("Error: ") for line in said if "Error: " in line), said[0] if said else None)


def groups(jobs: Iterable[Job]) -> dict[tuple[str, tuple[str, ...]], list[Job]]:
    """Jobs by everything but the seed, in order of appearance."""
    found: dict[tuple[str, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        found.setdefault(job.group, []).append(job)
    return found


def shared_overrides(jobs: Sequence[Job]) -> list[str]:
    """What was typed for all jobs alike, and so tells none from another."""
    first, *others = jobs
    return [override for override in first.overrides if all(override in job.overrides for job in others)]


def model_shown(model: str, overrides: Sequence[str]) -> str:
    """Controls go by their own kind: control=depth_3 -> control: depth."""
    control = next((word.partition("=")[2] for word in overrides if word.startswith("control=")), "")
    return f"control: {control.partition('_')[0]}" if control not in ("", "null") else model


def at_budgets(words: tuple[str, ...], probe: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """What tells a run at its own budget from others, and nothing; then the same for each that its probe asked for.

    `words` tell the run, `probe` is its adaptation.json. Each budget has a `reach` and what was found under it.
    """
    asked = probe.get("budgets", ())
    yield ((*words, "asked=as trained") if asked else words), {}
    for budget in asked:
        yield (*words, f"asked={budget['reach']:g}"), budget


def label(words: Iterable[str]) -> str:
    """What tells a row apart, without the paths of its keys: model=dense compute.reach=0.2 -> dense, reach 0.2."""
    told = [word.partition("=") for word in words]
    heads = [value for key, _, value in told if key in ("model", "control")]
    return ", ".join([*heads, *(f"{k.rpartition('.')[2]} {v}" for k, _, v in told if k not in ("model", "control"))])
