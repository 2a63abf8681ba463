"""End a sweep: tables of its jobs and groups, the frontier, a page that links to the runs, and an honest exit code.

Hydra loads this module before the first job, so heavy packages are imported where they are used.
"""

import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from hydra.experimental.callback import Callback
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf

from hopscotch.config.compose import is_basic
from hopscotch.files import append_line, refuse_links, write_csv, write_file
from hopscotch.plain import literal, read_yaml, sentence, shown
from hopscotch.report import text
from hopscotch.report.records import (
    COMPUTE,
    FAILED,
    LEDGER,
    VALUE,
    Group,
    Record,
    each_once,
    group_records,
    metric_of,
    points_of,
    read_records,
    shared_overrides,
)

if TYPE_CHECKING:
    from rich.console import Console

PLAN = "multirun.yaml"
PAGE = "index.html"
WRITTEN = (PAGE, "frontier.csv", "frontier.png", "groups.csv", "groups.md")
MAX_JOBS = 10_000  # of a plan
RUN_COLUMNS = (
    "folder model seed overrides status value f1 compute_fraction macs seconds error fit_seconds clip_ms speaker"
)
Cell = str | int | float | None  # Markup is a str


class Column(NamedTuple):
    """Describe a column of a table of groups or of jobs."""

    head: str
    of: Callable[[Any], Cell]
    digits: int | None = None  # None: words


def mean_of(figure: str) -> Callable[[Group], float | None]:
    return lambda one: one.spreads[figure].mean if figure in one.spreads else None


GROUPS = {  # name in groups.csv -> column, where value stands for the primary metric
    "number": Column("#", lambda one: one.number),
    "model": Column("model", lambda one: one.model),
    "overrides": Column("overrides", lambda one: " ".join(w for w in one.words if not w.startswith("model="))),
    "seeds": Column("seeds", lambda one: " ".join(sorted({seed for seed, _ in one.runs}))),
    "speakers": Column("held out", lambda one: " ".join(sorted({who for _, who in one.runs if who}))),
    "runs": Column("runs", lambda one: len(one.records), 0),
    "value": Column("test value", mean_of("value"), 4),
    "value_sd": Column("deviation", lambda one: one.value.deviation, 4),
    "value_low": Column("lowest", lambda one: one.value.low if one.value.deviation is not None else None, 4),
    "value_high": Column("highest", lambda one: one.value.high if one.value.deviation is not None else None, 4),
    "value_interval": Column("95 % over held-out", lambda one: one.value.interval),
    "f1": Column("macro F1", mean_of("f1"), 4),
    "fraction": Column("compute", mean_of("compute_fraction"), 3),
    "macs_m": Column("M MACs", mean_of(COMPUTE), 3),
    "seconds": Column("s of training", mean_of("fit_seconds"), 1),
    "clip_ms": Column("ms a clip", mean_of("clip_ms"), 2),
    "pareto": Column("Pareto (compute)", lambda one: "yes" if COMPUTE in one.best_by else "no"),
    "pareto_time": Column("Pareto (time)", lambda one: "yes" if one.best_by - {COMPUTE} else "no"),
}
JOBS = {
    "job": Column("job", lambda one: one.folder.partition("_")[0]),
    "model": Column("model", lambda one: one.model),
    "seed": Column("seed", lambda one: one.seed),
    "overrides": Column("overrides", lambda one: " ".join(one.overrides)),
    "status": Column("status", lambda one: one.status),
    "score": Column("score", lambda one: one.score, 4),
    "value": Column("test value", lambda one: one.value, 4),
    "f1": Column("macro F1", lambda one: one.f1, 4),
    "fraction": Column("compute", lambda one: one.compute_fraction, 4),
    "macs_m": Column("M MACs", lambda one: one.macs_m, 2),
    "seconds": Column("seconds", lambda one: one.seconds, 1),
    "reason": Column("reason", lambda one: one.error),
}
IN_TERMINAL = "number model overrides runs value value_sd value_interval f1 fraction macs_m clip_ms pareto"  # of GROUPS


class SweepTable(Callback):
    """Report a sweep: Hydra's hooks at the start and at the end of `train.py -m`, and before each job."""

    def __init__(self) -> None:
        self.plan: list[list[str]] | None = None  # overrides of every job, as far as they are known; None: no sweep

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Print which job begins, by the overrides that not all jobs have."""
        if self.plan is not None:
            given = config.hydra.overrides.task
            own = [word for word in given if not (self.plan and all(word in other for other in self.plan))]
            of = f" of {len(self.plan)}" if self.plan else ""
            number = config.hydra.job.num + 1
            print("\n" * (number > 1) + shown(f"job {number}{of}: {' '.join(own)}"), flush=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the plan, as Hydra's own sweeper does and others do not."""
        self.plan = planned_overrides(config)
        path = Path(config.hydra.sweep.dir) / PLAN
        try:
            refuse_links(path.parent, (PLAN, LEDGER, *WRITTEN))
        except ValueError as error:  # of which Hydra would make a warning
            raise SystemExit(f"Error: {error}") from None
        if not is_basic(config) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.masked_copy(config, "hydra"), path)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and print the folder of the sweep last; exit with 1 if a job failed."""
        folder = Path(config.hydra.sweep.dir)
        records = read_records(folder, planned_overrides(config))
        try:
            report_sweep(folder, records, config)
            if is_basic(config) and any(record.status != "finished" for record in records):
                print(f"To run what is missing: the same command with hydra.sweep.dir={shown(folder)}")
            print(folder, flush=True)
        finally:
            # Hydra makes a warning and exit code 0 of a callback's Exception; SystemExit passes, even past one.
            if any(record.status != "finished" for record in records):
                raise SystemExit(1)


def append_ledger(sweep_folder: str | Path, row: Mapping[str, Any]) -> None:
    """Add what a job has to say at its end: `folder` (its name), `overrides` (a list), `status`, and more if it likes.

    The line is written at once, so jobs that end together do not tear each other's.
    """
    folder = Path(sweep_folder)
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / LEDGER, json.dumps(dict(row)))


def report_folder(folder: Path, beside: Sequence[Path] = ()) -> None:
    """Report a folder that `train.py -m` or scripts/study.py has filled or is filling, with the runs of others."""
    for where in (folder, *beside):
        refuse_other_folders(where)
    _, *beside = each_once((folder, *beside))
    refuse_links(folder, WRITTEN)
    plan = plan_of(folder)
    report_sweep(folder, read_records(folder, planned_overrides(plan)), plan, beside)


def report_sweep(
    folder: Path, jobs: Sequence[Record], plan: DictConfig | None = None, beside: Sequence[Path] = ()
) -> None:
    """Print the tables, write the files and the page, and print where the page is."""
    from hopscotch.report.frontier import draw_frontier
    from hopscotch.standing import standing_of

    groups = group_records(points_of([*jobs, *(record for where in beside for record in read_records(where))]))
    search = is_search(plan)
    missing = 0 if plan is None else max(0, int(plan.hydra.sweeper.get("n_trials", 0)) - len(jobs))
    standing = standing_of(groups)
    console, warnings = text.make_console(), standing.warnings + cautions(jobs, groups, missing)
    standing.show(console)
    if jobs:
        columns = {name: column for name, column in JOBS.items() if name != "reason"}  # which stands below
        best_first = "Trials, best first (score: on validation clips; below zero: how far beyond the compute target)"
        text.print_table(jobs_table(jobs, columns, search=search), console, best_first if search else "All jobs")
    if groups:
        short = {name: GROUPS[name] for name in IN_TERMINAL.split()}
        text.print_table(tell(short, groups), console, "Means over seeds, cheapest first")
    write_runs(jobs, folder)
    write_groups(groups, folder)
    draw_frontier(groups, folder)
    context = {
        "title": f"Sweep of {', '.join(dict.fromkeys(job.model for job in jobs if job.model)) or 'no model yet'}",
        "subtitle": folder.resolve().name,
        "headline": standing.headline + counts(jobs, groups, missing),
        "standing": standing.table(),
        "warnings": warnings,
        "beside": [where.name for where in beside],
        "command": plan and "python train.py -m " + shlex.join(plan.hydra.overrides.task),  # no harm to a search
    }
    write_file(folder / PAGE, sweep_page(folder, jobs, groups, search=search, **context))
    text.print_warnings(warnings, console)
    print_failures(jobs, console)
    print(f"look closer: {shown(folder / PAGE)}", flush=True)


def print_failures(jobs: Sequence[Record], console: "Console") -> None:
    for job in jobs:
        if job.has_failed or job.error:
            told = text.rich_text(sentence((job.folder or job.described) + (f": {job.error}" if job.error else "")))
            console.print(f"[red]{text.rich_text(job.status)}[/red] {told}", highlight=False, soft_wrap=True)
    if num_failed := sum(job.has_failed for job in jobs):
        console.print(f"[red]{num_failed} of {len(jobs)} jobs failed or never ended[/red]", highlight=False)


def tell(columns: Mapping[str, Column], items: Sequence[Any]) -> text.Table:
    """Make a table of records or groups for people, without the columns in which nothing stands."""
    found = [(column, [column.of(one) for one in items]) for column in columns.values()]
    found = [(column, cells) for column, cells in found if any(cell not in (None, "") for cell in cells)]
    heads = [column.head.replace(VALUE, metric_of(items)) for column, _ in found]
    told = [[cell(value, column.digits or 0) for value in cells] for column, cells in found]
    numbers = [head for head, (column, _) in zip(heads, found, strict=True) if column.digits is not None]
    return text.Table(heads, list(zip(*told, strict=True)), numbers)


def jobs_table(jobs: Sequence[Record], columns: Mapping[str, Column], *, search: bool) -> text.Table:
    """Make a table of jobs with what tells each from the others; of a search best first, those without a score last."""
    shared = shared_overrides(jobs)
    told = [replace(job, overrides=told_apart(job, shared), score=job.score if search else None) for job in jobs]
    if search:
        told.sort(key=lambda one: FAILED if one.score is None else one.score, reverse=True)
    return tell(columns, told)


def told_apart(job: Record, shared: Sequence[str]) -> tuple[str, ...]:
    """Keep the overrides that tell a job apart, with numbers that a sampler drew to four digits."""
    own = (word for word in job.overrides if word not in shared)
    return tuple(re.sub(r"(?<==)\d+\.\d{5,}(e-?\d+)?", lambda drawn: f"{float(drawn[0]):.4g}", word) for word in own)


def cell(value: Any, digits: int) -> str:
    """Write a cell for people: numbers with so many digits, anything else as it is, Markup too."""
    if value is None or isinstance(value, float):
        return text.number(value, digits)
    return value if isinstance(value, str) else str(value)


def write_groups(groups: Sequence[Group], folder: Path) -> None:
    """Write groups.csv and groups.md."""
    metric = metric_of(groups)
    names = [metric + name.removeprefix(VALUE) if name.startswith(VALUE) else name for name in GROUPS]
    write_csv(folder / "groups.csv", names, [[column.of(one) for column in GROUPS.values()] for one in groups])
    told = text.markdown(tell(GROUPS, groups)) if groups else "No run has finished."
    write_file(folder / "groups.md", told + "\n")


def write_runs(jobs: Sequence[Record], folder: Path) -> None:
    """Write frontier.csv, a row per job as far as each came."""
    names = RUN_COLUMNS.split()
    cells = [[getattr(job, name) for name in names] for job in jobs]
    rows = [[" ".join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in cells]
    write_csv(folder / "frontier.csv", [f"test_{metric_of(jobs)}" if name == VALUE else name for name in names], rows)


def sweep_page(folder: Path, jobs: Sequence[Record], groups: Sequence[Group], *, search: bool, **context: Any) -> str:
    """Tell of a sweep in the words of `sweep.html.j2`: tables that link to the runs, the picture and `context`."""
    from hopscotch.report.frontier import frontier_figure
    from hopscotch.report.page import link, render_html

    def run_link(run: Path, words: str) -> Markup:
        """Lead to the run's own report, or to its folder where it has none."""
        report = "/report/index.html" if (run / "report" / "index.html").is_file() else "/"
        return link(words, quote(Path(os.path.relpath(run, folder)).as_posix()) + report)

    def links_of(one: Group) -> Markup:
        runs = sorted(one.records, key=lambda record: (record.seed, record.speaker))
        return Markup(", ").join(run_link(job.run, f"{job.seed} {job.speaker}".strip()) for job in runs if job.run)

    def job_link(job: Record) -> Cell:
        return run_link(job.run, str(JOBS["job"].of(job))) if job.run and job.run.is_dir() else "-"

    linked = {"job": Column("job", job_link)}

    def pareto_of(one: Group) -> Cell:
        return ", ".join(["compute"] * (COMPUTE in one.best_by) + ["time"] * bool(one.best_by - {COMPUTE}))

    short = {"seeds": Column("runs by seed", links_of), "pareto": Column("Pareto", pareto_of)}
    short |= dict.fromkeys(("runs", "pareto_time"), Column("", lambda one: None))  # links and `Pareto` say so, too
    unfinished = [job for job in jobs if job.status != "finished"]
    tables = {
        "groups": tell(GROUPS | short, groups),
        "unfinished": tell(JOBS | linked, unfinished),
        "jobs": jobs_table(jobs, JOBS | linked, search=search),
        "shared": " ".join(shared_overrides(jobs)),
        "frontier": frontier_figure(groups) if groups else None,
        "metric": groups[0].metric if groups else "",
    }
    return render_html("sweep.html.j2", context | tables)


def counts(jobs: Sequence[Record], groups: Sequence[Group], missing: int) -> list[tuple[str, str]]:
    """Large numbers for the head of the page: how much of the sweep is there."""
    found = Counter(job.status for job in jobs)
    told = [("jobs", str(len(jobs) + missing)), *((status, str(number)) for status, number in sorted(found.items()))]
    if missing:
        told.append(("trials to come", str(missing)))
    if groups:
        larger = groups[0].records[0].larger_is_better
        best = max(groups, key=lambda group: group.value.mean if larger else -group.value.mean)
        spread = f", {best.value.low:.4f} to {best.value.high:.4f} by seed" if best.value.deviation is not None else ""
        told.append((f"best {best.metric}: {best.name}{spread}", f"{best.value.mean:.4f}"))
    return told


def cautions(jobs: Sequence[Record], groups: Sequence[Group], missing: int) -> list[str]:
    """List what a reader has to know before comparing."""
    found = []
    unfinished = sum(job.status != "finished" for job in jobs)
    if unfinished or missing:
        done, total = len(jobs) - unfinished, len(jobs) + missing
        found.append(f"{done} of {total} jobs have finished; only those stand in the picture and in the means.")
    wanted = set().union(*(group.runs for group in groups))
    rows_lacking: dict[str, list[str]] = {}
    for group in groups:
        if lacking := wanted - group.runs:
            named = ", ".join(f"seed {seed}" + (f" on {who}" if who else "") for seed, who in sorted(lacking))
            rows_lacking.setdefault(named, []).append(f"{group.number} ({group.name})")
    for named, rows in rows_lacking.items():
        found.append(f"Compare with care: runs that other rows have ({named}) are lacking in {', '.join(rows)}.")
    return found


def refuse_other_folders(folder: Path, name: str = "sweep") -> None:
    """Raise unless the folder is that of a sweep: its runs have folders of their own, or a line in the ledger."""
    rule = f"{name} must be the folder of a sweep, got {folder}"
    if not folder.is_dir():
        raise ValueError(f"{rule}: there is no such folder.")
    if (folder / "config.yaml").is_file() or (folder / "summary.json").is_file():
        raise ValueError(f"{rule}, which is that of a single run.")
    is_known = (folder / LEDGER).is_file() or (folder / PLAN).is_file()
    if not is_known and not any(folder.glob("*/overrides.yaml")) and not any(folder.glob("*/summary.json")):
        raise ValueError(f"{rule}: there is no run in it.")


def plan_of(folder: Path) -> DictConfig | None:
    """Read the plan that Hydra left in the folder of a sweep; scripts/study.py leaves no such file."""
    if not (folder / PLAN).is_file():
        return None
    config = OmegaConf.create(literal(read_yaml(folder / PLAN)))
    if not isinstance(config, DictConfig) or OmegaConf.select(config, "hydra.overrides.task") is None:
        raise ValueError(f"{shown(folder / PLAN)} must be the plan of a sweep, as Hydra writes it.")
    return config


def is_search(config: DictConfig | None) -> bool:
    return config is not None and bool(OmegaConf.select(config, "hydra.runtime.choices.hparams_search"))


def planned_overrides(config: DictConfig | None) -> list[list[str]]:
    """Return the overrides of every job that Hydra's own sweeper will run; samplers such as Optuna's have none."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if config is None or not is_basic(config):
        return []
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    typed = parameters + list(config.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(typed)
    counts = [islice(one.sweep_string_iterator(), MAX_JOBS + 1) for one in parsed if one.is_sweep_override()]
    if math.prod(sum(1 for _ in values) for values in counts) > MAX_JOBS:
        raise ValueError(f"A sweep must have at most {MAX_JOBS} jobs, {PLAN} has more.")
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs
