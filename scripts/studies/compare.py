"""Runs side by side: where their configurations differ, what they scored and cost.

Runs that differ in nothing but the seed are one column. Its accuracy has two intervals, which answer two questions:
over seeds (would training again give the same?) from the lowest run to the highest, and over clips (would other clips
give the same?) by bootstrap, each clip's own mean over the seeds being drawn. Columns are told apart on pairs: the same
clip in both.

The clips on which runs disagree, the surest disagreement first.

A column of several seeds predicts what most of its runs do; of equally many, what they are surer of together. Its
confidence is the mean over the runs that say so, its compute the mean over all.

Print a comparison of runs, and write the clips on which they disagree.
"""

import csv
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from hopscotch.report.clips import ClipRow, read_clips
from hopscotch.report.jobs import read_json
from hopscotch.report.run_folder import CLIPS as CLIPS_FILE
from hopscotch.report.run_folder import EVALUATION as FOLDER
from hopscotch.report.run_folder import EVALUATION_METRICS as METRICS_FILE
from hopscotch.report.sweep import make_console, new_table
from scripts.studies.table import Interval, bootstrap

if TYPE_CHECKING:
    from rich.table import Table


RUN = "<run>"  # stands for the run's own folder, which tells no configuration from another
NOT_COMPARED = ("run_dir", "seed")
COPIES = "callbacks.dashboard.hparams."  # of other keys, the seed among them
ABSENT = "-"
SAME_SECONDS = 0.05  # by which clips may differ that are the same at another sample rate


@dataclass(frozen=True)
class Run:
    folder: Path
    config: dict[str, str]  # key as typed -> value, resolved
    summary: dict[str, Any]
    clips: list[ClipRow] | None  # None: written by a version that left no such table

    @property
    def seed(self) -> int:
        return self.summary["seed"]


@dataclass(frozen=True)
class Column:
    """Runs that differ in nothing but the seed."""

    letter: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return f"{self.runs[0].summary['model']}, " + (
            f"seed {self.runs[0].seed}"
            if len(self.runs) == 1
            else f"seeds {' '.join(str(run.seed) for run in self.runs)}"
        )


def read_run(folder: Path, *, evaluated: bool = False) -> Run:
    """`evaluated`: as its last evaluation judged it, and not its test."""
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
            raise ValueError(f"{folder} has not been evaluated: python scripts/evaluate.py run={folder}")
        found = read_json(metrics)
        summary |= {"test": found["test"], "compute": found["compute"]}
    return Run(folder, read_config(folder), summary, read_clips(clips) if clips.is_file() else None)


def read_config(folder: Path) -> dict[str, str]:
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    own = str(cfg.get("run_dir"))
    found: dict[str, str] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, child in node.items():
                walk(child, f"{path}.{key}" if path else str(key))
        else:
            found[path] = str(node).replace(own, RUN)

    walk(OmegaConf.to_container(cfg, resolve=True), "")
    return {key: value for key, value in found.items() if key not in NOT_COMPARED and not key.startswith(COPIES)}


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """In the order in which they were named."""
    if len(runs) < 2:
        raise ValueError(f"There must be two different runs to compare, or more, got {len(runs)}.")
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(run.config.items())), []).append(run)
    letters = [a + b for a in ("", *string.ascii_uppercase) for b in string.ascii_uppercase]
    return [
        Column(letter, tuple(sorted(members, key=lambda run: run.seed)))
        for letter, members in zip(letters, found.values(), strict=False)
    ]


def config_differences(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Keys that differ, each with its value in every column."""
    configs = [column.runs[0].config for column in columns]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [(key, [config.get(key, ABSENT) for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def metric_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Name and, for each column, mean (lowest to highest) over its seeds."""
    places: dict[str, tuple[str, str, float, int]] = {}  # name -> part, key, scale, digits
    for key in dict.fromkeys(key for column in columns for run in column.runs for key in run.summary["test"]):
        if key not in ("macs", "compute_fraction"):
            places[f"test {key}"] = ("test", key, 1.0, 4)
    places |= {
        "compute fraction": ("compute", "fraction", 1.0, 4),
        "million MACs a clip": ("compute", "macs", 1e-6, 3),
        "of a dense model": ("compute", "dense_macs", 1e-6, 3),
        "seconds of testing a clip": ("seconds", "test_clip", 1.0, 5),
        "seconds of training": ("seconds", "fit", 1.0, 1),
        "seconds in all": ("seconds", "total", 1.0, 1),
    }
    rows = []
    for name, (part, key, scale, digits) in places.items():
        known = [
            [run.summary[part][key] * scale for run in column.runs if key in (run.summary.get(part) or {})]
            for column in columns
        ]
        rows.append((name, [over_seeds(values, digits) for values in known]))
        if name == "test acc" and all(run.clips for column in columns for run in column.runs):
            intervals = [over_clips(column) for column in columns]
            rows.append(("  95 % over clips", [f"{found.low:.4f} to {found.high:.4f}" for found in intervals]))
    rows.append(("parameters", [f"{column.runs[0].summary['parameters']:,}" for column in columns]))
    return rows


def over_seeds(values: Sequence[float], digits: int) -> str:
    if not values:
        return ABSENT
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def clips_of_column(column: Column) -> dict[str, list[ClipRow]]:
    """By clip, the row of each run."""
    found: dict[str, list[ClipRow]] = {}
    for run in column.runs:
        for row in run.clips or ():
            found.setdefault(row.path, []).append(row)
    return found


def over_clips(column: Column) -> Interval:
    rows = clips_of_column(column).values()
    return bootstrap(np.array([mean(row.is_right for row in of_clip) for of_clip in rows], dtype=np.float64))


def why_not_paired(columns: Sequence[Column]) -> str | None:
    """A reason why clips cannot be held against each other, or None."""
    runs = [run for column in columns for run in column.runs]
    for run in runs:
        if run.clips is None:
            return f"{run.folder} has no {CLIPS_FILE} in its report."
    first, *others = runs
    known = {row.path: row for row in first.clips or ()}
    for run in others:
        paths = {row.path for row in run.clips or ()}
        if paths != known.keys():
            return (
                f"the test clips are not the same: {len(known)} in {first.folder}, {len(paths)} in {run.folder}, "
                f"{len(paths & known.keys())} in both."
            )
        for row in run.clips or ():
            same = known[row.path]
            if row.label != same.label:
                return (
                    f"the labels are not the same: {row.path} is {same.label} in {first.folder}, "
                    f"{row.label} in {run.folder}."
                )
            if abs(row.seconds - same.seconds) > SAME_SECONDS:
                return (
                    f"the test clips are not the same: {row.path} has {same.seconds:g} s in {first.folder}, "
                    f"{row.seconds:g} s in {run.folder}."
                )
    return None


def paired_differences(columns: Sequence[Column]) -> list[tuple[str, Interval]]:
    """Accuracy of every column minus that of the first, over the same clips."""
    right = [
        {path: mean(row.is_right for row in rows) for path, rows in clips_of_column(column).items()}
        for column in columns
    ]
    return [
        (column.letter, bootstrap(np.array([of[path] - right[0][path] for path in right[0]], dtype=np.float64)))
        for column, of in zip(columns[1:], right[1:], strict=True)
    ]


class Verdict(NamedTuple):
    """What a column makes of a clip."""

    prediction: str
    confidence: float
    compute: float
    votes: str  # runs that say so of all, "2/3"


class Disagreement(NamedTuple):
    path: str
    label: str
    verdicts: list[Verdict]  # by column

    @property
    def sureness(self) -> float:
        """How sure the least sure of two contradicting columns is, for the surest two."""
        best: dict[str, float] = {}
        for verdict in self.verdicts:
            best[verdict.prediction] = max(verdict.confidence, best.get(verdict.prediction, 0.0))
        return sorted(best.values())[-2]


def verdict_of(rows: Sequence[ClipRow]) -> Verdict:
    said: dict[str, list[float]] = {}
    for row in rows:
        said.setdefault(row.prediction, []).append(row.confidence)
    prediction = max(said, key=lambda name: (len(said[name]), sum(said[name])))
    votes = said[prediction]
    return Verdict(prediction, mean(votes), mean(row.compute for row in rows), f"{len(votes)}/{len(rows)}")


def voices(columns: Sequence[Column]) -> list[Column]:
    """Who may disagree: the columns, or, where there is only one, its runs."""
    if len(columns) > 1:
        return list(columns)
    return [Column(f"{columns[0].letter}{run.seed}", (run,)) for run in columns[0].runs]


def disagreements(columns: Sequence[Column]) -> list[Disagreement]:
    by_column = [clips_of_column(column) for column in columns]
    found = []
    for path, rows in by_column[0].items():
        verdicts = [verdict_of(of_clip[path]) for of_clip in by_column]
        if len({verdict.prediction for verdict in verdicts}) > 1:
            found.append(Disagreement(path, rows[0].label, verdicts))
    return sorted(found, key=lambda clip: -clip.sureness)


def write_disagreements(columns: Sequence[Column], clips: Sequence[Disagreement], path: Path) -> None:
    heads = [f"{name} {column.letter}" for column in columns for name in Verdict._fields]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *heads])
        writer.writerows([clip.path, clip.label, *(cell for v in clip.verdicts for cell in v)] for clip in clips)


NUM_SHOWN = 20  # clips


def compare_runs(folders: Sequence[Path], out: Path | None, *, evaluated: bool = False) -> None:
    """`out`: where all disagreements go, as CSV. ValueError names a folder that is no finished run.

    `evaluated`: by the last evaluation of each, on other clips or in noise, and not by its test.
    """
    each = {folder.resolve(): folder for folder in folders}.values()
    columns = columns_of([read_run(folder, evaluated=evaluated) for folder in each])
    console = make_console()
    for column in columns:
        for run in column.runs:
            words = f"{column.letter}  seed {run.seed}  {run.folder}{early(run)}"
            console.print(escape(words), highlight=False, soft_wrap=True)
    console.print()
    if len(columns) > 1:
        console.print(side_by_side("Configurations, where they differ", columns, config_differences(columns)))
    else:
        console.print("The configurations differ in nothing but the seed.")
    console.print()
    console.print(side_by_side("Figures: mean (lowest to highest seed)", columns, metric_rows(columns), right=True))
    console.print()
    if reason := why_not_paired(columns):
        console.print(f"[yellow]The clips are not compared:[/yellow] {escape(reason)}", highlight=False, soft_wrap=True)
        if out is not None:
            raise ValueError(f"--out has nothing to write: {reason}")
        return
    for letter, interval in paired_differences(columns):
        console.print(f"accuracy of {letter} minus A on the same clips  {interval}  95 % over clips", highlight=False)
    show_clips(voices(columns), console, out)


def early(run: Run) -> str:
    return "" if run.summary["status"] == "finished" else f"  ({run.summary['status']} before its end)"


def show_clips(columns: Sequence[Column], console: Console, out: Path | None) -> None:
    clips = disagreements(columns)
    num_clips = len(columns[0].runs[0].clips or ())
    if clips:
        console.print(clips_table(columns, clips[:NUM_SHOWN]))
    hint = "" if out is not None or len(clips) <= NUM_SHOWN else "; --out clips.csv writes all"
    console.print(f"{len(clips)} of {num_clips} clips get different labels{hint}", highlight=False)
    if out is not None:
        write_disagreements(columns, clips, out)
        console.file.write(f"{out}\n")


def side_by_side(
    title: str, columns: Sequence[Column], rows: Sequence[tuple[str, list[str]]], *, right: bool = False
) -> "Table":
    heads = [escape(f"{column.letter}: {column.name}") for column in columns]
    table = new_table(title, ["", *([] if right else heads)], heads if right else [])
    for name, values in rows:
        table.add_row(escape(name), *map(escape, values))
    return table


def clips_table(columns: Sequence[Column], clips: Sequence[Disagreement]) -> "Table":
    """Prediction, how sure, and at what share of the dense compute; bold where right."""
    table = new_table("Clips on which they disagree, the surest first", ["clip", "label"], [])
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
