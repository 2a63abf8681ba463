"""End a sweep: tables of its jobs and groups, the frontier, a page, and an honest exit code.

Hydra loads this module before the first job, so heavy packages are imported where they are used.
"""

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from hopscotch.plain import literal, read_yaml, refuse_links, sentence, shown, write_csv
from hopscotch.report import text
from hopscotch.report.records import (
    FAILED,
    LEDGER,
    VALUE,
    Group,
    Record,
    Spread,
    each_once,
    group,
    read_records,
    shared_overrides,
    spread_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAN = "multirun.yaml"
WRITTEN = ("index.html", "frontier.csv", "frontier.png", "groups.csv", "groups.md")
MAX_JOBS = 10_000  # of a plan
WITHOUT_TERMINAL = 160  # columns; rich assumes 80 and would fold the overrides
STYLES = {"finished": "green", "stopped": "yellow"}  # every other status is red
Cell = str | int | float | None


class Column(NamedTuple):
    """Describe a column of groups.csv and groups.md."""

    head: str
    of: Callable[[Group], Cell]
    digits: int = 4


COLUMNS = {  # value stands for the primary metric
    "model": Column("model", lambda one: one.model),
    "overrides": Column("overrides", lambda one: " ".join(w for w in one.words if not w.startswith("model="))),
    "seeds": Column("seeds", lambda one: " ".join(one.seeds)),
    "speakers": Column("held-out speakers", lambda one: " ".join(one.speakers)),
    "runs": Column("runs", lambda one: len(one.records)),
    "value": Column("value", lambda one: one.value.mean),
    "value_sd": Column("deviation", lambda one: one.value.deviation),
    "value_low": Column("lowest", lambda one: one.value.low if len(one.seeds) > 1 else None),
    "value_high": Column("highest", lambda one: one.value.high if len(one.seeds) > 1 else None),
    "fraction": Column("compute", lambda one: one.fraction and one.fraction.mean, 3),
    "macs_m": Column("M MACs", lambda one: one.macs.mean, 3),
    "seconds": Column("s of training", lambda one: one.seconds and one.seconds.mean, 1),
    "clip_ms": Column("ms a clip", lambda one: one.clip_ms and one.clip_ms.mean, 2),
    "pareto": Column("Pareto (compute)", lambda one: "yes" if one.is_best else "no"),
    "pareto_time": Column("Pareto (time)", lambda one: "yes" if one.is_fastest else "no"),
}
RUN_COLUMNS = "folder model seed overrides status value compute_fraction macs seconds error fit_seconds clip_ms speaker"


class SweepTable(Callback):
    """Report a sweep: Hydra's hooks at the start and at the end of `train.py -m`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the plan, as Hydra's own sweeper does and others do not."""
        path = Path(config.hydra.sweep.dir) / PLAN
        if not is_basic(config) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(OmegaConf.masked_copy(config, "hydra"), path)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report; exit with 1 if a job failed."""
        folder = Path(config.hydra.sweep.dir)
        records = read_records(folder, planned_overrides(config))
        try:
            report_sweep(folder, records, config)
        finally:
            # Hydra makes a warning and exit code 0 of a callback's Exception; SystemExit passes, even past one.
            if any(record.has_failed for record in records):
                raise SystemExit(1)


def append_ledger(sweep_folder: str | Path, row: Mapping[str, Any]) -> None:
    """Add what a job has to say at its end: `folder` (its name), `overrides` (a list), `status`, and more if it likes.

    The line is written at once, so jobs that end together do not tear each other's.
    """
    folder = Path(sweep_folder)
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dict(row)) + "\n"
    with (folder / LEDGER).open("ab", buffering=0) as file:  # unbuffered: one call to the system
        file.write(line.encode())


def report_sweep(folder: Path, records: Sequence[Record], config: DictConfig | None = None) -> None:
    """Print the tables and write the report; the folder of the sweep is the last line printed."""
    console = make_console()
    if records:
        console.print(jobs_table(records, search=is_search(config)))
    if len({record.key for record in records}) < len(records):
        console.print(means_table(records))
    write_report(folder, records, config)
    print_failures(records, console)
    print(f"look closer: {folder / 'index.html'}\n{folder}", flush=True)


def report_folder(folder: Path, beside: Sequence[Path] = ()) -> None:
    """Report a folder that `train.py -m` or scripts/study.py has filled or is filling, with the runs of others."""
    from hopscotch.report.sweep_page import cautions

    for where in (folder, *beside):
        refuse_other_folders(where)
    _, *beside = each_once((folder, *beside))
    refuse_links(folder, WRITTEN)
    plan = plan_of(folder)
    records = read_records(folder, () if plan is None else planned_overrides(plan))
    console = make_console()
    groups = write_report(folder, records, plan, beside)
    if groups:
        console.print(groups_table(groups))
    for caution in cautions(records, groups, 0):
        console.print(f"[yellow]warning:[/yellow] {text.rich_text(caution)}", highlight=False, soft_wrap=True)
    if is_search(plan) and records:
        console.print(jobs_table(records, search=True))
    print_failures(records, console)
    print(shown(folder / "index.html"), flush=True)


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


def write_report(
    folder: Path, records: Sequence[Record], config: DictConfig | None, beside: Sequence[Path] = ()
) -> list[Group]:
    """Write frontier.csv, frontier.png, groups.csv, groups.md and index.html, and return the groups."""
    from hopscotch.report.sweep_page import write_sweep_report

    command, missing = None, 0
    if config is not None:
        command = "python train.py -m " + shlex.join(config.hydra.overrides.task)  # -m does no harm to a search
        missing = max(0, int(config.hydra.sweeper.get("n_trials", 0)) - len(records))
    write_runs(records, folder)
    return write_sweep_report(folder, records, beside, command, missing)


def group_rows(groups: Sequence[Group]) -> list[dict[str, Cell]]:
    """Return the rows of groups.csv."""
    rows = enumerate(groups, start=1)
    return [{"number": place, **{name: column.of(one) for name, column in COLUMNS.items()}} for place, one in rows]


def written_rows(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells for people, without the columns in which nothing stands."""
    rows = group_rows(groups)
    shown = [name for name in COLUMNS if any(row[name] not in (None, "") for row in rows)]
    heads = ["#", *(groups[0].metric_name if name == VALUE else COLUMNS[name].head for name in shown)]
    return heads, [[str(row["number"]), *(cell(row[name], COLUMNS[name].digits) for name in shown)] for row in rows]


def write_groups(groups: Sequence[Group], folder: Path) -> None:
    """Write groups.csv and groups.md."""
    metric = metric_of([record for one in groups for record in one.records])
    names = ["number", *(metric + name.removeprefix(VALUE) if name.startswith(VALUE) else name for name in COLUMNS)]
    write_csv(folder / "groups.csv", names, [list(row.values()) for row in group_rows(groups)])
    told = text.markdown(text.Table(*written_rows(groups))) if groups else "No run has finished."
    (folder / "groups.md").write_text(told + "\n", encoding="utf-8")


def write_runs(records: Sequence[Record], folder: Path) -> None:
    """Write frontier.csv, a row per job as far as each came."""
    names = RUN_COLUMNS.split()
    cells = [[getattr(record, name) for name in names] for record in records]
    rows = [[" ".join(cell) if isinstance(cell, tuple) else cell for cell in row] for row in cells]
    heads = [f"test_{metric_of(records)}" if name == VALUE else name for name in names]
    write_csv(folder / "frontier.csv", heads, rows)


def metric_of(records: Sequence[Record]) -> str:
    """Return the primary metric of the records, or `value` where they have several."""
    names = {record.metric for record in records if record.value is not None}
    return names.pop() if len(names) == 1 else VALUE


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


def planned_overrides(config: DictConfig) -> list[list[str]]:
    """Return the overrides of every job that Hydra's own sweeper will run; samplers such as Optuna's have none."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not is_basic(config):
        return []
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    typed = parameters + list(config.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(typed)
    counts = [islice(one.sweep_string_iterator(), MAX_JOBS + 1) for one in parsed if one.is_sweep_override()]
    if math.prod(sum(1 for _ in values) for values in counts) > MAX_JOBS:
        raise ValueError(f"A sweep must have at most {MAX_JOBS} jobs, {PLAN} has more.")
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs


def is_basic(config: DictConfig) -> bool:
    """Tell whether every job is known beforehand."""
    return config.hydra.sweeper["_target_"].endswith("BasicSweeper")


def make_console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WITHOUT_TERMINAL)


def print_failures(records: Sequence[Record], console: "Console") -> None:
    for record in records:
        if record.has_failed or record.error:
            told = sentence((record.folder or record.described) + (f": {record.error}" if record.error else ""))
            console.print(f"{in_colour(record.status)} {text.rich_text(told)}", highlight=False, soft_wrap=True)
    num_failed = sum(record.has_failed for record in records)
    if num_failed:
        console.print(f"[red]{num_failed} of {len(records)} jobs failed or never ended[/red]", highlight=False)


def jobs_table(records: Sequence[Record], *, search: bool = False) -> "Table":
    """Make a table of jobs with what tells each from the others; of a search best first, those without a score last."""
    shared, metric = shared_overrides(records), metric_of(records)
    heads = [*(["score"] if search else []), f"test {metric}", "compute", "M MACs", "seconds"]
    table = new_table("All jobs", ["model", "seed", "overrides", "status"], heads)
    if search:
        title = (
            f"Trials, best first (score: {metric} on validation clips; below zero: how far beyond the compute target)"
        )
        table = new_table(title, ["trial", "model", "overrides", "status"], heads)
        records = sorted(records, key=lambda one: FAILED if one.score is None else one.score, reverse=True)
    for record in records:
        names = (record.folder.partition("_")[0], record.model) if search else (record.model, record.seed)
        figures = (record.value, 4), (record.compute_fraction, 4), (record.macs_m, 2), (record.seconds, 1)
        cells = [cell(value, digits) for value, digits in ([(record.score, 4)] if search else []) + [*figures]]
        table.add_row(*map(text.rich_text, names), words(record.overrides, shared), in_colour(record.status), *cells)
    return table


def in_colour(status: str) -> str:
    return f"[{STYLES.get(status, 'red')}]{text.rich_text(status)}[/]"


def means_table(records: Sequence[Record]) -> "Table":
    """Make a table of means over seeds, with the standard deviation where there are two or more."""
    shared = shared_overrides(records)
    heads = ["seeds", f"test {metric_of(records)}", "compute", "M MACs", "seconds"]
    table = new_table("Means over seeds", ["model", "overrides"], heads)
    for (model, overrides), members in group(records, by=lambda record: record.key).items():
        done = [record for record in members if record.status == "finished" and record.value is not None]
        figures = ("value", 4), ("compute_fraction", 4), ("macs_m", 2), ("seconds", 1)
        cells = [cell(spread_of(done, name), digits) for name, digits in figures]
        table.add_row(text.rich_text(model), words(overrides, shared), f"{len(done)} of {len(members)}", *cells)
    return table


def groups_table(groups: Sequence[Group]) -> "Table":
    """Make a table of groups of seeds and speakers, cheapest first."""
    heads = ["runs", f"test {metric_of(groups[0].records)}", "", "M MACs", "ms a clip", "fit s"]
    title = f"{groups[0].metric_name.capitalize()} and cost, cheapest first; * Pareto set"
    table = new_table(title, ["#", "what"], heads)
    for row, one in enumerate(groups, start=1):
        times = [cell(COLUMNS[name].of(one), COLUMNS[name].digits) for name in ("macs_m", "clip_ms", "seconds")]
        told = words(one.name.split(" "), ())
        table.add_row(str(row), told, str(len(one.records)), cell(one.value), "*" if one.is_best else "", *times)
    return table


def words(overrides: Sequence[str], shared: Sequence[str]) -> str:
    """Join the overrides that tell a job apart, with numbers that a sampler drew to four digits."""
    told = " ".join(override for override in overrides if override not in shared)
    return text.rich_text(re.sub(r"(?<==)\d+\.\d{5,}(e-?\d+)?", lambda drawn: f"{float(drawn[0]):.4g}", told))


def new_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for word in words:
        table.add_column(word, overflow="fold")
    for word in numbers:
        table.add_column(word, justify="right", no_wrap=True)
    return table


def cell(value: Any, digits: int = 4) -> str:
    """Write a cell for people: numbers with so many digits, a spread with its deviation, anything else as it is."""
    if value is None or isinstance(value, float):
        return text.number(value, digits)
    return format(value, f".{digits}f") if isinstance(value, Spread) else str(value)
