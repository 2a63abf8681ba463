"""End a sweep: a table of all jobs, the frontier of accuracy against cost as a page, and an honest exit code.

Hydra loads this callback before any job has begun, so what is heavy is imported where it is used.
"""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hopscotch import plain
from hopscotch.report.jobs import LEDGER, Job, each_once, groups, read_jobs, shared_overrides

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hopscotch.report.points import Group

PLAN = "multirun.yaml"
WRITTEN = ("index.html", "frontier.csv", "frontier.png", "groups.csv", "groups.md")
MAX_JOBS = 10_000  # of a plan
WITHOUT_TERMINAL = 160  # columns; rich assumes 80 and would fold the overrides
STYLES = {"finished": "green", "stopped": "yellow"}  # every other status is red


class SweepTable(Callback):
    """Hydra's hooks at the start and at the end of `train.py -m`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave what was asked for, as Hydra's own sweeper does and others do not."""
        path = Path(config.hydra.sweep.dir) / PLAN
        if not is_basic(config) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.masked_copy(config, "hydra"), path)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder, planned_overrides(config))
        try:
            report_sweep(folder, jobs, config)
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
    line = json.dumps(dict(row)) + "\n"
    with (folder / LEDGER).open("ab", buffering=0) as file:  # unbuffered: one call to the system
        file.write(line.encode())


def report_sweep(folder: Path, jobs: Sequence[Job], config: DictConfig | None = None) -> None:
    """Print the tables and write the report; the sweep's folder is the last line printed."""
    console = make_console()
    if jobs:
        console.print(trials_table(folder, jobs) if is_search(config) else jobs_table(jobs))
    if len(groups(jobs)) < len(jobs):
        console.print(means_table(jobs))
    write_report(folder, jobs, config)
    print_failures(jobs, console)
    print(f"look closer: {folder / 'index.html'}\n{folder}", flush=True)


def report_folder(folder: Path, beside: Sequence[Path] = ()) -> None:
    """The same at any time, of a folder that `train.py -m` or scripts/study.py has filled, or is filling."""
    from rich.markup import escape

    for where in (folder, *beside):
        refuse_other_folders(where)
    _, *beside = each_once((folder, *beside))
    plain.refuse_links(folder, WRITTEN)
    plan = plan_of(folder)
    jobs = read_jobs(folder, () if plan is None else planned_overrides(plan))
    from hopscotch.report.sweep_page import cautions

    console = make_console()
    found = write_report(folder, jobs, plan, beside)
    if found:
        console.print(groups_table(found))
    for caution in cautions(jobs, found, 0):
        console.print(f"[yellow]warning:[/yellow] {escape(plain.shown(caution))}", highlight=False, soft_wrap=True)
    if is_search(plan) and jobs:
        console.print(trials_table(folder, jobs))
    print_failures(jobs, console)
    print(plain.shown(folder / "index.html"), flush=True)


def refuse_other_folders(folder: Path, name: str = "sweep") -> None:
    """A sweep has runs in folders of its own; what came to nothing left a log or a line in the ledger."""
    rule = f"{name} must be the folder of a sweep, got {folder}"
    if not folder.is_dir():
        raise ValueError(f"{rule}: there is no such folder.")
    if (folder / "config.yaml").is_file() or (folder / "summary.json").is_file():
        raise ValueError(f"{rule}, which is that of a single run.")
    is_known = (folder / LEDGER).is_file() or (folder / PLAN).is_file()
    if not is_known and not any(folder.glob("*/overrides.yaml")) and not any(folder.glob("*/summary.json")):
        raise ValueError(f"{rule}: there is no run in it.")


def write_report(
    folder: Path, jobs: Sequence[Job], config: DictConfig | None, beside: Sequence[Path] = ()
) -> "list[Group]":
    """frontier.csv, frontier.png, groups.csv, groups.md, index.html; the groups are returned."""
    from hopscotch.report.frontier import write_csv
    from hopscotch.report.sweep_page import write_sweep_report

    command, missing = None, 0
    if config is not None:
        command = "python train.py -m " + shlex.join(config.hydra.overrides.task)  # -m does no harm to a search
        missing = max(0, int(config.hydra.sweeper.get("n_trials", 0)) - len(jobs))
    write_csv(jobs, folder / "frontier.csv")
    return write_sweep_report(folder, jobs, beside, command, missing)


def plan_of(folder: Path) -> DictConfig | None:
    """What Hydra was asked for, as it left it in the sweep's folder; scripts/study.py leaves no such file."""
    path = folder / PLAN
    if not path.is_file():
        return None
    config = OmegaConf.create(plain.literal(plain.read_yaml(path)))
    if not isinstance(config, DictConfig) or OmegaConf.select(config, "hydra.overrides.task") is None:
        raise ValueError(f"{path} must be the plan of a sweep, as Hydra writes it.")
    return config


def is_search(config: DictConfig | None) -> bool:
    return config is not None and bool(OmegaConf.select(config, "hydra.runtime.choices.hparams_search"))


def make_console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WITHOUT_TERMINAL)


def print_failures(jobs: Sequence[Job], console: "Console") -> None:
    from rich.markup import escape

    for job in jobs:
        name = job.folder or " ".join([f"model={job.model}", *job.overrides, f"seed={job.seed}"])
        if job.has_failed or job.error:
            reason = f": {job.error}" if job.error else ""
            console.print(
                f"{in_colour(job.status)} {escape(plain.sentence(name + reason))}", highlight=False, soft_wrap=True
            )
    num_failed = sum(job.has_failed for job in jobs)
    if num_failed:
        console.print(f"[red]{num_failed} of {len(jobs)} jobs failed or never ended[/red]", highlight=False)


def planned_overrides(config: DictConfig) -> list[list[str]]:
    """The overrides of every job that Hydra's own sweeper was asked for; none known for samplers such as Optuna's."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not is_basic(config):
        return []
    parameters = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    typed = parameters + list(config.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(typed)
    sweeps = [override for override in parsed if override.is_sweep_override()]
    counts = [sum(1 for _ in islice(one.sweep_string_iterator(), MAX_JOBS + 1)) for one in sweeps]
    if math.prod(counts) > MAX_JOBS:
        raise ValueError(f"A sweep must have at most {MAX_JOBS} jobs, {PLAN} has more.")
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs


def is_basic(config: DictConfig) -> bool:
    """Every job is known beforehand."""
    return config.hydra.sweeper["_target_"].endswith("BasicSweeper")


def jobs_table(jobs: Sequence[Job]) -> "Table":
    """One row per job, with what tells it from the others."""
    shared = shared_overrides(jobs)
    table = new_table(
        "All jobs", ["model", "seed", "overrides", "status"], ["test acc", "compute", "M MACs", "seconds"]
    )
    for job in jobs:
        numbers = [number(job.test_acc), number(job.compute_fraction), millions(job.macs), number(job.seconds, 1)]
        table.add_row(job.model, job.seed, words(job.overrides, shared), in_colour(job.status), *numbers)
    return table


def means_table(jobs: Sequence[Job]) -> "Table":
    """Mean over seeds, with the standard deviation where there are two or more."""
    shared = shared_overrides(jobs)
    table = new_table("Means over seeds", ["model", "overrides"], ["seeds", "test acc", "compute", "M MACs", "seconds"])
    for (model, overrides), members in groups(jobs).items():
        scored = [job for job in members if job.status == "finished" and job.test_acc is not None]  # to its end
        columns = [
            spread([job.test_acc for job in scored], 4),
            spread([job.compute_fraction for job in scored], 4),
            spread([None if job.macs is None else job.macs / 1e6 for job in scored], 2),
            spread([job.seconds for job in scored], 1),
        ]
        table.add_row(model, words(overrides, shared), f"{len(scored)} of {len(members)}", *columns)
    return table


def groups_table(found: "Sequence[Group]") -> "Table":
    """One row per group of seeds and speakers, cheapest first."""
    timed = any(group.clip_ms for group in found)
    heads = ["runs", "test acc", "", "M MACs", *(["ms a clip"] if timed else []), "fit s"]
    table = new_table("Accuracy and cost, cheapest first; * Pareto set", ["#", "what"], heads)
    for row, group in enumerate(found, start=1):
        accuracy, macs, seconds = group.accuracy, group.macs, group.seconds
        mean_and_deviation = f"{accuracy.mean:.4f}"
        if accuracy.deviation is not None:
            mean_and_deviation += f" ± {accuracy.deviation:.4f}"
        numbers = [
            str(len(group.points)),
            mean_and_deviation,
            "*" if group.is_best else "",
            number(macs.mean, 3),
            *([number(group.clip_ms and group.clip_ms.mean, 2)] if timed else []),
            number(seconds and seconds.mean, 1),
        ]
        table.add_row(str(row), words(group.name.split(" "), ()), *numbers)
    return table


def trials_table(folder: Path, jobs: Sequence[Job]) -> "Table":
    """The jobs of a search, best first; those without a score last."""
    from hopscotch.report.score import FAILED, read_score

    shared = shared_overrides(jobs)
    table = new_table(
        "Trials, best first (score: validation accuracy; below zero: how far beyond the compute target)",
        ["trial", "model", "overrides", "status"],
        ["score", "test acc", "compute", "seconds"],
    )
    scored = [(read_score(folder / job.folder) if job.folder else None, job) for job in jobs]
    for score, job in sorted(scored, key=lambda pair: FAILED if pair[0] is None else pair[0], reverse=True):
        numbers = [number(score), number(job.test_acc), number(job.compute_fraction), number(job.seconds, 1)]
        trial = job.folder.partition("_")[0]
        status = in_colour(job.status)
        table.add_row(trial, job.model, words(job.overrides, shared), status, *numbers)
    return table


def in_colour(status: str) -> str:
    from rich.markup import escape

    style = STYLES.get(status, "red")
    return f"[{style}]{escape(status)}[/{style}]"


def words(overrides: Sequence[str], shared: Sequence[str]) -> str:
    """What tells jobs apart; numbers that a sampler drew, to four digits."""
    from rich.markup import escape

    told = " ".join(override for override in overrides if override not in shared)
    return escape(re.sub(r"(?<==)\d+\.\d{5,}(e-?\d+)?", lambda drawn: f"{float(drawn[0]):.4g}", told))


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
