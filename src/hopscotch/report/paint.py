"""Draw what was skipped, straight into arrays: a live dashboard cannot wait for a plotting library.

Two steps, so that tests can compare the part that tells the truth: a function that turns decisions into an array of
colours, one block of pixels per fact, and `captioned`, which adds words around it and changes nothing in it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from hopscotch.report.decisions import JUMPED_OVER, LANDED, RAN

# Okabe and Ito's blue and orange stay apart for every kind of colour blindness, and in grey.
HISTORY_COLOURS = {RAN: (0, 114, 178), JUMPED_OVER: (226, 226, 226), LANDED: (230, 159, 0)}
HISTORY_WORDS = {RAN: "ran", JUMPED_OVER: "jumped over", LANDED: "landed on"}
NO_STRIDE_COLOUR = (226, 226, 226)
GAP_COLOUR = (255, 255, 255)
INK = (40, 40, 40)
FONT_SIZE = 13  # pixels
PICTURE_WIDTH = 240  # pixels without words; TensorBoard shrinks, and blurs, what is wider than 350
MAX_NAME = 24  # letters of a clip's name
# Ends of the stride colours: dark for stride 1, where all is read, to light for the largest.
DARK, MIDDLE, LIGHT = (37, 37, 98), (34, 139, 141), (253, 231, 120)


def stride_colours(max_stride: int) -> UInt8[np.ndarray, "stride rgb"]:
    """Choose a colour per stride: grey for none, then from dark (1) to light (`max_stride`) in equal steps."""
    positions = np.linspace(0.0, 1.0, max(max_stride, 1))
    anchors = np.array([DARK, MIDDLE, LIGHT], dtype=float)
    scale = np.stack([np.interp(positions, [0.0, 0.5, 1.0], channel) for channel in anchors.T], axis=1)
    return np.concatenate([[NO_STRIDE_COLOUR], scale.round()]).astype(np.uint8)


def paint_histories(
    cells: UInt8[np.ndarray, "clip depth"], width: int = 30, height: int = 14
) -> UInt8[np.ndarray, "y x rgb"]:
    """One row per clip, one column per layer, coloured by what happened; the last pixel of a block is a white grid."""
    palette = np.array([HISTORY_COLOURS[kind] for kind in (RAN, JUMPED_OVER, LANDED)], dtype=np.uint8)
    blocks = palette[cells].repeat(height, axis=0).repeat(width, axis=1)
    blocks[height - 1 :: height] = GAP_COLOUR
    blocks[:, width - 1 :: width] = GAP_COLOUR
    return blocks


def paint_shares(
    shares: Float[np.ndarray, "time depth stride"], width: int = 8, height: int = 48
) -> UInt8[np.ndarray, "y x rgb"]:
    """One band per layer and one column per moment: the column is filled from below by the share of each stride.

    Stride 1 lies at the bottom and clips that did not attend at the top; a share of 1/48 is one pixel.
    """
    num_times, depth, num_strides = shares.shape
    palette = stride_colours(num_strides - 1)
    stacked = np.roll(shares, -1, axis=2).cumsum(axis=2)  # 1, 2, ..., none
    edges = (stacked * height).round().astype(int)
    pixels = np.arange(height)[::-1]  # rows count from above, shares from below
    fill = (pixels[:, None] >= edges[..., None, :]).sum(axis=-1).clip(max=num_strides - 1)  # time depth height
    colours = np.roll(palette, -1, axis=0)[fill]
    picture = np.full((depth, height + 2, num_times * width, 3), GAP_COLOUR, dtype=np.uint8)
    picture[:, :height] = colours.transpose(1, 2, 0, 3).repeat(width, axis=2)
    return picture.reshape(depth * (height + 2), num_times * width, 3)


def paint_mel(mel: Float[np.ndarray, "time mel"], scale: int = 3) -> UInt8[np.ndarray, "y x rgb"]:
    """Paint a mel picture, low frequencies at the bottom, from dark (quiet) to light (loud)."""
    low, high = np.percentile(mel, [1.0, 99.0])
    level = ((mel - low) / max(high - low, 1e-6)).clip(0.0, 1.0)
    palette = stride_colours(256)[1:]
    picture = palette[(level.T[::-1] * 255).round().astype(int)]
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def paint_tokens(
    is_open: Bool[np.ndarray, "layer time"], frames: int, scale: int = 3, height: int = 6
) -> UInt8[np.ndarray, "y x rgb"]:
    """Paint a row per layer under a mel picture, blue where a token is open; tokens are `frames` wide."""
    palette = np.array([HISTORY_COLOURS[JUMPED_OVER], HISTORY_COLOURS[RAN]], dtype=np.uint8)
    rows = palette[is_open.astype(int)].repeat(height, axis=0).repeat(frames * scale, axis=1)
    rows[height - 1 :: height] = GAP_COLOUR
    return rows


def stacked(
    above: UInt8[np.ndarray, "y x rgb"], below: UInt8[np.ndarray, "z w rgb"], gap: int = 4
) -> UInt8[np.ndarray, "height x rgb"]:
    """One picture over another that begins at the same moment; the lower one is cut, or filled up, to the width."""
    filled = np.full((gap + len(below), above.shape[1], 3), GAP_COLOUR, dtype=np.uint8)
    width = min(above.shape[1], below.shape[1])
    filled[gap:, :width] = below[:, :width]
    return np.concatenate([above, filled])


def paint_confusion(counts: Int[np.ndarray, "label prediction"], size: int) -> UInt8[np.ndarray, "y x rgb"]:
    """Paint a row per class: the share of its clips taken for each class, from white (none) to blue (all)."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    blue = np.array(HISTORY_COLOURS[RAN], dtype=float)
    colours = (255 - shares[..., None] * (255 - blue)).round().astype(np.uint8)
    return colours.repeat(size, axis=0).repeat(size, axis=1)


def captioned(
    picture: UInt8[np.ndarray, "y x rgb"],
    *,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    below: str = "",
) -> UInt8[np.ndarray, "height width rgb"]:
    """Add words to a picture: title and legend at the top, names of rows at the side and of columns at the bottom.

    Rows and columns divide the picture evenly. Where names would run into each other every n-th is written.
    """
    font = ImageFont.load_default(size=FONT_SIZE)
    line = FONT_SIZE + 6
    left = 10 + max((int(font.getlength(row)) for row in rows), default=0)
    legend_width = sum(int(font.getlength(word)) + 34 for word, _ in legend)
    width = left + max(picture.shape[1] + 10, int(font.getlength(title)), legend_width, int(font.getlength(below)))
    top = line * (2 if legend else 1) + 8
    height = top + picture.shape[0] + line * (bool(columns) + bool(below)) + 6
    canvas = Image.new("RGB", (width, height), GAP_COLOUR)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 4), title, INK, font)
    x = left
    for word, colour in legend:
        draw.rectangle((x, line + 5, x + 12, line + 17), fill=tuple(int(part) for part in colour))
        draw.text((x + 17, line + 4), word, INK, font)
        x += int(font.getlength(word)) + 34
    canvas.paste(Image.fromarray(picture), (left, top))
    row_height = picture.shape[0] / max(len(rows), 1)
    for number in range(0, len(rows), int(np.ceil(FONT_SIZE / row_height))):
        draw.text((left - 6, top + (number + 0.5) * row_height), rows[number], INK, font, anchor="rm")
    column_width = picture.shape[1] / max(len(columns), 1)
    widest = max((font.getlength(column) for column in columns), default=0) + 8
    for number in range(0, len(columns), int(np.ceil(widest / column_width))):
        draw.text((left + (number + 0.5) * column_width, top + picture.shape[0] + 4), columns[number], INK, font, "ma")
    if below:
        draw.text((left, height - line), below, INK, font)
    return np.asarray(canvas)


def confusion_picture(
    counts: Int[np.ndarray, "label prediction"], classes: Sequence[str]
) -> UInt8[np.ndarray, "y x rgb"]:
    """Who is taken for whom, with words."""
    return captioned(
        paint_confusion(counts, size=max(PICTURE_WIDTH // len(classes), 4)),
        title="Rows are, columns are taken for",
        rows=[name[-MAX_NAME:] for name in classes],
        columns=[name[-MAX_NAME:] for name in classes],
    )


def history_picture(cells: UInt8[np.ndarray, "clip depth"], names: Sequence[str]) -> UInt8[np.ndarray, "y x rgb"]:
    """Jump histories of some clips, with words; names are cut to their last part, for want of room."""
    depth = cells.shape[1]
    return captioned(
        paint_histories(cells, width=max(PICTURE_WIDTH // depth, 4)),
        title="What each clip did at each layer",
        rows=[name.rsplit("/", 1)[-1][-MAX_NAME:] for name in names],
        columns=[str(layer) for layer in range(depth)],
        legend=[(HISTORY_WORDS[kind], HISTORY_COLOURS[kind]) for kind in (RAN, LANDED, JUMPED_OVER)],
        below="layer",
    )


def pattern_picture(
    shares: Float[np.ndarray, "time depth stride"],
    *,
    epochs: Sequence[int],
    layers: Sequence[int],
) -> UInt8[np.ndarray, "y x rgb"]:
    """Skip patterns of some layers over the epochs so far, with words: a column is added each epoch.

    It keeps its width: columns get narrower instead, and beyond a pixel some epochs are left out.
    """
    kept = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), PICTURE_WIDTH)).round().astype(int))
    num_strides = shares.shape[2]
    words = ["none", *map(str, range(1, num_strides))]
    colours = [tuple(colour) for colour in stride_colours(num_strides - 1).tolist()]
    legend = list(zip(words, colours, strict=True))
    has_none = bool((shares[:, layers, 0] > 0).any())
    return captioned(
        paint_shares(shares[kept][:, layers], width=min(PICTURE_WIDTH // len(kept), 48)),
        title="Stride by layer: share of validation clips",
        rows=[f"layer {layer}" for layer in layers],
        columns=[str(epochs[number]) for number in kept],
        legend=legend[1:] + legend[: 1 if has_none else 0],
        below="epoch",
    )
