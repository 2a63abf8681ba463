"""Accuracy against compute over the jobs of a sweep, as a table for programs and a picture for people."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean

from hopscotch.report.jobs import Job, groups

# Okabe and Ito's colours, which stay apart for every kind of colour blindness, each with a shape of its own.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")


def write_csv(jobs: Iterable[Job], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Job)])
        writer.writeheader()
        writer.writerows({**asdict(job), "overrides": " ".join(job.overrides)} for job in jobs)


def draw_frontier(jobs: Iterable[Job], path: Path) -> None:
    """Accuracy against multiply-accumulates: a faint mark per job, a full one per mean over seeds; models by shape."""
    from matplotlib.figure import Figure

    points: dict[str, list[list[tuple[float, float]]]] = {}  # model -> groups of jobs that differ in the seed -> points
    for (model, _), members in groups(jobs).items():
        known = [(job.macs / 1e6, job.test_acc) for job in members if job.macs is not None and job.test_acc is not None]
        if known:
            points.setdefault(model, []).append(known)
    if not points:
        return
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, (model, seeds) in enumerate(points.items()):
        colour, shape = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
        singles = [point for known in seeds for point in known]
        means = [(mean(macs), mean(accuracies)) for macs, accuracies in (zip(*known, strict=True) for known in seeds)]
        axes.scatter(*zip(*singles, strict=True), s=22, color=colour, marker=shape, alpha=0.35, linewidths=0)
        axes.scatter(*zip(*means, strict=True), s=70, color=colour, marker=shape, label=model)
    axes.set(xlabel="million multiply-accumulates per test clip", ylabel="test accuracy")
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150, facecolor="white")
