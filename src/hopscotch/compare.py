"""Compare runs: configurations where they differ, figures with intervals, and the clips on which they disagree.

    hopscotch compare outputs/<run> outputs/<run> outputs/<run> --out clips.csv

    Figures: mean (lowest to highest seed)
                           A: dense, seeds 0 1           B: learned_skip, seed 0
    test acc          0.9867 (0.9833 to 0.9900)                          0.9833
      95 % over 300 clips      0.9767 to 0.9967                0.9667 to 0.9967
    ...
    accuracy of B minus A on the same clips  -0.003 (-0.015 to +0.008)  95 % over 300 clips

    hopscotch compare outputs/<run> outputs/<run> --evaluation   by the last hopscotch evaluate of each

Runs that differ in nothing but the seed are one column. Its accuracy has two intervals, which answer two questions:
over seeds (would training again give the same?) from the lowest run to the highest, and over clips or, where they are
known, speakers or recordings (would others give the same?) by bootstrap of each clip's mean over the seeds. Columns are
compared on pairs: the same clip in both.
The first 20 clips on which they disagree are shown; --out writes all of them.
"""

import argparse
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from hopscotch import plain
from hopscotch.config.errors import flat
from hopscotch.disagreements import Disagreement, Rows, disagreements, write_disagreements
from hopscotch.intervals import Interval, Units, bootstrap
from hopscotch.plain import read_json
from hopscotch.report.clips import ClipRow, read_clips
from hopscotch.report.records import each_once, group
from hopscotch.report.run_folder import CLIPS as CLIPS_FILE
from hopscotch.report.run_folder import EVALUATION as FOLDER
from hopscotch.report.run_folder import EVALUATION_METRICS as METRICS_FILE
from hopscotch.report.text import Table, make_console, print_table
from hopscotch.report.text import rich_text as escape

if TYPE_CHECKING:
    from rich.table import Table as RichTable

RUN = "<run>"  # stands for the run's own folder, which tells no configuration from another
NOT_COMPARED = ("run_dir", "seed")
COPIES = "callbacks.dashboard.hparams."  # of other keys, the seed among them
ABSENT = "-"
SAME_SECONDS = 0.05  # by which clips may differ that are the same at another sample rate
NUM_SHOWN = 20  # clips
PLACES = {  # of figures in summary.json besides those of the test: part, key, scale, digits
    "compute fraction": ("compute", "fraction", 1.0, 4),
    "million MACs a clip": ("compute", "macs", 1e-6, 3),
    "of a dense model": ("compute", "dense_macs", 1e-6, 3),
    "seconds of the model for a test clip": ("seconds", "test_clip", 1.0, 5),
    "seconds of training": ("seconds", "fit", 1.0, 1),
    "seconds in all": ("seconds", "total", 1.0, 1),
}


@dataclass(frozen=True)
class Run:
    """Hold what is compared of a run."""

    folder: Path
    config: dict[str, str]  # key as typed -> value, resolved
    summary: dict[str, Any]
    clips: list[ClipRow] | None  # None: written by a version that left no such table

    @property
    def seed(self) -> int:
        return self.summary["seed"]


@dataclass(frozen=True)
class Column:
    """Join runs that differ in nothing but the seed."""

    letter: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        seeds = " ".join(str(run.seed) for run in self.runs)
        return f"{self.runs[0].summary['model']}, seed{'s' if len(self.runs) > 1 else ''} {seeds}"

    @property
    def clips(self) -> Rows:
        """Map each clip path to its rows, one per run of the column."""
        return group((row for run in self.runs for row in run.clips or ()), by=lambda row: row.path)

    @property
    def right(self) -> dict[str, float]:
        """Map each clip path to the share of runs that are right."""
        return {path: mean(row.is_right for row in rows) for path, rows in self.clips.items()}

    @property
    def units(self) -> Units:
        """What the intervals are over: the clips of `right`, or their groups."""
        return Units.of([rows[0].shared for rows in self.clips.values()])


def main(arguments: Sequence[str]) -> None:
    """Run `hopscotch compare`."""
    parser = argparse.ArgumentParser(
        "hopscotch compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="a run's folder")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file for all clips on which they disagree")
    parser.add_argument(
        "--evaluation", action="store_true", help="by the last hopscotch evaluate of each run, and not by its test"
    )
    given = parser.parse_args(arguments)
    if given.out is not None and given.out.is_dir():
        parser.error(f"--out must be a file, got the folder {given.out}")
    compare_runs(given.runs, given.out, evaluated=given.evaluation)


def compare_runs(folders: Sequence[Path], out: Path | None, *, evaluated: bool = False) -> None:
    """Print a comparison, and write all disagreements to `out` as CSV.

    `evaluated` compares by the last evaluation of each run, on other clips or in noise, and not by its test.
    """
    columns = columns_of([read_run(folder, evaluated=evaluated) for folder in each_once(folders)])
    console = make_console()
    for column in columns:
        for run in column.runs:
            early = "" if run.summary["status"] == "finished" else f"  ({run.summary['status']} before its end)"
            words = f"{column.letter}  seed {run.seed}  {run.folder}{early}"
            console.print(escape(words), highlight=False, soft_wrap=True)
    console.print()
    if len(columns) > 1:
        print_table(side_by_side(columns, config_differences(columns)), console, "Configurations, where they differ")
    else:
        console.print("The configurations differ in nothing but the seed.")
    console.print()
    figures = side_by_side(columns, metric_rows(columns))
    print_table(figures._replace(numbers=figures.head[1:]), console, "Figures: mean (lowest to highest seed)")
    console.print()
    if reason := why_not_paired(columns):
        console.print(f"[yellow]The clips are not compared:[/yellow] {escape(reason)}", highlight=False, soft_wrap=True)
        if out is not None:
            raise ValueError(f"--out has nothing to write: {reason}")
        return
    for letter, interval in paired_differences(columns):
        words = f"accuracy of {letter} minus A on the same clips  {interval}  95 % over {interval.over}"
        console.print(words, highlight=False)
    show_clips(voices(columns), console, out)


def read_run(folder: Path, *, evaluated: bool = False) -> Run:
    """Read a run by its test or, if `evaluated`, by its last evaluation."""
    rule = f"A run to compare must be the folder of a run that came to its test, got {folder}"
    if not folder.is_dir():
        raise ValueError(f"{rule}: there is no such folder.")
    for needed in ("summary.json", "config.yaml"):
        if not (folder / needed).is_file():
            raise ValueError(f"{rule}: no {needed} there.")
    summary = read_json(folder / "summary.json")
    if not summary.get("test"):
        raise ValueError(f"{rule}: it {summary['status']} before its test ({summary.get('error', 'no reason given')}).")
    clips = folder / "report" / CLIPS_FILE
    if evaluated:
        clips, metrics = folder / FOLDER / CLIPS_FILE, folder / FOLDER / METRICS_FILE
        if not metrics.is_file():
            raise ValueError(f"{folder} has not been evaluated: hopscotch evaluate {folder}")
        found = read_json(metrics)
        summary |= {"test": found["test"], "compute": found["compute"]}
    return Run(folder, read_config(folder), summary, read_clips(clips) if clips.is_file() else None)


def read_config(folder: Path) -> dict[str, str]:
    """Map each key of the configuration to its value, without those that tell no configurations apart."""
    config = plain.read_config(folder / "config.yaml")
    own = str(config.get("run_dir"))
    every = flat(OmegaConf.create(config))
    found = {key: str(node).replace(own, RUN) for key, node in every.items() if not (isinstance(node, dict) and node)}
    return {key: value for key, value in found.items() if key not in NOT_COMPARED and not key.startswith(COPIES)}


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """Make columns in the order in which runs were named."""
    if len(runs) < 2:
        raise ValueError(f"There must be two different runs to compare, or more, got {len(runs)}.")
    found = group(runs, by=lambda run: tuple(sorted(run.config.items())))
    letters = [a + b for a in ("", *string.ascii_uppercase) for b in string.ascii_uppercase]
    return [
        Column(letter, tuple(sorted(members, key=lambda run: run.seed)))
        for letter, members in zip(letters, found.values(), strict=False)
    ]


def config_differences(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """List the keys that differ, each with its value in every column."""
    configs = [column.runs[0].config for column in columns]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [(key, [config.get(key, ABSENT) for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def metric_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """List names and, for each column, mean (lowest to highest) over its seeds."""
    metrics = dict.fromkeys(key for column in columns for run in column.runs for key in run.summary["test"])
    tested = {f"test {key}": ("test", key, 1.0, 4) for key in metrics if key not in ("macs", "compute_fraction")}
    has_clips = all(run.clips for column in columns for run in column.runs)
    rows = []
    for name, place in (tested | PLACES).items():
        rows.append((name, [over_seeds(column, *place) for column in columns]))
        if name == "test acc" and has_clips:
            intervals = [bootstrap(np.array([*one.right.values()], dtype=np.float64), one.units) for one in columns]
            over = " or ".join(dict.fromkeys(found.over for found in intervals))
            rows.append((f"  95 % over {over}", [f"{found.low:.4f} to {found.high:.4f}" for found in intervals]))
    rows.append(("parameters", [f"{column.runs[0].summary['parameters']:,}" for column in columns]))
    return rows


def over_seeds(column: Column, part: str, key: str, scale: float, digits: int) -> str:
    """Write the mean of a figure over the seeds of a column that have it, with its range."""
    parts = [run.summary.get(part) or {} for run in column.runs]
    values = [found[key] * scale for found in parts if key in found]
    if not values:
        return ABSENT
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def why_not_paired(columns: Sequence[Column]) -> str | None:
    """Return a reason why clips cannot be compared one by one, or None."""
    first, *others = [run for column in columns for run in column.runs]
    for run in (first, *others):
        if run.clips is None:
            return f"{run.folder} has no {CLIPS_FILE} in its report."
    reasons = (why_not_the_same(first, run) for run in others)
    return next((reason for reason in reasons if reason), None)


def why_not_the_same(first: Run, run: Run) -> str | None:
    """Return how the test clips of two runs differ, or None."""
    known = {row.path: row for row in first.clips or ()}
    paths = {row.path for row in run.clips or ()}
    if paths != known.keys():
        counts = f"{len(known)} in {first.folder}, {len(paths)} in {run.folder}, {len(paths & known.keys())} in both."
        return f"the test clips are not the same: {counts}"
    for row in run.clips or ():
        same = known[row.path]
        if row.label != same.label:
            labels = f"{row.path} is {same.label} in {first.folder}, {row.label} in {run.folder}."
            return f"the labels are not the same: {labels}"
        if abs(row.seconds - same.seconds) > SAME_SECONDS:
            lengths = f"{row.path} has {same.seconds:g} s in {first.folder}, {row.seconds:g} s in {run.folder}."
            return f"the test clips are not the same: {lengths}"
    return None


def paired_differences(columns: Sequence[Column]) -> list[tuple[str, Interval]]:
    """Return the accuracy of every column minus that of the first, over the same clips."""
    first, *others = [column.right for column in columns]
    differences = [np.array([of[path] - first[path] for path in first], dtype=np.float64) for of in others]
    units = columns[0].units
    return [(column.letter, bootstrap(found, units)) for column, found in zip(columns[1:], differences, strict=True)]


def voices(columns: Sequence[Column]) -> list[Column]:
    """Return who may disagree: the columns or, where there is only one, its runs."""
    if len(columns) > 1:
        return list(columns)
    return [Column(f"{columns[0].letter}{run.seed}", (run,)) for run in columns[0].runs]


def show_clips(columns: Sequence[Column], console: Console, out: Path | None) -> None:
    """Print the surest disagreements, and write all of them."""
    clips = disagreements([column.clips for column in columns])
    num_clips = len(columns[0].runs[0].clips or ())
    if clips:
        console.print(clips_table(columns, clips[:NUM_SHOWN]))
    hint = "" if out is not None or len(clips) <= NUM_SHOWN else "; --out clips.csv writes all"
    console.print(f"{len(clips)} of {num_clips} clips get different labels{hint}", highlight=False)
    if out is not None:
        write_disagreements([column.letter for column in columns], clips, out)
        console.file.write(f"{out}\n")


def side_by_side(columns: Sequence[Column], rows: Sequence[tuple[str, list[str]]]) -> Table:
    """Make a table with a column for each of `columns`."""
    heads = [f"{column.letter}: {column.name}" for column in columns]
    return Table(["", *heads], [[name, *values] for name, values in rows])


def clips_table(columns: Sequence[Column], clips: Sequence[Disagreement]) -> "RichTable":
    """Make a table of predictions, how sure, and at what share of the dense compute; bold where right."""
    from rich.table import Table as RichTable

    title = "Clips on which they disagree, the surest first"
    table = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in ("clip", "label"):
        table.add_column(head, overflow="fold")
    for column in columns:
        table.add_column(f"{column.letter}: label, confidence, compute", no_wrap=True)
    for clip in clips:
        cells = []
        for verdict in clip.verdicts:
            name = escape(verdict.prediction)
            shown = f"[bold green]{name}[/]" if verdict.prediction == clip.label else f"[red]{name}[/]"
            votes = "" if verdict.votes == "1/1" else f" {verdict.votes}"
            cells.append(f"{shown} {verdict.confidence:.2f} {verdict.compute:.2f}{votes}")
        table.add_row(escape(clip.path), escape(clip.label), *cells)
    return table
