"""Accuracy against compute of one checkpoint: a table for programs, one for the terminal, and a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hopscotch.tasks.budget_curve import BudgetPoint


def write_budgets(points: Sequence[BudgetPoint], folder: Path) -> None:
    """budgets.csv and budgets.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "budgets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(BudgetPoint._fields)
        writer.writerows(points)
    draw_budgets(points, folder / "budgets.png")


def draw_budgets(points: Sequence[BudgetPoint], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(points, key=lambda point: point.fraction)
    axes.plot([point.fraction for point in ordered], [point.acc for point in ordered], marker="o", color="#0072B2")
    axes.set(xlabel="fraction of the dense compute, test clips", ylabel="test accuracy")
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, facecolor="white")


def print_budgets(points: Sequence[BudgetPoint]) -> None:
    table = Table(title="One checkpoint, many budgets", title_justify="left", box=None)
    for column in ("requested", "on validation", "on test", "million MACs a clip", "test accuracy"):
        table.add_column(column, justify="right")
    for point in points:
        shares = (f"{share:.3f}" for share in (point.requested, point.calibrated, point.fraction))
        table.add_row(*shares, f"{point.macs / 1e6:.2f}", f"{point.acc:.4f}")
    Console().print(table)
