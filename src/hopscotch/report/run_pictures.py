"""The pictures of a run's report, small enough for a telephone: learning curves, groups, confusions, routes.

All are drawn from metrics.jsonl and clips.csv; the numbers in them come from `clip_numbers.py` and `learning.py`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt8

from hopscotch.report.clip_numbers import Group, Route
from hopscotch.report.clip_table import CELLS
from hopscotch.report.figures import INK, rgb
from hopscotch.report.learning import Lines, curve, kept_epoch
from hopscotch.report.numbers import JUMPED_OVER, LANDED, RAN
from hopscotch.report.pictures import HISTORY_COLOURS, HISTORY_WORDS, stride_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#E69F00"  # Okabe and Ito's
SMALL = (3.5, 2.6)  # inches: three stand side by side on a screen, one on a telephone
MAX_LABELLED = 20  # classes whose counts can be read in the matrix
CURVES = (("loss", "loss"), ("acc", "accuracy"), ("compute_fraction", "compute fraction"))


def draw_learning(lines: Lines, target: float | None, kept_loss: float | None = None) -> list[tuple["Figure", str]]:
    """Loss, accuracy and compute fraction over optimizer steps, of those that were logged."""
    kept = kept_epoch(lines, kept_loss)
    drawn = []
    for tag, words in CURVES:
        train, val = curve(lines, f"train/{tag}"), curve(lines, f"val/{tag}")
        if not train and not val:
            continue
        figure, axes = small_figure()
        for points, colour, name in ((train, ORANGE, "train"), (val, BLUE, "val")):
            steps, values = list(points), list(points.values())
            axes.plot(steps, values, color=colour, linewidth=1.4, label=name, marker=mark(points), markersize=3)
        if tag == "compute_fraction" and target is not None:
            axes.axhline(target, color=INK, linewidth=0.8, linestyle="--", label="target")
        if kept is not None:
            axes.axvline(kept["step"], color="#999999", linewidth=0.8, linestyle=":", label="kept")
        axes.locator_params(axis="x", integer=True)
        axes.set(xlabel="step", ylabel=words)
        axes.legend(frameon=False, fontsize=8)
        drawn.append((figure, f"{words.capitalize()} over optimizer steps"))
    return drawn


def mark(points: dict[int, float]) -> str:
    """A line needs two points to be seen."""
    return "o" if len(points) < 3 else ""


def draw_groups(groups: Sequence[Group], words: str) -> list[tuple["Figure", str]]:
    """Accuracy and compute of each group, with 95 % intervals, groups from above."""
    kinds: tuple[tuple[str, str, Callable[[Group], float], Callable[[Group], tuple[float, float]]], ...] = (
        ("accuracy", BLUE, lambda group: group.accuracy, lambda group: group.accuracy_interval),
        ("compute fraction", ORANGE, lambda group: group.compute, lambda group: group.compute_interval),
    )
    drawn = []
    for name, colour, value, interval in kinds:
        figure, axes = small_figure(height=0.9 + 0.24 * len(groups))
        places = np.arange(len(groups))
        low, high = np.array([interval(group) for group in groups]).T
        axes.hlines(places, low, high, color=colour, linewidth=2.5, alpha=0.35)
        axes.plot([value(group) for group in groups], places, "o", color=colour, markersize=5)
        axes.set_yticks(places, [shortened(group.name) for group in groups])
        axes.locator_params(axis="x", nbins=4)
        axes.set(xlabel=name, ylim=(len(groups) - 0.5, -0.5))
        drawn.append((figure, f"{name.capitalize()} by {words}, with 95 % intervals"))
    return drawn


def draw_confusion(counts: Int[np.ndarray, "label prediction"], classes: Sequence[str]) -> list[tuple["Figure", str]]:
    """Clips by what they are and what they were taken for, shaded by the share of their row."""
    num = len(classes)
    figure, axes = small_figure(width=min(1.5 + 0.42 * num, 8.5), height=min(1.3 + 0.36 * num, 8.0))
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for label, prediction in np.argwhere(counts) if num <= MAX_LABELLED else ():
        ink = "white" if shares[label, prediction] > 0.6 else INK
        count = str(counts[label, prediction])
        axes.text(prediction, label, count, ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(num), [shortened(name) for name in classes], rotation=90)
    axes.set_yticks(range(num), [shortened(name) for name in classes])
    axes.tick_params(labelsize=9 if num <= MAX_LABELLED else 6)
    axes.set(xlabel="taken for", ylabel="is")
    axes.grid(False)
    return [(figure, "Test clips by what they are and what they were taken for, shaded by the share of their row")]


def route_cells(routes: Sequence[Route]) -> UInt8[np.ndarray, "route depth"]:
    """What happened at every layer of every route."""
    return np.array([[CELLS[letter] for letter in route.letters] for route in routes], dtype=np.uint8)


def draw_routes(routes: Sequence[Route], num_clips: int) -> list[tuple["Figure", str]]:
    """A row per route: its layers coloured by what happened, or by stride where nobody jumps, strides written in."""
    from matplotlib.patches import Patch

    cells, strides = route_cells(routes), np.array([route.strides for route in routes])
    jumps = bool((cells != RAN).any())
    history = np.array([rgb(HISTORY_COLOURS[kind]) for kind in (RAN, JUMPED_OVER, LANDED)])
    by_stride = stride_colours(int(strides.max())) / 255
    colours = history[cells] if jumps else by_stride[strides]
    num, depth = cells.shape
    figure, axes = small_figure(width=max(SMALL[0], 1.1 + 0.24 * depth), height=1.3 + 0.28 * num)
    axes.imshow(colours, aspect="auto")
    for row, layer in np.argwhere(strides):
        ink = "white" if colours[row, layer].mean() < 0.5 else INK
        axes.text(layer, row, str(strides[row, layer]), ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(np.arange(depth - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(num - 1) + 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.set_xticks(range(depth))
    axes.set_yticks(range(num), [f"{len(route.group.rows) / num_clips:.1%}" for route in routes])
    axes.set(xlabel="layer", ylabel="share")
    axes.spines[:].set_visible(False)
    if jumps:
        words = [Patch(facecolor=history[kind], label=HISTORY_WORDS[kind]) for kind in (RAN, LANDED, JUMPED_OVER)]
        figure.legend(handles=words, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    caption = "The commonest routes, a row each" + ("; figures are strides" if strides.any() else "")
    return [(figure, caption)]


def shortened(name: str) -> str:
    """For the side of a picture: a dollar is a dollar there, and begins no formula."""
    return (name if len(name) <= 14 else f"{name[:13]}…").replace("$", r"\$")


def small_figure(width: float = SMALL[0], height: float = SMALL[1]) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes
