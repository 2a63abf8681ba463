"""Draw the two pictures of a run that people remember: who jumped where, and which strides were chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from hopscotch.report.numbers import (
    JUMPED_OVER,
    LANDED,
    RAN,
    Kinds,
    attention_layers,
    history_cells,
    kinds_of,
    routes,
    stride_shares,
)
from hopscotch.report.pictures import HISTORY_COLOURS, HISTORY_WORDS, stride_colours
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLIPS = 40  # rows that can still be told apart
MAX_PATTERNS = 8
DOTS_PER_INCH = 150
INK = "#282828"


def draw_report(run_folder: str | Path, test: Evaluation, kinds: Kinds | None = None) -> list[Path]:
    """Write `report/jump_history.png` and `report/skip_pattern.png`, those of the two that the model has."""
    kinds = kinds_of(test.trace) if kinds is None else kinds
    folder = Path(run_folder) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if kinds.jumps:
        figures["jump_history.png"] = draw_histories(test.trace)
    if kinds.strides:
        figures["skip_pattern.png"] = draw_patterns(test.trace)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=DOTS_PER_INCH, facecolor="white")
    return [folder / name for name in figures]


def clips_by_compute(trace: SkipTrace, num_clips: int) -> Int[np.ndarray, " row"]:
    """Clips spread evenly from the cheapest to the costliest; those on the same route stand together."""
    order = np.lexsort([*routes(trace).T[::-1], trace.fraction.numpy()])
    return order[np.linspace(0, len(order) - 1, min(num_clips, len(order))).round().astype(int)]


def draw_histories(trace: SkipTrace) -> "Figure":
    """Clip by layer, coloured by what happened, beside what each clip cost; above it the share that ran each layer."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = clips_by_compute(trace, MAX_CLIPS)
    cells = history_cells(trace)[rows]
    num_rows, depth = cells.shape
    figure = Figure(figsize=(max(5.5, 2.6 + 0.62 * depth), 2.0 + 0.13 * num_rows), layout="constrained")
    grid = figure.subplots(
        2, 2, width_ratios=[3, 1], height_ratios=[1, max(0.16 * num_rows, 1.5)], sharex="col", sharey="row"
    )
    (above, corner), (matrix, bars) = grid
    corner.set_axis_off()

    colours = [rgb(HISTORY_COLOURS[kind]) for kind in (RAN, JUMPED_OVER, LANDED)]
    edges = np.arange(depth + 1) - 0.5, np.arange(num_rows + 1) - 0.5
    matrix.pcolormesh(*edges, cells, cmap=ListedColormap(colours), vmin=0, vmax=2, edgecolors="white", linewidth=1.2)
    clips, layers = np.nonzero(cells == LANDED)
    matrix.plot(layers, clips, ">", color="white", markersize=3.5, linestyle="none")  # a shape beside the colour
    matrix.set(xlabel="layer", ylabel=f"{num_rows} of {len(trace.visited)} test clips, cheapest first", yticks=[])
    matrix.set_xticks(range(depth))
    matrix.invert_yaxis()

    share = trace.visited.double().mean(dim=0).numpy()
    above.bar(range(depth), share, color=colours[RAN], width=0.92)
    for layer, value in enumerate(share):
        above.text(layer, value + 0.05, f"{value:.0%}", ha="center", va="bottom", fontsize=8, color=INK)
    above.set(ylim=(0, 1.45), yticks=[], ylabel="ran it")
    bars.barh(range(num_rows), trace.fraction.numpy()[rows], color="#7a7a7a", height=0.8)
    bars.set(xlim=(0, 1), xlabel="compute fraction")
    for axes in (above, matrix, bars):
        plain(axes)
    words = [Patch(facecolor=colours[kind], label=HISTORY_WORDS[kind]) for kind in (RAN, LANDED, JUMPED_OVER)]
    figure.legend(handles=words, loc="outside upper center", ncols=3, frameon=False, title="What each clip did")
    return figure


def draw_patterns(trace: SkipTrace) -> "Figure":
    """Left the share of clips by layer and stride; right the patterns most used, layer by layer."""
    from matplotlib.figure import Figure

    layers = attention_layers(trace)
    shares = stride_shares(trace)[layers]
    first = 0 if shares[:, 0].any() else 1
    words = ["none", *map(str, range(1, shares.shape[1]))]
    depth = len(layers)
    patterns, counts = np.unique(trace.strides[:, layers].numpy(), axis=0, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:MAX_PATTERNS]
    height = 1.4 + 0.36 * max(depth, len(top))
    figure = Figure(figsize=(8.0, height), layout="constrained")
    left, right = figure.subplots(1, 2)

    columns = range(first, shares.shape[1])
    left.imshow(shares[:, first:], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for layer in range(depth):
        for place, stride in enumerate(columns):
            value = shares[layer, stride]
            word = "·" if value == 0 else f"{value:.0%}"
            left.text(place, layer, word, ha="center", va="center", color="white" if value > 0.6 else INK, fontsize=9)
    left.set_xticks(range(len(columns)), [words[stride] for stride in columns])
    left.set_yticks(range(depth), list(map(str, layers)))
    left.set(xlabel="stride", ylabel="layer", title="Share of test clips by stride")

    colours = stride_colours(shares.shape[1] - 1)
    right.imshow(colours[patterns[top]], aspect="auto")
    for row, number in enumerate(top):
        for layer, stride in enumerate(patterns[number]):
            ink = "white" if colours[stride].mean() < 120 else INK
            right.text(layer, row, stride or "", ha="center", va="center", color=ink, fontsize=9)
    right.set_xticks(range(depth), list(map(str, layers)))
    right.set_yticks(range(len(top)), [f"{share:.0%}" for share in counts[top] / counts.sum()])
    covered = counts[top].sum() / counts.sum()
    title = f"The {len(top)} commonest of {len(counts)} patterns ({covered:.0%})"
    title = f"All {len(counts)} patterns in use" if len(top) == len(counts) else title
    right.set(xlabel="layer", ylabel="share of test clips", title=title)
    for axes in (left, right):
        plain(axes)
        grid_lines(axes)
    return figure


def rgb(colour: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in colour)
    return red, green, blue


def plain(axes: "Axes") -> None:
    """No frame and no tick marks: the colours are the picture."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    axes.title.set_fontsize(10)


def grid_lines(axes: "Axes") -> None:
    """White lines between the cells of an image."""
    axes.set_xticks(np.arange(*np.round(axes.get_xlim())) + 0.5, minor=True)
    bottom, top = sorted(axes.get_ylim())
    axes.set_yticks(np.arange(bottom, top + 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
