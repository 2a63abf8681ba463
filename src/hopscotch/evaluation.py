"""Leave an evaluation in its folder, and print it.

clips.csv          what the model made of every clip, under the first condition
metrics.json       all figures below, and how they came about
per_class.csv .md  class by class; confusion.png  who was taken for whom; neither of a task without classes
conditions.csv .md a row for each budget and level of noise; conditions.png where there are several
det.svg timeline.svg  of a detector: misses against false alarms, and three recordings over time
bad_audio.csv      the files that were left out, where there are any
budgets.csv .md .png  the primary metric against compute, in the run's own report/ where the test is the run's own
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hopscotch.conditions import CLEAN, Condition
from hopscotch.controls import Controls
from hopscotch.files import write_csv, write_file
from hopscotch.intervals import Interval
from hopscotch.metrics import ClassRow, Metrics, as_json
from hopscotch.report import figures, text
from hopscotch.report.clips import ClipRow, write_clips
from hopscotch.report.paint import save
from hopscotch.report.run_folder import CLIPS, EVALUATION_METRICS

CONDITIONS_PICTURE = "conditions.png"
BUDGETS = ("requested", "calibrated", "fraction", "macs")  # columns of budgets.csv, before the primary metric
MAX_PRINTED = 40  # classes; the others are in the file


def write_evaluation(
    folder: Path,
    *,
    facts: dict[str, Any],
    metrics: Metrics | None,
    classes: Sequence[str],
    clips: Sequence[ClipRow],
    conditions: Sequence[Condition],
) -> None:
    """Write all files but those of budgets; `facts` are further keys of metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clips(clips, folder / CLIPS)
    told = {"conditions": [condition.columns for condition in conditions]}
    of_classes = {} if metrics is None else as_json(metrics, classes)
    content = text.json_text({**facts, **conditions[0].metrics, **of_classes, **told}, indent=2)
    write_file(folder / EVALUATION_METRICS, content + "\n")
    rows = [row.columns.values() for row in conditions]
    _write(folder / "conditions", list(conditions[0].columns), rows, condition_table(conditions))
    draw_conditions(conditions, folder / CONDITIONS_PICTURE)
    if metrics is not None:
        _write(folder / "per_class", ClassRow._fields, metrics.per_class, class_table(metrics.per_class))
        ((drawn, _),) = figures.draw_confusion(np.array(metrics.confusion), classes)
        save(drawn, folder / "confusion.png")


def _write(path: Path, head: Sequence[str], rows: Iterable[Iterable[object]], table: text.Table) -> None:
    """Write a table twice: .csv for programs, .md for people."""
    write_csv(path.with_suffix(".csv"), head, rows)
    write_file(path.with_suffix(".md"), text.markdown(table) + "\n")


def draw_conditions(conditions: Sequence[Condition], picture: Path) -> None:
    """Several budgets: the metric against compute, a line for each noise. Several noises alone: metric and compute."""
    picture.unlink(missing_ok=True)  # of an evaluation before this one
    names, metric = list(dict.fromkeys(row.condition for row in conditions)), conditions[0].primary[0]
    points = [(row.condition, (row.fraction, row.primary[1])) for row in conditions]
    if len(conditions) > len(names):
        curves = {name: [point for condition, point in points if condition == name] for name in names}
        save(figures.draw_budgets(curves, metric), picture)
    elif len(conditions) > 1:
        fractions, values = zip(*(point for _, point in points), strict=True)
        save(figures.draw_noise(names, values, fractions, metric), picture)


def write_budgets(conditions: Sequence[Condition], folder: Path) -> None:
    """Write budgets.csv, .md and .png of the clips as they are, where budgets were asked for."""
    points = [row for row in conditions if row.condition == CLEAN]
    if all(row.requested is None for row in points):
        return
    metric = points[0].primary[0]
    names = [*BUDGETS, metric]
    table = text.Table.of([budget_cells(point) | {metric: text.number(point.primary[1])} for point in points])
    _write(folder / "budgets", names, [[point.columns[name] for name in names] for point in points], table)
    drawn = figures.draw_budgets({"": [(point.fraction, point.primary[1]) for point in points]}, metric)
    save(drawn, folder / "budgets.png")


def budget_cells(row: Condition, has_budgets: bool = True) -> dict[str, str]:
    """Say what a condition was to cost and came to."""
    shares = {"requested": row.requested, "on validation": row.calibrated} if has_budgets else {}
    told = {head: text.number(share, 3) for head, share in (shares | {"on test": row.fraction}).items()}
    told |= {"requested": "as trained"} if has_budgets and row.requested is None else {}
    return told | {"million MACs": text.number(row.macs / 1e6, 2)}


def class_table(rows: Iterable[ClassRow]) -> text.Table:
    """Accuracy and compute class by class."""
    cells = [
        {
            "class": row.label,
            "clips": str(row.clips),
            "accuracy": text.number(row.acc, 3),
            "precision": text.number(row.precision, 3),
            "F1": text.number(row.f1, 3),
            "taken for": row.taken_for,
            "compute": text.number(row.compute, 3),
            "million MACs": text.number(None if row.macs is None else row.macs / 1e6, 2),
        }
        for row in rows
    ]
    return text.Table.of(cells, words=["class", "taken for"])


def condition_table(conditions: Sequence[Condition]) -> text.Table:
    """Make a table with a row per condition, and with columns of budgets if there are any."""
    has_budgets = any(row.requested is not None for row in conditions)
    cells = [
        {"condition": row.condition}
        | budget_cells(row, has_budgets)
        | {name: text.number(value) for name, value in row.metrics.items()}
        for row in conditions
    ]
    return text.Table.of(cells, words=["condition"])


def print_evaluation(
    metrics: Metrics | None,
    conditions: Sequence[Condition],
    controls: Controls | None,
    *,
    num_clips: int,
    num_bad: int,
    told: Mapping[str, str],
    sure: Interval | None,
    times: tuple[float, float],
    warnings: Sequence[str],
) -> None:
    """Print all figures, `told` among them; `times` are the seconds of a clip, as trained and with nothing skipped."""
    console, first = text.make_console(), conditions[0]
    lines = dict(told)
    if metrics is not None:
        if metrics.top_k:
            lines["top-k accuracy"] = "  ".join(f"{share:.4f} among {k}" for k, share in metrics.top_k.items())
        lines["calibration error"] = f"{metrics.calibration_error:.4f}"
    lines |= text.compute_facts(first.fraction, first.macs) | text.time_facts(*times)
    lines |= {} if controls is None else controls.in_words()
    console.print()
    text.print_facts(text.test_facts(first.metrics, num_clips, sure, num_bad) | lines, console)
    if metrics is not None:
        console.print()
        rows, title = metrics.per_class, "By class"
        if len(rows) > MAX_PRINTED:
            rows = sorted(rows, key=lambda row: 1.0 if row.acc is None else row.acc)[:MAX_PRINTED]
            title = f"The {MAX_PRINTED} classes recognised worst (per_class.csv has all)"
        text.print_table(class_table(rows), console, title)
    if len(conditions) > 1 or first.requested is not None:
        has_many = len({row.requested for row in conditions}) > 1
        console.print()
        text.print_table(
            condition_table(conditions), console, "One checkpoint, many budgets" if has_many else "By condition"
        )
    rising, falling = in_noise(conditions)
    if rising:
        console.print()
        text.print_facts(rising, console)
    if controls is not None:
        console.print()
        text.print_table(controls.table(), console, "What each exit is worth, if all clips left by it")
    text.print_warnings([*warnings, *falling, *([] if controls is None else controls.warnings)], console)


def in_noise(conditions: Sequence[Condition]) -> tuple[dict[str, str], list[str]]:
    """Say by budget how compute rises from clean clips to loud noise; warn where it falls.

    A model that decides after computing goes on where it is not sure, and noise makes it less sure.
    """
    rising, falling = dict[str, str](), list[str]()
    for budget in dict.fromkeys(row.requested for row in conditions):
        noisy = [row for row in conditions if row.requested == budget and row.snr_db is not None]
        clean = [row for row in conditions if row.requested == budget and row.condition == CLEAN]
        rows = clean + sorted(noisy, key=lambda row: -(row.snr_db or 0.0))
        if len({row.fraction for row in rows}) < 2:
            continue
        where = "" if budget is None else f" at a budget of {budget:g}"
        told = ", ".join(f"{row.fraction:.3f} {_level(row)}" for row in rows)
        fallen = [(one, other) for one, other in pairwise(rows) if other.fraction < one.fraction]
        if not fallen:
            rising[f"compute rises with noise{where}"] = told
            continue
        steps = " and ".join(f"from {_level(one)} to {_level(other)}" for one, other in fallen)
        falling.append(f"compute falls as noise rises{where}, {steps}: {told}.")
    return rising, falling


def _level(row: Condition) -> str:
    return CLEAN if row.snr_db is None else f"{row.snr_db:g} dB"
