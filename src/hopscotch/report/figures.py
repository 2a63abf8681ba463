"""Every figure of a run: what it skipped, how it learned, and how good it is by class, group and route.

A picture is drawn by one function, be it for a file, a page or TensorBoard. Figures for a page are small enough for a
telephone; each comes with its caption.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hopscotch.report.clips import ClipRow, Group, by_cost, cells_of, open_rates_of, strides_of
from hopscotch.report.decisions import JUMPED_OVER, LANDED, RAN, history_cells
from hopscotch.report.paint import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    LIGHT_GREY,
    ON_COLOUR,
    ORANGE,
    SMALL,
    blues,
    cell_edges,
    dark_to_light,
    draw_cells,
    legend,
    margins,
    new_figure,
    plain,
    shortened,
)
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.statistics import NUM_BINS, reliability
from hopscotch.types import SkipTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLIT_COLOURS = {"train": ORANGE, "val": BLUE}
HISTORY_COLOURS = {RAN: BLUE, JUMPED_OVER: LIGHT_GREY, LANDED: ORANGE}
HISTORY_WORDS = {RAN: "ran", JUMPED_OVER: "jumped over", LANDED: "landed on"}
MAX_CLIPS = 40  # rows that can still be told apart
MAX_NUMBERED = 25  # classes whose counts can be read in the matrix
MAX_NUMBERS = 120  # of a matrix, each an artist that takes a millisecond
HERTZ = (250, 500, 1000, 2000, 4000, 8000)  # of a mel picture
MIN_SPAN = 0.05  # of an axis of a metric: a few clips more or less are no mountain
Captioned = tuple["Figure", str]


# What was skipped.


def history_legend(figure: "Figure", **options: Any) -> None:
    legend(figure, {HISTORY_WORDS[kind]: HISTORY_COLOURS[kind] for kind in (RAN, LANDED, JUMPED_OVER)}, **options)


def history_colours() -> Float[np.ndarray, "kind rgb"]:
    """By what happened at a layer: RAN, JUMPED_OVER, LANDED."""
    from matplotlib.colors import to_rgba_array

    return to_rgba_array([HISTORY_COLOURS[kind] for kind in (RAN, JUMPED_OVER, LANDED)])[:, :3]


def stride_colours(max_stride: int) -> Float[np.ndarray, "stride rgb"]:
    """Choose a colour per stride: grey for none, then from dark (1) to light (`max_stride`) in equal steps."""
    from matplotlib.colors import to_rgb

    return np.stack([to_rgb(LIGHT_GREY), *dark_to_light()(np.linspace(0.0, 1.0, max(max_stride, 1)))[:, :3]])


def stride_words(max_stride: int) -> list[str]:
    return ["none", *map(str, range(1, max_stride + 1))]


def spread(num: int, num_wanted: int) -> list[int]:
    """Choose the same rows of a table at every call, spread evenly over it."""
    return np.linspace(0, num - 1, min(num_wanted, num)).round().astype(int).tolist()


def draw_histories(
    trace: SkipTrace, rows: Sequence[int] | Int[np.ndarray, " row"], words: str, names: Sequence[str] = ()
) -> "Figure":
    """Draw clip by layer, coloured by what happened, with what each clip cost and the share that ran each layer.

    `words` say which clips and in which order, and `names`, where there are any, stand beside them.
    """
    from matplotlib.colors import ListedColormap

    cells = history_cells(trace)[rows]
    num_rows, depth = cells.shape
    figure, ((above, corner), (matrix, bars)) = new_figure(
        max(5.5, 2.6 + 0.62 * depth),
        2.0 + 0.13 * num_rows,
        2,
        2,
        layout=None,
        width_ratios=[3, 1],
        height_ratios=[1, max(0.16 * num_rows, 1.5)],
    )
    names = [shortened(name.rsplit("/", 1)[-1], 24) for name in names]
    margins(figure, 0.6 + 0.06 * max(map(len, names), default=0), 0.2, 0.55, 0.6, wspace=0.06, hspace=0.06)
    corner.remove()

    colours = ListedColormap(history_colours())
    matrix.pcolormesh(
        *cell_edges(num_rows, depth), cells, cmap=colours, vmin=0, vmax=2, edgecolors="white", linewidth=1.2
    )
    clips, layers = np.nonzero(cells == LANDED)
    matrix.plot(layers, clips, ">", color="white", markersize=3.5, linestyle="none")  # a shape beside the colour
    matrix.set(xlabel="layer", ylabel=f"{num_rows} of {len(trace.visited)} {words}")
    matrix.set_xticks(range(depth))
    matrix.set_yticks(range(len(names)), names, fontsize=7)
    matrix.set_ylim(num_rows - 0.5, -0.5)

    share = trace.visited.double().mean(dim=0).numpy()
    above.bar(range(depth), share, color=BLUE, width=0.92)
    for layer, value in enumerate(share):
        above.text(layer, value + 0.05, f"{value:.0%}", ha="center", va="bottom", fontsize=8, color=INK)
    above.set(xlim=matrix.get_xlim(), ylim=(0, 1.45), xticks=[], yticks=[], ylabel="ran it")
    bars.hlines(range(num_rows), 0, trace.fraction.numpy()[rows], color="#7a7a7a", linewidth=7)  # points
    bars.set(xlim=(0, 1), ylim=matrix.get_ylim(), xticks=[0, 0.5, 1], yticks=[], xlabel="compute fraction")
    history_legend(figure, loc="upper center")
    return figure


def draw_pattern_history(patterns: Mapping[int, Float[np.ndarray, "depth stride"]], layers: Sequence[int]) -> "Figure":
    """Draw a band per layer: by epoch, the share of the clips that use each stride, to a hundredth.

    Stride 1 lies at the bottom and clips that did not attend at the top. The figure keeps its width: epochs get
    narrower. An epoch that never used the larger strides has no column for them.
    """
    epochs, num_strides = list(patterns), max(shares.shape[1] for shares in patterns.values())
    padded = [np.pad(shares, ((0, 0), (0, num_strides - shares.shape[1]))) for shares in patterns.values()]
    table = np.stack(padded, axis=1)[layers]  # layer epoch stride
    used = [*range(1, num_strides), *([0] if table[..., 0].any() else [])]
    colours, words = stride_colours(num_strides - 1), stride_words(num_strides - 1)
    heights = np.arange(100)[::-1, None, None] + 0.5  # per cent, from above
    places = (heights >= 100 * table[..., used[:-1]].cumsum(axis=-1)[:, None]).sum(axis=-1)  # layer height epoch
    bands = np.pad(colours[used][places], ((0, 0), (4, 4), (0, 0), (0, 0)), constant_values=1.0).reshape(
        -1, len(epochs), 3
    )
    bands = np.repeat(bands, np.diff([*epochs, epochs[-1] + 1]), axis=1)  # an epoch without validation is as the last
    figure, axes = new_figure(SMALL[0], 1.4 + 0.5 * len(layers), layout=None)
    margins(figure, 0.45, 0.1, 0.5, 0.85)
    edges = epochs[0] - 0.5, epochs[-1] + 0.5
    axes.imshow(bands, extent=(*edges, len(layers) - 0.5, -0.5), aspect="auto", interpolation="nearest")
    axes.set(xlabel="epoch", ylabel="layer")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.locator_params(axis="x", integer=True)
    title = "Stride by layer: share of validation clips"
    shades = {words[stride]: colours[stride] for stride in used}
    legend(figure, shades, loc="upper center", ncols=5, title=title, fontsize=8)
    return figure


def draw_mel(
    axes: "Axes", mel: Float[np.ndarray, "time mel"], frame_seconds: float, hertz: Float[np.ndarray, " mel"]
) -> None:
    """Draw a mel picture over seconds, low frequencies at the bottom, from dark (quiet) to light (loud).

    `hertz` are the middles of the bands.
    """
    low, high = np.percentile(mel, [1.0, 99.0])
    shades = {"cmap": dark_to_light(), "vmin": low, "vmax": max(high, low + 1e-6)}
    left, right = edges_of(len(mel), frame_seconds)[[0, -1]]
    place = {"extent": (left, right, -0.5, mel.shape[1] - 0.5), "origin": "lower", "aspect": "auto"}
    axes.imshow(mel.T, **place, **shades, interpolation="nearest")
    told = [tick for tick in HERTZ if hertz[0] <= tick <= hertz[-1]]
    axes.set_yticks(np.interp(told, hertz, np.arange(len(hertz))), [f"{tick:,}" for tick in told])
    axes.set_ylabel("Hz")
    plain(axes)


def edges_of(num: int, seconds: float) -> Float[np.ndarray, " edge"]:
    """Borders of frames or tokens: each is centred on its moment."""
    return (np.arange(num + 1) - 0.5) * seconds


def draw_heard(
    mel: Float[np.ndarray, "time mel"],
    frame_seconds: float,
    hertz: Float[np.ndarray, " mel"],
    title: str,
    is_open: Bool[np.ndarray, "layer token"] | None = None,
    token_seconds: float = 0.0,
) -> "Figure":
    """Draw a clip as the model hears it and under it, layer by layer, the tokens that its gates open."""
    from matplotlib.colors import ListedColormap

    num_layers = 0 if is_open is None else len(is_open)
    heights = [1.5, 0.12 * num_layers] if num_layers else [1.5]  # inches
    shape = {"squeeze": False, "height_ratios": heights}
    figure, grid = new_figure(SMALL[0], 0.8 + sum(heights), len(heights), 1, layout=None, **shape)
    margins(figure, 0.65, 0.15, 0.5, 0.3, hspace=0.08)
    above, lowest = grid[0, 0], grid[-1, 0]
    draw_mel(above, mel, frame_seconds, hertz)
    above.set(title=title, xlabel="seconds")
    if is_open is not None:
        edges = edges_of(is_open.shape[1], token_seconds), np.arange(num_layers + 1)
        lowest.pcolormesh(*edges, is_open, cmap=ListedColormap([LIGHT_GREY, BLUE]), vmin=0, vmax=1)
        for layer in range(1, num_layers):
            lowest.axhline(layer, color="white", linewidth=1.5)
        above.set(xticks=[], xlabel="")
        lowest.set(xlim=above.get_xlim(), ylim=(num_layers, 0), yticks=[], xlabel="seconds (blue: open, by layer)")
        plain(lowest)
    return figure


# The page: drawn from clips.csv, so that any run can be drawn again.


def draw_skips(rows: Sequence[ClipRow]) -> Captioned:
    """Draw clip by layer, each cell as dark as the share that the layer read, and what each clip cost."""
    ordered = by_cost(rows)
    drawn = [ordered[place] for place in spread(len(ordered), MAX_CLIPS)]
    cells, work = cells_of(drawn), work_of(drawn)
    num_rows, depth = work.shape
    figure, (matrix, bars) = new_figure(
        max(6.0, 3.0 + 0.4 * depth), 1.5 + 0.075 * num_rows, 1, 2, width_ratios=[3, 1], sharey=True
    )
    matrix.pcolormesh(*cell_edges(num_rows, depth), blues(work), edgecolors="white", linewidth=0.6)
    clips, layers = np.nonzero(cells == LANDED)
    matrix.plot(layers, clips, ">", color=ON_COLOUR, markersize=3, linestyle="none")
    clips, layers = np.nonzero(cells == JUMPED_OVER)
    matrix.plot(layers, clips, "_", color=GREY, markersize=6, linestyle="none")
    means = work_of(ordered).mean(axis=0)
    matrix.set_xticks(range(depth), [f"{layer}\n{share:.0%}" for layer, share in enumerate(means)])
    matrix.set(xlabel="layer, and the share of it that the test clips read", yticks=[])
    matrix.set(ylabel=f"{num_rows} of {len(rows)} test clips, cheapest first", ylim=(num_rows - 0.5, -0.5))
    bars.barh(range(num_rows), [row.compute for row in drawn], color=BLUE, height=0.75)
    bars.axvline(Group("", tuple(rows)).compute, color=INK, linewidth=0.8, linestyle="--")
    bars.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="of the dense compute")
    for axes in (matrix, bars):
        plain(axes)
    kinds = {"all read": (BLUE, 1.0), "half": (BLUE, 0.5)} | ({"jumped over": (GREY, 0.3)} if len(clips) else {})
    legend(figure, kinds, fontsize=8)
    marks = "; an arrow: reached by a jump" if (cells == LANDED).any() else ""
    return figure, (
        "What each clip read, layer by layer: a cell is as blue as the share of tokens (open gates) and of keys "
        f"(strides) that the layer took{marks}. Right: what the clip cost; dashed: the mean"
    )


def work_of(rows: Sequence[ClipRow]) -> Float[np.ndarray, "clip depth"]:
    """Tell the share of a layer that a clip read: tokens that were open, keys by stride; 0 where it was jumped over."""
    rates, strides = open_rates_of(rows), strides_of(rows)
    read = np.where(np.isnan(rates), 1.0, rates) / np.maximum(strides, 1)
    return np.where(cells_of(rows) == JUMPED_OVER, 0.0, read)


def draw_difficulty(rows: Sequence[ClipRow]) -> list[Captioned]:
    """Draw compute against loss, and how many clips cost how much."""
    compute, loss = (np.array([getattr(row, name) for row in rows]) for name in ("compute", "loss"))
    is_wrong = np.array([row.has_classes and not row.is_right for row in rows])
    scatter, axes = new_figure()
    for chosen, colour, word in ((~is_wrong, BLUE, "right"), (is_wrong, ORANGE, "wrong")):
        if chosen.any():
            axes.plot(loss[chosen], compute[chosen], ".", color=colour, markersize=4, alpha=0.6, label=word)
    axes.set(xlabel="loss of the clip", ylabel="compute")
    if is_wrong.any():
        axes.legend(loc="upper right", frameon=False, fontsize=8)  # the best place takes long to find
    histogram, axes = new_figure()
    axes.hist(compute, bins=20, color=BLUE)
    axes.set(xlabel="of the dense compute", ylabel="test clips")
    return [
        (scatter, "Compute against loss, a dot a test clip: do hard clips get more?"),
        (histogram, "How many clips cost how much"),
    ]


def draw_reliability(confidence: Float[np.ndarray, " clip"], is_right: Bool[np.ndarray, " clip"]) -> Captioned:
    """Draw how often the model is right against how sure it says it is, with the number of clips in each bin."""
    bins = reliability(confidence, is_right)
    figure, (above, below) = new_figure(3.5, 3.4, 2, 1, sharex=True, height_ratios=[3, 1])
    width = 1 / NUM_BINS
    middles = [(place + 0.5) * width for place in bins.places]
    above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    above.bar(middles, bins.accuracy, width=0.9 * width, color=BLUE, alpha=0.8)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    below.bar(middles, bins.counts, width=0.9 * width, color=GREY)
    below.set(xlabel="confidence", ylabel="clips")
    return figure, "How often it is right when it is so sure; dashed: as often as it says"


# How it learned, and how good it is.


def draw_learning(run: RunFolder) -> list[Captioned]:
    """Draw loss, metrics and compute fraction over optimizer steps, those that were logged."""
    target = (run.summary.get("compute") or {}).get("target")
    drawn = []
    for tag in ("loss", *run.metric_names, "compute_fraction"):
        curves = {split: run.curve(f"{split}/{tag}") for split in SPLIT_COLOURS}
        if not any(curves.values()):
            continue
        figure, axes = new_figure()
        for split, points in curves.items():
            if not points:
                continue
            mark = "o" if len(points) < 3 else ""  # a line needs two points to be seen
            style = {"color": SPLIT_COLOURS[split], "linewidth": 1.4, "label": split, "marker": mark, "markersize": 3}
            axes.plot(list(points), list(points.values()), **style)
        if tag == "compute_fraction" and target is not None:
            axes.axhline(target, color=INK, linewidth=0.8, linestyle="--", label="target")
        if run.kept is not None:
            axes.axvline(run.kept.step, color=COLOURS[2], linewidth=1.2, linestyle=":", label="kept")
        axes.locator_params(axis="x", integer=True)
        words = tag.replace("_", " ")
        axes.set(xlabel="step", ylabel=words)
        axes.legend(frameon=False, fontsize=8)
        drawn.append((figure, f"{words.capitalize()} over optimizer steps"))
    return drawn


def draw_groups(groups: Sequence[Group], words: str) -> list[Captioned]:
    """Draw how good and how costly each group is, with 95 % intervals, groups from above."""
    name, *_ = groups[0].quality
    kinds = (
        (name, BLUE, [(found.value, (found.low, found.high)) for _, found in (group.quality for group in groups)]),
        ("compute fraction", ORANGE, [(group.compute, group.compute_interval) for group in groups]),
    )
    sizes, drawn = [len(group.rows) for group in groups], []
    for name, colour, found in kinds:
        figure, axes = new_figure(height=0.9 + 0.24 * len(groups))
        places, values = np.arange(len(groups)), [value for value, _ in found]
        low, high = np.array([interval for _, interval in found]).T
        axes.hlines(places, low, high, color=colour, linewidth=2.5, alpha=0.35)
        axes.plot(values, places, "o", color=colour, markersize=5)
        axes.axvline(np.average(values, weights=sizes), color=INK, linewidth=0.8, linestyle="--")
        axes.set_yticks(places, [shortened(group.name) for group in groups])
        axes.locator_params(axis="x", nbins=4)
        axes.set(xlabel=name, ylim=(len(groups) - 0.5, -0.5))
        drawn.append((figure, f"{name.capitalize()} by {words}, with 95 % intervals; dashed: over all"))
    return drawn


def draw_confusion(counts: Int[np.ndarray, "label prediction"], classes: Sequence[str]) -> list[Captioned]:
    """Draw clips by what they are and what they were taken for, shaded by the share of their row."""
    is_numbered = len(classes) <= MAX_NUMBERED and np.count_nonzero(counts) <= MAX_NUMBERS
    cell = 0.3 if len(classes) <= MAX_NUMBERED else 0.18  # inches
    names = [shortened(name) for name in classes]
    label = 0.5 + 0.075 * max(map(len, names))
    size = (label + 0.2 + cell * len(classes), label + 0.2 + cell * len(classes))
    figure, axes = new_figure(*size, layout=None)
    margins(figure, label, 0.2, label, 0.2)
    words = [[str(count) if count and is_numbered else "" for count in line] for line in counts.tolist()]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    draw_cells(axes, blues(shares), words, rows=names, columns=names, font=8)
    axes.tick_params(axis="x", labelrotation=90)
    axes.set(xlabel="taken for", ylabel="is")
    return [(figure, "Clips by what they are (rows) and were taken for (columns), as a share of the row")]


def draw_budgets(curves: Mapping[str, Sequence[tuple[float, float]]], metric: str) -> "Figure":
    """Draw (compute fraction, metric) at several budgets, a line for each name, such as a level of noise."""
    figure, axes = new_figure(5.0, 3.6)
    for number, (name, points) in enumerate(curves.items()):
        fractions, values = zip(*sorted(points), strict=True)
        axes.plot(fractions, values, marker="o", color=COLOURS[number % len(COLOURS)], label=name)
    axes.set(xlabel="fraction of the dense compute, test clips", ylabel=f"test {metric}")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - MIN_SPAN), high)
    if len(curves) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_noise(names: Sequence[str], values: Sequence[float], fractions: Sequence[float], metric: str) -> "Figure":
    """Draw a metric, and below it the compute, condition by condition."""
    figure, (above, below) = new_figure(max(4.5, 1.5 + 0.7 * len(names)), 4.2, 2, 1, sharex=True)
    kinds = (above, values, metric, BLUE), (below, fractions, "compute fraction", ORANGE)
    for axes, heights, word, colour in kinds:
        axes.plot(range(len(names)), heights, marker="o", color=colour)
        axes.set_ylabel(word)
    below.set_xticks(range(len(names)), list(names))
    below.set_xlabel("level of the clip against the noise")
    return figure
