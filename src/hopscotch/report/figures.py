"""Every figure of a run, in one style: what it skipped, how it learned, and how good it is by class, group and route.

A picture is drawn by one function, be it for a file, a page or TensorBoard. Figures for a page are small enough for a
telephone; each comes with its caption.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from hopscotch.plain import shown
from hopscotch.report.clips import ClipRow, Group, by_cost, cells_of, open_rates_of, strides_of
from hopscotch.report.collect import Evaluation
from hopscotch.report.decisions import (
    JUMPED_OVER,
    LANDED,
    LAYERS,
    RAN,
    attention_layers,
    history_cells,
    routes,
    stride_shares,
)
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.statistics import NUM_BINS, reliability
from hopscotch.types import SkipTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for every kind of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
BLUE, ORANGE = COLOURS[:2]
INK, GREY, LIGHT_GREY, GRID = "#282828", "#999999", "#e2e2e2", "#e5e5e5"
HISTORY_COLOURS = {RAN: BLUE, JUMPED_OVER: LIGHT_GREY, LANDED: ORANGE}
HISTORY_WORDS = {RAN: "ran", JUMPED_OVER: "jumped over", LANDED: "landed on"}
DARK_TO_LIGHT = ("#252562", "#228b8d", "#fde778")  # strides: dark for 1, where all is read; mel: dark is quiet
FONT = "DejaVu Sans"  # comes with matplotlib; Latin, Greek, Cyrillic, Arabic
DOTS_PER_INCH = 150
ON_COLOUR = "#fefefe"  # words on a dark cell: white, of which `svg` makes no paper
VECTOR_COLOURS = {  # of an SVG: what follows the scheme of the page
    "#000000": "currentColor",
    INK: "currentColor",
    "#ffffff": "var(--paper)",
    GRID: "var(--line)",
    LIGHT_GREY: "var(--soft)",
    "#f2f2f2": "var(--soft)",
}
SCHEME = """<style>svg{color:#222;--paper:#fff;--line:#e5e5e5;--soft:#e2e2e2}text{fill:currentColor}
@media(prefers-color-scheme:dark){svg{color:#e4e4e4;--paper:#16181b;--line:#3a3d42;--soft:#33373c}}</style>"""
SMALL = (3.5, 2.6)  # inches: three stand side by side on a screen, one on a telephone
MAX_CLIPS = 40  # rows that can still be told apart
MAX_PATTERNS = 8
MAX_NUMBERED = 25  # classes whose counts can be read in the matrix
MAX_NUMBERS = 120  # of a matrix, each an artist that takes a millisecond
HERTZ = (250, 500, 1000, 2000, 4000, 8000)  # of a mel picture
MIN_SPAN = 0.05  # of an axis of a metric: a few clips more or less are no mountain
Captioned = tuple["Figure", str]


# The style.


def new_figure(
    width: float = SMALL[0], height: float = SMALL[1], *grid: int, layout: str | None = "constrained", **shape: Any
) -> tuple["Figure", Any]:
    """Make a figure with one axes or, as matplotlib's `subplots` does, a grid of them; size in inches.

    Without a layout the caller places them by `margins` and they are `plain`: several times faster, for TensorBoard.
    """
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure in memory

    figure = Figure(figsize=(width, height), layout=layout)  # pyright: ignore[reportArgumentType]
    made = figure.subplots(*grid, **shape)
    for axes in figure.axes:
        if layout is None:
            plain(axes)
            continue
        axes.tick_params(labelsize=9)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, made


def use_letters_of(names: Iterable[str]) -> None:
    """Have pictures draw names of any script: fonts of the machine stand in where the usual font lacks a letter.

    A letter that no font has becomes a box; matplotlib would warn of each one.
    """
    if (letters := set().union(*names)) and max(letters).isascii():
        return
    from matplotlib import font_manager, rcParams
    from matplotlib.ft2font import FT2Font

    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    missing = {ord(letter) for letter in letters} - FT2Font(font_manager.findfont(FONT)).get_charmap().keys()
    families = [FONT]
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: "Sans" not in font.name):
        is_usual = font.weight == 400 and font.style == "normal"
        if not missing or not is_usual or font.name.startswith("Last Resort"):  # which has boxes for everything
            continue
        if found := missing & FT2Font(font.fname).get_charmap().keys():
            families.append(font.name)
            missing -= found
    rcParams["font.family"] = families


def plain(axes: "Axes") -> None:
    """Draw no frame, no grid and no tick marks: the colours are the picture."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    axes.title.set_fontsize(10)


def margins(figure: "Figure", left: float, right: float, bottom: float, top: float, **gaps: float) -> None:
    """Place the axes of a figure without layout; in inches."""
    width, height = figure.get_size_inches()
    edges = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    figure.subplots_adjust(**edges, **gaps)


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG on white, or an SVG that is light or dark as its reader is."""
    if path.suffix == ".svg":
        path.write_text(svg(figure), encoding="utf-8")
    else:
        figure.savefig(path, dpi=DOTS_PER_INCH, facecolor="white")


def svg(figure: "Figure") -> str:
    """Draw in vectors: text stays text, in the reader's own fonts, and ink and paper follow the reader's scheme."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # measured in matplotlib's font, drawn in the reader's
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", dpi=DOTS_PER_INCH, transparent=True, metadata=metadata)
    told = file.getvalue()
    told = re.sub(r"(?<=[: ])#[0-9a-f]{6}(?=[;\"])", lambda found: VECTOR_COLOURS.get(found[0], found[0]), told)
    told = re.sub(r"(font: [^;\"]*?[\d.]+px)[^;\"]*", r"\1 system-ui, sans-serif", told)
    return re.sub(r"(<svg [^>]*>)", lambda found: found[0] + SCHEME, told[told.index("<svg") :], count=1)


def shortened(name: str, size: int = 14) -> str:
    """Fit a name beside a picture: a dollar is a dollar there, and begins no formula."""
    name = shown(name)
    return (name if len(name) <= size else f"{name[: size - 1]}…").replace("$", r"\$")


def legend(figure: "Figure", colours: Mapping[str, Any], **options: Any) -> None:
    """Say above a figure what its colours mean, word by word."""
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, label=word) for word, colour in colours.items()]
    options = {"loc": "outside upper center", "ncols": len(patches), "frameon": False} | options
    figure.legend(handles=patches, **options)


def history_legend(figure: "Figure", **options: Any) -> None:
    legend(figure, {HISTORY_WORDS[kind]: HISTORY_COLOURS[kind] for kind in (RAN, LANDED, JUMPED_OVER)}, **options)


def history_colours() -> Float[np.ndarray, "kind rgb"]:
    """By what happened at a layer: RAN, JUMPED_OVER, LANDED."""
    from matplotlib.colors import to_rgba_array

    return to_rgba_array([HISTORY_COLOURS[kind] for kind in (RAN, JUMPED_OVER, LANDED)])[:, :3]


def dark_to_light() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("dark to light", DARK_TO_LIGHT)


def stride_colours(max_stride: int) -> Float[np.ndarray, "stride rgb"]:
    """Choose a colour per stride: grey for none, then from dark (1) to light (`max_stride`) in equal steps."""
    from matplotlib.colors import to_rgb

    return np.stack([to_rgb(LIGHT_GREY), *dark_to_light()(np.linspace(0.0, 1.0, max(max_stride, 1)))[:, :3]])


def stride_words(max_stride: int) -> list[str]:
    return ["none", *map(str, range(1, max_stride + 1))]


def spread(num: int, num_wanted: int) -> list[int]:
    """Choose the same rows of a table at every call, spread evenly over it."""
    return np.linspace(0, num - 1, min(num_wanted, num)).round().astype(int).tolist()


def draw_cells(
    axes: "Axes",
    colours: Float[np.ndarray, "row column channel"],
    words: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    font: float = 9,
) -> None:
    """Draw coloured cells parted by white lines, each with its word in an ink that can be read on it."""
    plain(axes)
    axes.pcolormesh(*cell_edges(*colours.shape[:2]), colours, edgecolors="white", linewidth=1.0)
    for row, line in enumerate(words):
        for column, word in enumerate(line):
            if word:
                *rgb, alpha = [*colours[row, column], 1.0][:4]
                ink = ON_COLOUR if 1 - alpha * (1 - sum(rgb) / 3) < 0.6 else INK
                axes.text(column, row, word, ha="center", va="center", color=ink, fontsize=font)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def cell_edges(num_rows: int, num_columns: int) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"]]:
    """Borders of cells whose centres are whole numbers."""
    return np.arange(num_columns + 1) - 0.5, np.arange(num_rows + 1) - 0.5


def blues(shares: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column rgba"]:
    """Paper for none, blue for all: a tint, which is right on light and on dark."""
    from matplotlib.colors import to_rgb

    return np.concatenate([np.broadcast_to(to_rgb(BLUE), (*shares.shape, 3)), shares[..., None]], axis=-1)


# What was skipped.


def draw_report(run_folder: Path, test: Evaluation, skips: frozenset[str]) -> list[Path]:
    """Write `report/jump_history.png` and `report/skip_pattern.png`, those of the two that the model has."""
    folder = run_folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if skips & LAYERS:
        rows = clips_by_compute(test.trace, MAX_CLIPS)
        figures["jump_history.png"] = draw_histories(test.trace, rows, "test clips, cheapest first")
    if "strides" in skips:
        figures["skip_pattern.png"] = draw_patterns(test.trace)
    for name, figure in figures.items():
        save(figure, folder / name)
    return [folder / name for name in figures]


def clips_by_compute(trace: SkipTrace, num_clips: int) -> Int[np.ndarray, " row"]:
    """Clips spread evenly from the cheapest to the costliest; those on the same route stand together."""
    order = np.lexsort([*routes(trace).T[::-1], trace.fraction.numpy()])
    return order[spread(len(order), num_clips)]


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
        max(5.5, 2.6 + 0.62 * depth), 2.0 + 0.13 * num_rows, 2, 2, layout=None,
        width_ratios=[3, 1], height_ratios=[1, max(0.16 * num_rows, 1.5)],
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
    bars.barh(range(num_rows), trace.fraction.numpy()[rows], color="#7a7a7a", height=0.8)
    bars.set(xlim=(0, 1), ylim=matrix.get_ylim(), xticks=[0, 0.5, 1], yticks=[], xlabel="compute fraction")
    history_legend(figure, loc="upper center")
    return figure


def draw_patterns(trace: SkipTrace) -> "Figure":
    """Draw the share of clips by layer and stride, and beside it the patterns most used, layer by layer."""
    layers = attention_layers(trace)
    strides = trace.strides[:, layers].numpy()
    shares = stride_shares(strides)
    first = 0 if shares[:, 0].any() else 1
    patterns, counts = np.unique(strides, axis=0, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:MAX_PATTERNS]
    figure, (left, right) = new_figure(8.0, 1.4 + 0.36 * max(len(layers), len(top)), 1, 2)
    names = [str(layer) for layer in layers]
    words = [["·" if share == 0 else f"{share:.0%}" for share in line[first:]] for line in shares]
    columns = stride_words(shares.shape[1] - 1)
    draw_cells(left, blues(shares[:, first:]), words, rows=names, columns=columns[first:])
    left.set(xlabel="stride", ylabel="layer", title="Share of test clips by stride")
    draw_strides(right, patterns[top], counts[top] / counts.sum(), names)
    covered = counts[top].sum() / counts.sum()
    title = f"The {len(top)} commonest of {len(counts)} patterns ({covered:.0%})"
    title = f"All {len(counts)} patterns in use" if len(top) == len(counts) else title
    right.set(xlabel="layer", ylabel="share of test clips", title=title)
    return figure


def draw_strides(
    axes: "Axes",
    strides: Int[np.ndarray, "route depth"],
    shares: Sequence[float] | Float[np.ndarray, " route"],
    layers: Sequence[str],
    cells: UInt8[np.ndarray, "route depth"] | None = None,
) -> None:
    """Draw a row per route, strides written in: coloured by them or, with `cells`, by what happened."""
    colours = stride_colours(int(strides.max()))[strides] if cells is None else history_colours()[cells]
    words = [[str(stride) if stride else "" for stride in line] for line in strides.tolist()]
    draw_cells(axes, colours, words, rows=[f"{share:.0%}" for share in shares], columns=layers)


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
    heights = [1.8, 0.15 * num_layers] if num_layers else [1.8]  # inches
    shape = {"sharex": True, "squeeze": False, "height_ratios": heights}
    figure, grid = new_figure(5.0, 0.8 + sum(heights), len(heights), 1, layout=None, **shape)
    margins(figure, 0.65, 0.15, 0.5, 0.3, hspace=0.08)
    above, lowest = grid[0, 0], grid[-1, 0]
    draw_mel(above, mel, frame_seconds, hertz)
    above.set(title=title, xlim=edges_of(len(mel), frame_seconds)[[0, -1]])
    lowest.set_xlabel("seconds")
    if is_open is not None:
        edges = edges_of(is_open.shape[1], token_seconds), np.arange(num_layers + 1)
        lowest.pcolormesh(*edges, is_open, cmap=ListedColormap([LIGHT_GREY, BLUE]), vmin=0, vmax=1)
        for layer in range(1, num_layers):
            lowest.axhline(layer, color="white", linewidth=1.5)
        lowest.set(ylim=(num_layers, 0), yticks=[], xlabel="seconds; a row per gated layer, open in blue")
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
    bars.set(xlim=(0, 1), xlabel="of the dense compute")
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
        axes.legend(frameon=False, fontsize=8)
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
        curves = {split: run.curve(f"{split}/{tag}") for split in ("train", "val")}
        if not any(curves.values()):
            continue
        figure, axes = new_figure()
        for (split, points), colour in zip(curves.items(), (ORANGE, BLUE), strict=True):
            mark = "o" if len(points) < 3 else ""  # a line needs two points to be seen
            style = {"color": colour, "linewidth": 1.4, "label": split, "marker": mark, "markersize": 3}
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
        (name, BLUE, [group.quality[1:] for group in groups]),
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
