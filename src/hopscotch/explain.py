"""One page on one clip: what the model heard, what it read of that, what it jumped over, and what that cost.

A row per decision layer, drawn over the same seconds as the mel picture: a layer with a gate shows the tokens that were
open, a layer with attention the positions that it read keys and values at, a layer that was jumped over nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.layers.gate import GateDecision
from hopscotch.models.audio_model import AudioModel, Said
from hopscotch.plain import shown
from hopscotch.report.clips import ClipRow, explained_clips, explained_file
from hopscotch.report.decisions import JUMPED_OVER, LANDED, RAN, history_cells, let_in, watched
from hopscotch.report.figures import HISTORY_COLOURS, HISTORY_WORDS, draw_mel, edges_of
from hopscotch.report.paint import BLUE, INK, plain, save
from hopscotch.types import SkipTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 5  # classes with their probabilities
IDLE, READ, READ_AFTER_JUMP = 0, 1, 2  # of a token at a layer
IDLE_COLOUR = "#f2f2f2"


class Explanation(NamedTuple):
    """A clip as the model saw it."""

    waveform: Float[np.ndarray, " sample"]
    sample_rate: int
    mel: Float[np.ndarray, "time mel"]
    hertz: Float[np.ndarray, " mel"]  # in the middle of each band
    hop_seconds: float  # from frame to frame
    token_seconds: float  # from position to position
    read: Bool[np.ndarray, "depth position"]  # tokens that a layer worked on, or read keys at
    is_gated: list[bool]  # by layer: tokens were opened one by one
    trace: SkipTrace  # of one clip
    said: Said


@torch.inference_mode()
def explained(
    model: AudioModel, waveform: Float[Tensor, " sample"], sample_rate: int, classes: list[str]
) -> Explanation:
    """Run the clip alone, and note which tokens the gates open."""
    device = model.decision_bias.device
    batch, lengths = waveform[None].to(device), torch.tensor([len(waveform)], device=device)
    with watched(model) as decisions:
        output = model(batch, lengths)
    mel, frames = model.frontend(batch, lengths)
    trace = SkipTrace.kept([output.trace])
    scores = model.head.scores(output.logits[0].float()).tolist()
    hop = model.frontend.hop / sample_rate
    num_positions = -(-int(frames) // model.token_frames)
    return Explanation(
        waveform=waveform.numpy(),
        sample_rate=sample_rate,
        mel=mel[0].float().cpu().numpy(),
        hertz=model.frontend.hertz.numpy(),
        hop_seconds=hop,
        token_seconds=hop * model.token_frames,
        read=tokens_read(trace, decisions, num_positions),
        is_gated=[not bool(rate.isnan()) for rate in trace.open_rate[0]],
        trace=trace,
        said=model.head.said(scores, classes),
    )


def tokens_read(
    trace: SkipTrace, decisions: dict[int, GateDecision], num_positions: int
) -> Bool[np.ndarray, "depth position"]:
    """By layer: the open tokens of a gate, every s-th of attention with stride s, all of another layer that ran.

    Where a gate lets tokens into the encoder, of those.
    """
    places = let_in(trace, num_positions)
    depth = trace.visited.shape[1]
    read = np.zeros((depth, num_positions), dtype=bool)
    for layer in range(depth):
        stride = int(trace.strides[0, layer])
        if layer in decisions:
            read[layer, places] = decisions[layer].is_open[0].cpu().numpy() > 0
        elif bool(trace.visited[0, layer]):
            read[layer, places[:: max(stride, 1)]] = True
    return read


def explain_run(run: Path, model: AudioModel, data: AudioDataModule, rows: Sequence[ClipRow]) -> None:
    """Write the pages of three test clips into a run's report: the cheapest, the median and the costliest."""
    was_training = model.training
    model.eval()
    clips = {clip.name: clip for clip in data.clips["test"]}
    for word, row in explained_clips(rows).items() if rows and rows[0].has_classes else ():
        waveform = data.first_window(clips[row.path]).to(torch.float32)
        file = run / "report" / explained_file(word)
        save_page(explained(model, waveform, data.sample_rate, list(data.classes)), shown(Path(row.path).name), file)
    model.train(was_training)


def save_page(page: Explanation, name: str, path: Path) -> None:
    """Write the page; `name` is what the clip is called in its title."""
    save(draw(page, name), path)


def draw(page: Explanation, name: str) -> "Figure":
    from matplotlib.figure import Figure

    depth = len(page.read)
    figure = Figure(figsize=(9.0, 5.6 + 0.26 * depth), layout="constrained")
    heights = [0.8, 1.9, 0.4 + 0.26 * depth, 1.3]
    grid = figure.add_gridspec(4, 2, height_ratios=heights, width_ratios=[2, 1])
    heard = figure.add_subplot(grid[0, :])
    mel = figure.add_subplot(grid[1, :], sharex=heard)
    layers = figure.add_subplot(grid[2, :], sharex=heard)
    _draw_waveform(heard, page)
    draw_mel(mel, page.mel, page.hop_seconds, page.hertz)
    mel.tick_params(labelbottom=False)
    _draw_layers(layers, page)
    _draw_bars(figure.add_subplot(grid[3, 0]), page)
    _draw_cost(figure.add_subplot(grid[3, 1]), page)
    for axes in figure.axes:
        plain(axes)
    label, confidence, _ = page.said
    sure = "" if confidence is None else f" ({confidence:.0%})"
    title = figure.suptitle(f"{name}: {label}{sure}, for {page.trace.fraction[0]:.0%} of a dense model")
    title.set_parse_math(False)  # a dollar in a file's name is a dollar
    return figure


def _draw_waveform(axes: "Axes", page: Explanation) -> None:
    seconds = np.arange(len(page.waveform)) / page.sample_rate
    axes.plot(seconds, page.waveform, color="#808080", linewidth=0.5)
    axes.set(xlim=(0, len(page.waveform) / page.sample_rate), ylabel="waveform", yticks=[])
    axes.tick_params(labelbottom=False)


def _draw_layers(axes: "Axes", page: Explanation) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    depth, num_positions = page.read.shape
    cells = history_cells(page.trace)[0]
    kinds = np.where(page.read, np.where(cells == LANDED, READ_AFTER_JUMP, READ)[:, None], IDLE)
    palette = ListedColormap([IDLE_COLOUR, HISTORY_COLOURS[RAN], HISTORY_COLOURS[LANDED]])
    edges = edges_of(num_positions, page.token_seconds)
    line = 0.6 if num_positions <= 150 else 0  # beyond that the lines would hide the tokens
    axes.pcolormesh(
        edges, np.arange(depth + 1) - 0.5, kinds, cmap=palette, vmin=0, vmax=2, edgecolors="white", linewidth=line
    )
    for layer in np.flatnonzero(cells == JUMPED_OVER).tolist():
        axes.axhspan(layer - 0.5, layer + 0.5, color="white", linewidth=0)
        axes.axhline(layer, color="#a0a0a0", linewidth=1.0, linestyle=":")
    axes.set(ylim=(max(1, depth) - 0.5, -0.5), xlabel="seconds", ylabel="layer")
    axes.set_yticks(range(depth))
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(depth), [layer_in_words(page, layer) for layer in range(depth)])
    right.spines[:].set_visible(False)
    right.tick_params(length=0, colors=INK)
    words = {RAN: "tokens read", LANDED: "tokens read after a jump"}
    shown = [kind for kind in words if (cells == kind).any()]
    patches = [Patch(facecolor=HISTORY_COLOURS[kind], label=words[kind]) for kind in shown]
    patches.append(Patch(facecolor=IDLE_COLOUR, label="tokens passed by"))
    axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=8)


def layer_in_words(page: Explanation, layer: int) -> str:
    """Describe what the clip did at a layer: `landed on, 62% open`, `stride 4`, `jumped over`."""
    trace = page.trace
    if not bool(trace.visited[0, layer]):
        return HISTORY_WORDS[JUMPED_OVER]
    words = [HISTORY_WORDS[LANDED]] if bool(trace.landings[0, layer]) else []
    stride = int(trace.strides[0, layer])
    if stride:
        words.append(f"stride {stride}")
    if page.is_gated[layer]:
        words.append(f"{float(trace.open_rate[0, layer]):.0%} open")
    return ", ".join(words) or HISTORY_WORDS[RAN]


def _draw_bars(axes: "Axes", page: Explanation) -> None:
    likely = sorted(page.said.probabilities.items(), key=lambda item: -item[1])[:MAX_BARS]
    names, shares = [name for name, _ in likely], [share for _, share in likely]
    colours = [BLUE, *["#b5b5b5"] * MAX_BARS][: len(likely)]
    axes.barh(range(len(likely)), shares, color=colours, height=0.75)
    for place, share in enumerate(shares):
        axes.text(share + 0.01, place, f"{share:.1%}", va="center", fontsize=8, color=INK)
    axes.set(xlim=(0, 1.12), xticks=[], title="What it says")
    axes.set_yticks(range(len(likely)), names)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.invert_yaxis()


def _draw_cost(axes: "Axes", page: Explanation) -> None:
    macs, dense = int(page.trace.macs[0]), int(page.trace.dense_macs[0])
    axes.barh([0, 1], [dense / 1e6, macs / 1e6], color=["#d0d0d0", BLUE], height=0.6)
    for place, value in enumerate((dense, macs)):
        axes.text((value + 0.02 * dense) / 1e6, place, f"{value / 1e6:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks([0, 1], ["dense", "this clip"])
    axes.set(
        xlim=(0, 1.3 * dense / 1e6),
        xticks=[],
        title=f"What it cost: {macs / dense:.1%}",
        xlabel="million multiply-accumulates",
    )
