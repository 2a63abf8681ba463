"""Leave an evaluation in its folder, and print it.

clips.csv          what the model made of every clip, under the first condition
metrics.json       all figures below, and how they came about
per_class.csv .md  class by class; confusion.png  who was taken for whom
conditions.csv .md a row for each budget and level of noise; conditions.png where there are several
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hopscotch.plain import quoted, shown
from hopscotch.report.budgets import Condition, budget_points, draw_budgets
from hopscotch.report.clip_table import FILE as CLIPS_FILE
from hopscotch.report.clip_table import ClipRow, write_clips
from hopscotch.report.evaluation_figures import draw_confusion, draw_noise
from hopscotch.report.json_text import json_text
from hopscotch.report.markdown import markdown_table
from hopscotch.report.metrics import ClassRow, Metrics, as_json

FOLDER = Path("report") / "evaluation"  # of a run
METRICS_FILE = "metrics.json"
CONDITIONS_PICTURE = "conditions.png"
MAX_PRINTED = 40  # classes; the others are in the file


def write_evaluation(
    folder: Path,
    *,
    facts: dict[str, Any],
    metrics: Metrics,
    clips: Iterable[ClipRow],
    conditions: Sequence[Condition],
) -> None:
    """`facts` are further keys of metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [row.label for row in metrics.per_class]
    write_clips(clips, folder / CLIPS_FILE)
    content = {
        **facts,
        **as_json(metrics, classes),
        "conditions": [condition._asdict() for condition in conditions],
    }
    (folder / METRICS_FILE).write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
    write_table(ClassRow._fields, metrics.per_class, folder / "per_class.csv")
    (folder / "per_class.md").write_text(per_class_markdown(metrics.per_class) + "\n", encoding="utf-8")
    write_table(Condition._fields, conditions, folder / "conditions.csv")
    (folder / "conditions.md").write_text(conditions_markdown(conditions) + "\n", encoding="utf-8")
    draw_confusion(metrics.confusion, classes, folder / "confusion.png")
    draw_conditions(conditions, folder / CONDITIONS_PICTURE)


def draw_conditions(conditions: Sequence[Condition], picture: Path) -> None:
    """Several budgets: accuracy against compute, a line for each noise. Several noises alone: accuracy and compute."""
    picture.unlink(missing_ok=True)  # of an evaluation before this one
    names = list(dict.fromkeys(row.condition for row in conditions))
    curves = {name: budget_points([row for row in conditions if row.condition == name]) for name in names}
    if len(conditions) > len(names):
        draw_budgets(curves, picture)
    elif len(conditions) > 1:
        draw_noise(names, [row.acc for row in conditions], [row.fraction for row in conditions], picture)


def write_table(head: Sequence[str], rows: Iterable[Sequence[object]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([quoted(cell) for cell in row] for row in rows)


CLASS_HEADS = ("class", "clips", "accuracy", "precision", "F1", "taken for", "compute", "million MACs")
LEFT = ("class", "taken for", "condition")  # the other columns are numbers


def class_cells(row: ClassRow) -> list[str]:
    """Under CLASS_HEADS, for a person."""
    shares = [digits(value, 3) for value in (row.acc, row.precision, row.f1)]
    macs = None if row.macs is None else row.macs / 1e6
    return [row.label, str(row.clips), *shares, row.taken_for, digits(row.compute, 3), digits(macs, 2)]


def digits(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def per_class_markdown(rows: Iterable[ClassRow]) -> str:
    return markdown_table(CLASS_HEADS, map(class_cells, rows), [head for head in CLASS_HEADS if head not in LEFT])


def conditions_markdown(conditions: Sequence[Condition]) -> str:
    heads, rows = condition_cells(conditions)
    return markdown_table(heads, rows, [head for head in heads if head not in LEFT])


def print_evaluation(
    metrics: Metrics,
    conditions: Sequence[Condition],
    *,
    time: float | None = None,
    warnings: Sequence[str],
    console: Console | None = None,
) -> None:
    """`time`: share of the dense run's seconds that the decisions leave."""
    console = console or Console()
    first, num_clips = conditions[0], sum(row.clips for row in metrics.per_class)
    top = "  ".join(f"{share:.4f} among {k}" for k, share in metrics.top_k.items())
    lines = {
        "test accuracy": f"{metrics.acc:.4f}  ({num_clips} clips)",
        "macro F1": f"{metrics.f1:.4f}",
        "top-k accuracy": top,
        "calibration error": f"{metrics.calibration_error:.4f}",
        "compute fraction": f"{first.fraction:.4f}  ({first.macs / 1e6:.2f} million multiply-accumulates a clip)",
        "time fraction": "" if time is None else f"{time:.2f}  (as trained, over the same model with nothing skipped)",
    }
    console.print()
    for word, value in lines.items():
        if value:
            console.print(f"[bold]{word:<18}[/bold] {value}", highlight=False)
    console.print()
    print_classes(metrics.per_class, console)
    if len(conditions) > 1 or first.requested is not None:
        console.print()
        print_conditions(conditions, console)
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)
    console.print()


def print_classes(rows: Sequence[ClassRow], console: Console) -> None:
    title = "By class"
    if len(rows) > MAX_PRINTED:
        rows = sorted(rows, key=lambda row: 1.0 if row.acc is None else row.acc)[:MAX_PRINTED]
        title = f"The {MAX_PRINTED} classes recognised worst (per_class.csv has all)"
    print_table(title, CLASS_HEADS, map(class_cells, rows), console)


def print_conditions(conditions: Sequence[Condition], console: Console) -> None:
    has_many = len({row.requested for row in conditions}) > 1
    print_table("One checkpoint, many budgets" if has_many else "By condition", *condition_cells(conditions), console)


def condition_cells(conditions: Sequence[Condition]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, for a person; those of budgets only where any was asked for."""
    heads = ("condition", "requested", "on validation", "on test", "million MACs", "accuracy", "macro F1")
    rows = [
        [
            row.condition,
            *(digits(share, 3) for share in (row.requested, row.calibrated, row.fraction)),
            digits(row.macs / 1e6, 2),
            *(digits(share, 4) for share in (row.acc, row.f1)),
        ]
        for row in conditions
    ]
    has_budgets = any(row.requested is not None for row in conditions)
    wanted = [place for place, head in enumerate(heads) if has_budgets or head not in heads[1:3]]
    return [heads[i] for i in wanted], [[row[i] for i in wanted] for row in rows]


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="left" if head in LEFT else "right")
    for row in rows:
        table.add_row(*(escape(shown(cell)) for cell in row))
    console.print(table)
