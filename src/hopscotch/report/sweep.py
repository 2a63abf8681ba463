"""End a sweep: a table of all jobs, the frontier of accuracy against compute, and an honest exit code.

Hydra loads this callback before any job has begun, so what is heavy is imported where it is used.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from hopscotch.report.jobs import LEDGER, Job, groups, read_jobs, shared_overrides

if TYPE_CHECKING:
    from rich.table import Table

WITHOUT_TERMINAL = 160  # columns; rich assumes 80 and would fold the overrides
STYLES = {"finished": "green", "stopped": "yellow"}  # every other status is red


class SweepTable(Callback):
    """Hydra's hook at the end of `train.py -m`."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder, planned_overrides(config))
        try:
            report_sweep(folder, jobs)
        finally:
            # Hydra makes a warning and exit code 0 of a callback's Exception; SystemExit passes, even past one.
            if any(job.has_failed for job in jobs):
                raise SystemExit(1)


def append_ledger(sweep_folder: str | Path, row: Mapping[str, Any]) -> None:
    """Add what a job has to say at its end: `folder` (its name), `overrides` (a list), `status`, and more if it likes.

    One short line, written at once: jobs that end together do not tear each other's.
    """
    folder = Path(sweep_folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LEDGER).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(row)) + "\n")


def report_sweep(folder: Path, jobs: Sequence[Job]) -> None:
    """Print the tables and write `frontier.csv` and `frontier.png`; the sweep's folder is the last line printed."""
    from rich.console import Console
    from rich.markup import escape

    from hopscotch.report.frontier import draw_frontier, write_csv

    console = Console()
    if not console.is_terminal:
        console = Console(width=WITHOUT_TERMINAL)
    if jobs:
        console.print(jobs_table(jobs))
    if len(groups(jobs)) < len(jobs):
        console.print(means_table(jobs))
    for job in jobs:
        if job.error:
            console.print(f"[red]{job.status}[/red] {job.folder}: {escape(job.error)}", highlight=False, soft_wrap=True)
    write_csv(jobs, folder / "frontier.csv")
    draw_frontier(jobs, folder / "frontier.png")
    num_failed = sum(job.has_failed for job in jobs)
    if num_failed:
        console.print(f"[red]{num_failed} of {len(jobs)} jobs failed or never ended[/red]", highlight=False)
    print(folder, flush=True)


def planned_overrides(config: DictConfig) -> list[list[str]]:
    """The overrides of every job that Hydra's own sweeper was asked for; none known for samplers such as Optuna's."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not sweeper["_target_"].endswith(BasicSweeper.__name__):
        return []
    parameters = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    typed = parameters + list(config.hydra.overrides.task)
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    return jobs


def jobs_table(jobs: Sequence[Job]) -> "Table":
    """One row per job, with what tells it from the others."""
    shared = shared_overrides(jobs)
    table = new_table(
        "All jobs", ["model", "seed", "overrides", "status"], ["test acc", "compute", "MACs (M)", "seconds"]
    )
    for job in jobs:
        style = STYLES.get(job.status, "red")
        numbers = [number(job.test_acc), number(job.compute_fraction), millions(job.macs), number(job.seconds, 1)]
        table.add_row(job.model, job.seed, words(job.overrides, shared), f"[{style}]{job.status}[/{style}]", *numbers)
    return table


def means_table(jobs: Sequence[Job]) -> "Table":
    """Mean over seeds, with the standard deviation where there are two or more."""
    shared = shared_overrides(jobs)
    table = new_table(
        "Means over seeds", ["model", "overrides"], ["seeds", "test acc", "compute", "MACs (M)", "seconds"]
    )
    for (model, overrides), members in groups(jobs).items():
        scored = [job for job in members if job.test_acc is not None]
        columns = [
            spread([job.test_acc for job in scored], 4),
            spread([job.compute_fraction for job in scored], 4),
            spread([None if job.macs is None else job.macs / 1e6 for job in scored], 2),
            spread([job.seconds for job in scored], 1),
        ]
        table.add_row(model, words(overrides, shared), f"{len(scored)} of {len(members)}", *columns)
    return table


def words(overrides: Sequence[str], shared: Sequence[str]) -> str:
    from rich.markup import escape

    return escape(" ".join(override for override in overrides if override not in shared))


def new_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for word in words:
        table.add_column(word, overflow="fold")
    for word in numbers:
        table.add_column(word, justify="right", no_wrap=True)
    return table


def number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def millions(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f}"


def spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{mean(known):.{digits}f}" + (f" ± {stdev(known):.{digits}f}" if len(known) > 1 else "")
