"""Turn the decisions of a trace into numbers: pure functions, weighted by clips.

Three numbers with three names:

    jump rate     decisions to jump (action > 0) / decisions taken
    jump skipped  layers not run / depth
    visited       share of clips that ran a layer

`skips` says what a model can skip, as its encoder declares it; numbers are made only of what it can.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from hopscotch.layers.gate import Gate, GateDecision
from hopscotch.models.token_gate import GatedEncoder
from hopscotch.report.collect import Evaluation
from hopscotch.report.statistics import partial_rank_correlation
from hopscotch.report.text import Table, percent
from hopscotch.types import SkipTrace

RAN, JUMPED_OVER, LANDED = 0, 1, 2  # what a clip did at a layer
LETTERS = {RAN: "x", LANDED: ">", JUMPED_OVER: "-"}  # of a route
LAYERS = frozenset({"layers", "exits"})  # kinds of skipping that leave out layers
COMMON_ROUTE = 0.1  # share of the clips that makes a route common


def routes(trace: SkipTrace) -> Int[np.ndarray, "clip choice"]:
    """One row per clip that says everything it chose: strides, actions (-1 where it took none), layers that ran.

    Where a gate lets tokens into the encoder, also their share, in tenths.
    """
    parts = [trace.strides.numpy(), trace.jumps.numpy(), trace.visited.numpy()]
    parts += [] if trace.decisions.exits is None else [trace.decisions.exits.numpy()[:, None]]
    if trace.awake is not None:
        parts.append((10 * trace.awake).round().numpy()[:, None])
    return np.concatenate(parts, axis=1).astype(np.int64)


def route_shares(trace: SkipTrace) -> Float[np.ndarray, " route"]:
    """Share of the clips that use each different route, most used first."""
    _, counts = np.unique(routes(trace), axis=0, return_counts=True)
    return np.sort(counts)[::-1] / counts.sum()


class RouteUse(NamedTuple):
    """How many routes are in use."""

    routes: int
    common_routes: int  # taken by COMMON_ROUTE of the clips or more
    top_route: float  # share of the clips on the most common one


def route_use(trace: SkipTrace) -> RouteUse:
    shares = route_shares(trace)
    return RouteUse(len(shares), int((shares >= COMMON_ROUTE).sum()), float(shares[0]))


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
    """Decisions to jump per decision taken; NaN where none is taken."""
    return ((trace.jumps > 0).sum() / (trace.jumps >= 0).sum()).item()


def jump_skipped(trace: SkipTrace) -> float:
    """Share of the layers that did not run."""
    return 1.0 - trace.visited.double().mean().item()


def evaluation_numbers(evaluation: Evaluation, skips: frozenset[str], decides: bool) -> dict[str, float]:
    """Compute the scalars of the validation clips by tag; decisions are deterministic."""
    trace = evaluation.trace
    means = layer_means(trace)
    wanted = {"skip/stride": {"strides"}, "jump/visited": LAYERS, "gate/open_rate": {"tokens"}}
    numbers = {
        f"{tag}/layer_{layer:02d}": float(mean)
        for tag, kinds in wanted.items()
        if skips & kinds
        for layer, mean in enumerate(means[tag])
    }
    if skips & LAYERS:
        numbers |= {"jump/rate": jump_rate(trace), "jump/skipped": jump_skipped(trace)}
    if decides:
        numbers |= {f"policy/{name}": float(value) for name, value in route_use(trace)._asdict().items()}
        numbers["policy/rank_correlation"] = difficulty_correlation(evaluation)
    return {tag: number for tag, number in numbers.items() if not np.isnan(number)}


def split_numbers(trace: SkipTrace, skips: frozenset[str], split: str) -> dict[str, float]:
    """Compute a few scalars of a whole model by tag, where one per layer would be too many: `train/jump_rate`."""
    numbers = {}
    if "strides" in skips:
        numbers["stride"] = trace.strides[trace.strides > 0].double().mean().item()
    if skips & LAYERS:
        numbers |= {"jump_rate": jump_rate(trace), "jump_skipped": jump_skipped(trace)}
    if "tokens" in skips:
        numbers["open_rate"] = trace.open_rate.double().nanmean().item()
        numbers |= {} if trace.awake is None else {"awake": trace.awake.mean().item()}
    return {f"{split}/{name}": number for name, number in numbers.items() if not np.isnan(number)}


def history_cells(trace: SkipTrace) -> UInt8[np.ndarray, "clip depth"]:
    """Say what every clip did at every layer: RAN, JUMPED_OVER or LANDED (reached it by a jump, and ran it)."""
    cells = np.where(trace.visited.numpy(), RAN, JUMPED_OVER)
    return np.where(trace.landings.numpy(), LANDED, cells).astype(np.uint8)


def stride_shares(
    strides: Int[np.ndarray, "clip depth"], max_stride: int | None = None
) -> Float[np.ndarray, "depth stride"]:
    """Share of clips by layer and stride; column 0 is the share that did not attend there at all."""
    num_strides = (int(strides.max(initial=0)) if max_stride is None else max_stride) + 1
    counts = np.array([np.bincount(layer, minlength=num_strides) for layer in strides.T])
    return counts.reshape(-1, num_strides) / len(strides)  # also of no layer


def attention_layers(trace: SkipTrace) -> list[int]:
    """Layers that can attend: the others (of `jump_attention`) were run and have no stride."""
    attends = (trace.strides > 0).any(dim=0) | ~trace.visited.any(dim=0)
    return attends.nonzero().flatten().tolist()


@dataclass(frozen=True)
class Layers:
    """Shares of the clips, by layer."""

    ran: Float[np.ndarray, " depth"]
    landed: Float[np.ndarray, " depth"]
    strides: Float[np.ndarray, "depth stride"]  # column 0: did not attend
    open_rate: Float[np.ndarray, " depth"]  # mean over the clips that ran it; NaN without a gate

    def table(self, skips: frozenset[str], thresholds: dict[int, float] | None = None) -> Table:
        """Say what each layer did, in the columns that a model has."""
        depth = len(self.ran)
        columns = {"layer": [str(layer) for layer in range(depth)]}
        if skips & LAYERS:
            columns |= {"ran": percent(self.ran), "landed on": percent(self.landed)}
        if "strides" in skips:
            attends = self.strides[:, 1:].any(axis=1) | (self.ran == 0)
            for stride in range(1, self.strides.shape[1]):
                columns[f"stride {stride}"] = percent(np.where(attends, self.strides[:, stride], np.nan))
        if "tokens" in skips:
            columns["tokens open"] = percent(self.open_rate)
            if thresholds:
                columns["threshold"] = [f"{thresholds[i]:.3f}" if i in thresholds else "" for i in range(depth)]
        return Table(list(columns), list(zip(*columns.values(), strict=True)), numbers=columns)


def layers_of(
    cells: UInt8[np.ndarray, "clip depth"],
    strides: Int[np.ndarray, "clip depth"],
    open_rate: Float[np.ndarray, "clip depth"],
) -> Layers:
    """Summarise what happened at every layer, from a trace or from clips.csv."""
    known = ~np.isnan(open_rate)
    with np.errstate(invalid="ignore"):  # no clip: NaN is the answer
        rates = np.where(known, open_rate, 0.0).sum(axis=0) / known.sum(axis=0)
    return Layers((cells != JUMPED_OVER).mean(axis=0), (cells == LANDED).mean(axis=0), stride_shares(strides), rates)


def difficulty_correlation(evaluation: Evaluation) -> float:
    """Do harder clips get more compute? Rank correlation of compute fraction and loss, duration taken out."""
    trace = evaluation.trace
    return partial_rank_correlation(
        trace.fraction.numpy(), evaluation.losses.numpy(), trace.dense_macs.numpy().astype(float)
    )


# Which tokens of a clip the gates open. A trace tells shares alone, for a mask per token and layer would be most of
# what a batch returns: one clip is run again, and what every gate returned is kept.


@contextmanager
def watched(model: Any) -> Iterator[dict[int, GateDecision]]:
    """Gated layer, counted in order -> what its gate decides meanwhile; layers not visited are absent.

    Positions are those of the tokens that were let into the encoder (`let_in`).
    """
    assert not model.training, "in training gates measure what they see"
    seen: dict[int, GateDecision] = {}
    hooks = [
        gate.register_forward_hook(lambda _, __, decision, layer=layer: seen.update({layer: decision}))
        for layer, gate in enumerate(gates_of(model))
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def gates_of(model: Any) -> list[Gate]:
    """List the gates of layers, in order, without the one before the encoder; none that saw pieces alone."""
    return [] if model.in_pieces else list(model.encoder.gates)[isinstance(model.encoder, GatedEncoder) :]


def let_in(trace: SkipTrace, num_positions: int) -> Int[np.ndarray, " token"]:
    """Positions of the first clip that went through the encoder: all of them, where no gate stands before it."""
    if trace.tokens is None:
        return np.arange(num_positions)
    tokens = trace.tokens[0].cpu().numpy().copy()
    tokens[0] |= not tokens.any()  # an encoder needs one
    return tokens.nonzero()[0]


def open_tokens(model: Any, waveform: Float[Tensor, " sample"]) -> Bool[np.ndarray, "layer time"] | None:
    """Tell which tokens are open, by gated layer and position; all are False where the clip did not run the layer.

    A gate before the encoder comes first. None for a model without token gates. `model` must be in evaluation mode.
    """
    if not (model.encoder.gates or model.in_pieces):
        return None
    gates = gates_of(model)
    device = next(model.parameters()).device
    with watched(model) as decided, torch.no_grad():
        trace = model(waveform[None].to(device), torch.tensor([len(waveform)], device=device)).trace
    rows = [] if trace.tokens is None else [trace.tokens[0].cpu().numpy()]
    size = len(rows[0]) if rows else next(iter(decided.values())).computed.shape[1]
    places = let_in(trace, size)
    for layer in range(len(gates)):
        row = np.zeros(size, dtype=bool)
        if layer in decided:
            row[places] = decided[layer].computed[0].cpu().numpy()
        rows.append(row)
    return np.stack(rows)
