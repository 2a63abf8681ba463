"""Turn a trace into the numbers of the dashboard: pure functions, weighted by clips.

Three numbers with three names:

    jump rate     decisions to jump (action > 0) / decisions taken
    jump skipped  layers not run / depth
    visited       share of clips that ran a layer
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace

RAN, JUMPED_OVER, LANDED = 0, 1, 2  # what a clip did at a layer


@dataclass(frozen=True)
class Kinds:
    """What a model can decide, as far as its traces have shown; tags appear only for what a model has."""

    strides: bool = False
    jumps: bool = False
    gates: bool = False
    decides: bool = False

    def __or__(self, other: "Kinds") -> "Kinds":
        return Kinds(
            strides=self.strides or other.strides,
            jumps=self.jumps or other.jumps,
            gates=self.gates or other.gates,
            decides=self.decides or other.decides,
        )


def kinds_of(trace: SkipTrace) -> Kinds:
    """What this trace gives away: an action, be it to go on, is taken by models with jumps alone.

    Stride 1 is plain attention and skips nothing: a model that could choose others looks like a plain stack where it
    did not, so callers join the kinds of all traces of a run. While training it samples.
    """
    jumps = bool((trace.jumps >= 0).any())
    return Kinds(
        strides=bool((trace.strides > 1).any()),
        jumps=jumps,
        gates=not bool(trace.open_rate.isnan().all()),
        decides=jumps or bool((trace.entropy > 0).any()) or bool((trace.log_prob != 0).any()),
    )


def routes(trace: SkipTrace) -> Int[np.ndarray, "clip choice"]:
    """One row per clip that says everything it chose: strides, then actions (-1 where it did not run a layer).

    Where a gate lets tokens into the encoder, to a tenth which share of them, too.
    """
    parts = [trace.strides.numpy(), trace.jumps.numpy()]
    if trace.tokens is not None and trace.positions is not None:
        share = trace.tokens.sum(dim=1) / trace.positions
        parts.append((10 * share).round().numpy()[:, None])
    return np.concatenate(parts, axis=1).astype(np.int64)


def route_shares(trace: SkipTrace) -> Float[np.ndarray, " route"]:
    """Share of the clips that use each different route, most used first."""
    _, counts = np.unique(routes(trace), axis=0, return_counts=True)
    return np.sort(counts)[::-1] / counts.sum()


def layer_means(trace: SkipTrace) -> dict[str, Float[np.ndarray, " depth"]]:
    """Per layer: mean stride of the clips that chose one, share of visits, mean open rate; NaN where there is none."""
    strides = trace.strides.double()
    strides[strides == 0] = torch.nan
    return {
        "skip/stride": strides.nanmean(dim=0).numpy(),
        "jump/visited": trace.visited.double().mean(dim=0).numpy(),
        "gate/open_rate": trace.open_rate.double().nanmean(dim=0).numpy(),
    }


def jump_rate(trace: SkipTrace) -> float:
    """Decisions to jump per decision taken."""
    return ((trace.jumps > 0).sum() / (trace.jumps >= 0).sum()).item()


def jump_skipped(trace: SkipTrace) -> float:
    """Share of the layers that did not run."""
    return 1.0 - trace.visited.double().mean().item()


def evaluation_numbers(evaluation: Evaluation, kinds: Kinds) -> dict[str, float]:
    """The scalars of the validation clips, by tag: decisions taken deterministically."""
    trace = evaluation.trace
    means = layer_means(trace)
    wanted = {"skip/stride": kinds.strides, "jump/visited": kinds.jumps, "gate/open_rate": kinds.gates}
    numbers = {
        f"{tag}/layer_{layer:02d}": float(mean)
        for tag, is_wanted in wanted.items()
        if is_wanted
        for layer, mean in enumerate(means[tag])
    }
    if kinds.jumps:
        numbers |= {"jump/rate": jump_rate(trace), "jump/skipped": jump_skipped(trace)}
    if kinds.decides:
        numbers["policy/routes"] = float(len(route_shares(trace)))
        numbers["policy/rank_correlation"] = difficulty_correlation(evaluation)
    return {tag: number for tag, number in numbers.items() if not np.isnan(number)}


def split_numbers(trace: SkipTrace, kinds: Kinds, split: str) -> dict[str, float]:
    """A handful of scalars for a whole model, by tag, where one per layer would be too many: `train/jump_rate`."""
    numbers = {}
    if kinds.strides:
        numbers["stride"] = trace.strides[trace.strides > 0].double().mean().item()
    if kinds.jumps:
        numbers |= {"jump_rate": jump_rate(trace), "jump_skipped": jump_skipped(trace)}
    if kinds.gates:
        numbers["open_rate"] = trace.open_rate.double().nanmean().item()
    return {f"{split}/{name}": number for name, number in numbers.items() if not np.isnan(number)}


def history_cells(trace: SkipTrace) -> UInt8[np.ndarray, "clip depth"]:
    """What every clip did at every layer: RAN, JUMPED_OVER or LANDED (reached it by a jump, and ran it)."""
    cells = np.where(trace.visited.numpy(), RAN, JUMPED_OVER)
    return np.where(trace.landings.numpy(), LANDED, cells).astype(np.uint8)


def stride_shares(trace: SkipTrace, max_stride: int | None = None) -> Float[np.ndarray, "depth stride"]:
    """Share of clips by layer and stride; column 0 is the share that did not attend there at all."""
    strides = trace.strides.numpy()
    num_strides = (strides.max() if max_stride is None else max_stride) + 1
    return np.stack([np.bincount(layer, minlength=num_strides) for layer in strides.T]) / len(strides)


def confusion_counts(evaluation: Evaluation, num_classes: int) -> Int[np.ndarray, "label prediction"]:
    """How many clips of each class are taken for each class."""
    pairs = evaluation.labels.numpy() * num_classes + evaluation.predictions.numpy()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def ranks(values: Float[np.ndarray, " clip"]) -> Float[np.ndarray, " clip"]:
    """Position of every value among all, from 1; equal values share their mean position."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def difficulty_correlation(evaluation: Evaluation) -> float:
    """Do harder clips get more compute? Rank correlation of compute fraction and loss, duration taken out."""
    trace = evaluation.trace
    return partial_rank_correlation(
        trace.fraction.numpy(), evaluation.losses.numpy(), trace.dense_macs.numpy().astype(float)
    )


def attention_layers(trace: SkipTrace) -> list[int]:
    """Layers that can attend: the others (of `jump_attention`) were run and have no stride."""
    attends = (trace.strides > 0).any(dim=0) | ~trace.visited.any(dim=0)
    return attends.nonzero().flatten().tolist()


def partial_rank_correlation(
    x: Float[np.ndarray, " clip"], y: Float[np.ndarray, " clip"], given: Float[np.ndarray, " clip"]
) -> float:
    """Spearman's correlation of x and y with what both owe to a third quantity taken out; NaN where one is constant.

    r = (r_xy - r_xg r_yg) / sqrt((1 - r_xg^2) (1 - r_yg^2)), each r a correlation of ranks. Where all clips are equally
    long the third quantity explains nothing and r = r_xy.
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    if np.ptp(given) == 0:
        return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
    (_, xy, xg), (_, _, yg), _ = np.corrcoef([ranks(x), ranks(y), ranks(given)])
    unexplained = (1 - xg**2) * (1 - yg**2)
    # Where length alone decides, 1 - r^2 is zero up to rounding and the quotient would be noise.
    return float("nan") if unexplained < 1e-9 else float((xy - xg * yg) / np.sqrt(unexplained))
