"""Leave an evaluation in its folder, and print it.

clips.csv          what the model made of every clip, under the first condition
metrics.json       all figures below, and how they came about
per_class.csv .md  class by class; confusion.png  who was taken for whom
conditions.csv .md a row for each budget and level of noise; conditions.png where there are several
budgets.csv .md .png  accuracy against compute, in the run's own report/ where the test is the run's own
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hopscotch.conditions import Condition
from hopscotch.plain import write_csv
from hopscotch.report import figures
from hopscotch.report.clips import ClipRow, write_clips
from hopscotch.report.metrics import ClassRow, Metrics, as_json
from hopscotch.report.run_folder import CLIPS, EVALUATION_METRICS
from hopscotch.report.text import Table, json_text, markdown, number, print_table

CONDITIONS_PICTURE = "conditions.png"
BUDGETS = ("requested", "calibrated", "fraction", "macs", "acc")  # columns of budgets.csv
MAX_PRINTED = 40  # classes; the others are in the file


def write_evaluation(
    folder: Path,
    *,
    facts: dict[str, Any],
    metrics: Metrics,
    clips: Iterable[ClipRow],
    conditions: Sequence[Condition],
) -> None:
    """Write all files but those of budgets; `facts` are further keys of metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = [row.label for row in metrics.per_class]
    write_clips(clips, folder / CLIPS)
    told = {"conditions": [condition._asdict() for condition in conditions]}
    content = json_text({**facts, **as_json(metrics, classes), **told}, indent=2)
    (folder / EVALUATION_METRICS).write_text(content + "\n", encoding="utf-8")
    _write(folder / "per_class", ClassRow._fields, metrics.per_class, class_table(metrics.per_class))
    _write(folder / "conditions", Condition._fields, conditions, condition_table(conditions))
    ((drawn, _),) = figures.draw_confusion(np.array(metrics.confusion), classes)
    figures.save(drawn, folder / "confusion.png")
    draw_conditions(conditions, folder / CONDITIONS_PICTURE)


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]], table: Table) -> None:
    """Write a table twice: .csv for programs, .md for people."""
    write_csv(path.with_suffix(".csv"), head, rows)
    path.with_suffix(".md").write_text(markdown(table) + "\n", encoding="utf-8")


def draw_conditions(conditions: Sequence[Condition], picture: Path) -> None:
    """Several budgets: accuracy against compute, a line for each noise. Several noises alone: accuracy and compute."""
    picture.unlink(missing_ok=True)  # of an evaluation before this one
    names = list(dict.fromkeys(row.condition for row in conditions))
    if len(conditions) > len(names):
        curves = {name: [(row.fraction, row.acc) for row in conditions if row.condition == name] for name in names}
        figures.save(figures.draw_budgets(curves), picture)
    elif len(conditions) > 1:
        drawn = figures.draw_noise(names, [row.acc for row in conditions], [row.fraction for row in conditions])
        figures.save(drawn, picture)


def write_budgets(conditions: Sequence[Condition], folder: Path) -> None:
    """Write budgets.csv, .md and .png of the conditions without noise, where budgets were asked for."""
    points = [row for row in conditions if row.snr_db is None and row.requested is not None]
    if not points:
        return
    folder.mkdir(parents=True, exist_ok=True)
    heads = ["requested", "on validation", "on test", "million MACs", "accuracy"]
    shares = [[number(share, 3) for share in (p.requested, p.calibrated, p.fraction)] for p in points]
    cells = [[*told, number(p.macs / 1e6, 2), number(p.acc)] for told, p in zip(shares, points, strict=True)]
    rows = [[getattr(point, name) for name in BUDGETS] for point in points]
    _write(folder / "budgets", BUDGETS, rows, Table(heads, cells, numbers=heads))
    figures.save(figures.draw_budgets({"": [(p.fraction, p.acc) for p in points]}), folder / "budgets.png")


def class_table(rows: Iterable[ClassRow]) -> Table:
    """Accuracy and compute class by class."""
    heads = ["class", "clips", "accuracy", "precision", "F1", "taken for", "compute", "million MACs"]
    cells = [
        [
            *(row.label, str(row.clips)),
            *(number(value, 3) for value in (row.acc, row.precision, row.f1)),
            *(row.taken_for, number(row.compute, 3), number(None if row.macs is None else row.macs / 1e6, 2)),
        ]
        for row in rows
    ]
    return Table(heads, cells, numbers=[head for head in heads if head not in ("class", "taken for")])


def condition_table(conditions: Sequence[Condition]) -> Table:
    """A row per condition; columns of budgets only where any was asked for."""
    has_budgets = any(row.requested is not None for row in conditions)
    heads = ["condition", "requested", "on validation", "on test", "million MACs", "accuracy", "macro F1"]
    cells = [
        [
            row.condition,
            *(number(share, 3) for share in (row.requested, row.calibrated, row.fraction)),
            *(number(row.macs / 1e6, 2), number(row.acc), number(row.f1)),
        ]
        for row in conditions
    ]
    wanted = [place for place in range(len(heads)) if has_budgets or place not in (1, 2)]
    return Table([heads[i] for i in wanted], [[row[i] for i in wanted] for row in cells], numbers=heads[1:])


def print_evaluation(
    metrics: Metrics,
    conditions: Sequence[Condition],
    *,
    time: float | None = None,
    warnings: Sequence[str],
    console: Console | None = None,
) -> None:
    """Print all figures; `time` is the share of the dense run's seconds that the decisions leave."""
    console = console or Console()
    first, rows = conditions[0], metrics.per_class
    lines = {
        "test accuracy": f"{metrics.acc:.4f}  ({sum(row.clips for row in rows)} clips)",
        "macro F1": f"{metrics.f1:.4f}",
        "top-k accuracy": "  ".join(f"{share:.4f} among {k}" for k, share in metrics.top_k.items()),
        "calibration error": f"{metrics.calibration_error:.4f}",
        "compute fraction": f"{first.fraction:.4f}  ({first.macs / 1e6:.2f} million multiply-accumulates a clip)",
        "time fraction": "" if time is None else f"{time:.2f}  (as trained, over the same model with nothing skipped)",
    }
    console.print()
    for word, value in lines.items():
        if value:
            console.print(f"[bold]{word:<18}[/bold] {value}", highlight=False)
    console.print()
    title = "By class"
    if len(rows) > MAX_PRINTED:
        rows = sorted(rows, key=lambda row: 1.0 if row.acc is None else row.acc)[:MAX_PRINTED]
        title = f"The {MAX_PRINTED} classes recognised worst (per_class.csv has all)"
    print_table(class_table(rows), console, title)
    if len(conditions) > 1 or first.requested is not None:
        has_many = len({row.requested for row in conditions}) > 1
        title = "One checkpoint, many budgets" if has_many else "By condition"
        console.print()
        print_table(condition_table(conditions), console, title)
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)
    console.print()
