"""Draw what an evaluation found: who was taken for whom, and what noise costs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hopscotch.report.run_pictures import shortened

MAX_NUMBERED = 25  # classes up to which every cell holds its number
DOTS_PER_INCH = 150
INK = "#282828"


def draw_confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """Rows are what clips are, columns what they were taken for; the colour is the share of the row."""
    from matplotlib.figure import Figure

    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    num_classes = len(classes)
    cell = 0.42 if num_classes <= MAX_NUMBERED else 0.18  # inches
    side = max(4.0, 1.6 + cell * num_classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if num_classes <= MAX_NUMBERED:
        for label, prediction in zip(*table.nonzero(), strict=True):
            ink = "white" if shares[label, prediction] > 0.6 else INK
            number = str(table[label, prediction])
            axes.text(prediction, label, number, ha="center", va="center", color=ink, fontsize=8)
    names = [shortened(name) for name in classes]
    font = 9 if num_classes <= MAX_NUMBERED else 6
    axes.set_xticks(range(num_classes), names, rotation=90, fontsize=font)
    axes.set_yticks(range(num_classes), names, fontsize=font)
    axes.set(xlabel="taken for", ylabel="is")
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")


def draw_noise(names: Sequence[str], accuracies: Sequence[float], fractions: Sequence[float], path: Path) -> None:
    """Accuracy, and below it the compute, condition by condition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.5, 1.5 + 0.7 * len(names)), 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, values, word, colour in (
        (above, accuracies, "accuracy", "#0072B2"),
        (below, fractions, "compute fraction", "#E69F00"),
    ):
        axes.plot(range(len(names)), values, marker="o", color=colour)
        axes.set_ylabel(word)
        axes.grid(color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
    below.set_xticks(range(len(names)), list(names))
    below.set_xlabel("level of the clip against the noise")
    figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")
