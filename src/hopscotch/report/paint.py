"""Paint in one style, on light and on dark paper: a figure, its colours and letters, cells, and the file it becomes."""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hopscotch.files import write_file
from hopscotch.plain import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for every kind of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
BLUE, ORANGE = COLOURS[:2]
INK, GREY, LIGHT_GREY, GRID = "#282828", "#999999", "#e2e2e2", "#e5e5e5"
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
    BLUE.lower(): "var(--blue)",
    "#f2f2f2": "var(--soft)",
}
SCHEME = """<style>svg{color:#222;--paper:#fff;--line:#e5e5e5;--soft:#e2e2e2;--blue:#0072b2}text{fill:currentColor}
@media(prefers-color-scheme:dark){svg{color:#e4e4e4;--paper:#16181b;--line:#3a3d42;--soft:#33373c;--blue:#2b94dc}}</style>"""
SMALL = (3.5, 2.6)  # inches: three stand side by side on a screen, one on a telephone


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
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.title.set_fontsize(10)


def margins(figure: "Figure", left: float, right: float, bottom: float, top: float, **gaps: float) -> None:
    """Place the axes of a figure without layout; in inches."""
    width, height = figure.get_size_inches()
    edges = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    figure.subplots_adjust(**edges, **gaps)


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG on white, or an SVG that is light or dark as its reader is."""
    if path.suffix == ".svg":
        write_file(path, svg(figure))
    else:
        figure.savefig(file := io.BytesIO(), format=path.suffix[1:], dpi=DOTS_PER_INCH, facecolor="white")
        write_file(path, file.getvalue())


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


def dark_to_light() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("dark to light", DARK_TO_LIGHT)


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
