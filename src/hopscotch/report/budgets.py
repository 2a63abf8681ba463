"""Accuracy against compute of one checkpoint: a table for programs, and a picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hopscotch.report.markdown import markdown_table

HEADS = ("requested", "on validation", "on test", "million MACs", "accuracy")  # of budgets.md
MIN_SPAN = 0.05  # of the axis of accuracy: a few clips more or less are no mountain


class Condition(NamedTuple):
    """What one pass came to."""

    condition: str  # "clean", or the level of the noise
    snr_db: float | None
    requested: float | None  # compute.budget; None: as trained
    calibrated: float | None  # what the validation clips came to under that budget
    fraction: float  # of the test clips
    macs: float  # mean per test clip
    acc: float
    f1: float  # mean over classes


class BudgetPoint(NamedTuple):
    requested: float  # fraction of the dense MACs
    calibrated: float  # fraction that the validation clips came to
    fraction: float  # of the test clips
    macs: float  # mean per test clip
    acc: float


def write_budgets(points: Sequence[BudgetPoint], folder: Path) -> None:
    """budgets.csv, budgets.md and budgets.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "budgets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(BudgetPoint._fields)
        writer.writerows(points)
    cells = [
        [f"{p.requested:.3f}", f"{p.calibrated:.3f}", f"{p.fraction:.3f}", f"{p.macs / 1e6:.2f}", f"{p.acc:.4f}"]
        for p in points
    ]
    (folder / "budgets.md").write_text(markdown_table(HEADS, cells, HEADS) + "\n", encoding="utf-8")
    draw_budgets({"": points}, folder / "budgets.png")


def draw_budgets(curves: Mapping[str, Sequence[BudgetPoint]], path: Path) -> None:
    """A line for each name, such as a level of noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    for number, (name, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point.fraction)
        fractions, accuracies = [point.fraction for point in ordered], [point.acc for point in ordered]
        axes.plot(fractions, accuracies, marker="o", color=colours[number % len(colours)], label=name)
    axes.set(xlabel="fraction of the dense compute, test clips", ylabel="test accuracy")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - MIN_SPAN), high)
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150, facecolor="white")


def budget_points(conditions: Sequence[Condition]) -> list[BudgetPoint]:
    """The budgets that were asked for."""
    return [
        BudgetPoint(row.requested, row.calibrated, row.fraction, row.macs, row.acc)
        for row in conditions
        if row.requested is not None and row.calibrated is not None
    ]
