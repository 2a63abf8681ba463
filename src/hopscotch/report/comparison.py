"""Print a comparison of runs, and write the clips on which they disagree."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from hopscotch.report.compare import (
    Column,
    Run,
    columns_of,
    config_differences,
    metric_rows,
    paired_differences,
    read_run,
    why_not_paired,
)
from hopscotch.report.disagree import Disagreement, disagreements, voices, write_disagreements
from hopscotch.report.sweep import make_console, new_table

if TYPE_CHECKING:
    from rich.table import Table

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
