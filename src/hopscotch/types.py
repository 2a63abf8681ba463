"""The house on one page: what flows from a clip to a report, and the words for it.

    config -> build -> AudioBatch -> mel -> hidden -> ModelOutput (+ SkipTrace) -> loss -> step -> update_threshold
    -> report

Axes, everywhere:

    batch   clips                   time    frames (after the stem: positions)
    sample  waveform samples        mel     mel bins
    depth   decision layers         dim     hidden width

Words, everywhere (code, config, tag, README):

    stride        keys and values kept are positions 0, s, 2s, ...
    skip pattern  the list of strides over the layers
    gate          a yes/no per token, straight-through
    threshold     the score above which a gate is open
    jump          what happened: how many layers a clip moved on by choice
    history       the layers a clip landed on by jumping, in order
    compute       multiply-accumulates (MACs); fraction = run / dense
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor


class AudioBatch(NamedTuple):
    """Clips of one training, validation or test step, zero-padded on the right to the longest."""

    waveform: Float[Tensor, "batch sample"]
    lengths: Int[Tensor, " batch"]  # samples per clip, at least 1
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]  # position of the clip in its split
    keys: Int[Tensor, " batch"]  # int64 noise key, a function of (seed, epoch, index)


@dataclass(frozen=True)
class SkipTrace:
    """What every clip of a batch did at every decision layer, and what that cost.

    `depth` counts all decision layers in order (in `jump_attention`: jump layers, then attention layers).
    """

    strides: Int[Tensor, "batch depth"]  # 0 where the layer has no attention or was not visited
    visited: Bool[Tensor, "batch depth"]
    jumps: Int8[Tensor, "batch depth"]  # the action taken; -1 where not visited, and where a layer decides nothing
    landings: Bool[Tensor, "batch depth"]  # layers reached by a jump (action > 0 at the layer before)
    open_rate: Float[Tensor, "batch depth"]  # NaN where not visited or without gate
    macs: Int[Tensor, " batch"]  # int64, what these decisions cost
    dense_macs: Int[Tensor, " batch"]  # int64, the same model with nothing skipped
    expected_compute: Float[Tensor, " batch"]  # differentiable fraction of dense_macs; 1 where nothing is decided
    log_prob: Float[Tensor, " batch"]  # of the sampled route, where a policy learns by it; else 0
    entropy: Float[Tensor, " batch"]  # nats per decision, mean over the decisions of the clip
    summary: Float[Tensor, "batch features"] | None = None  # what decisions were planned from, where gains are learnt
    tokens: Bool[Tensor, "batch time"] | None = None  # let into the encoder, where a gate chooses them
    positions: Int[Tensor, " batch"] | None = None  # that it chose among

    @property
    def histories(self) -> list[list[int]]:
        """The layers each clip landed on by jumping, in order."""
        return [row.nonzero().flatten().tolist() for row in self.landings.cpu()]

    @property
    def fraction(self) -> Float[Tensor, " batch"]:
        """Share of the dense model's multiply-accumulates that each clip used."""
        return self.macs.double() / self.dense_macs.double()


def detached(trace: SkipTrace) -> SkipTrace:
    """The same decisions without their graph: what may be kept after the step."""
    return replace(
        trace,
        **{
            field.name: value.detach()
            for field in fields(trace)
            if isinstance(value := getattr(trace, field.name), Tensor) and value.requires_grad
        },
    )


def concatenated(traces: Sequence[SkipTrace]) -> SkipTrace:
    """One trace for all clips of several batches, in order, where they lie and with their graph."""

    def cat(name: str) -> Any:
        parts = [getattr(trace, name) for trace in traces]
        if parts[0] is None:
            return None
        if name == "tokens":
            longest = max(part.shape[1] for part in parts)
            parts = [torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts]
        return torch.cat(parts)

    return SkipTrace(**{field.name: cat(field.name) for field in fields(SkipTrace)})


def join_traces(traces: Sequence[SkipTrace]) -> SkipTrace:
    """One trace for all clips of several batches, in order, on the CPU and without graph: what a split may keep."""
    trace = concatenated([detached(trace) for trace in traces])

    def on_cpu(name: str) -> Any:
        value = getattr(trace, name)
        return None if value is None else value.cpu()

    return SkipTrace(**{field.name: on_cpu(field.name) for field in fields(SkipTrace)})


def select_clips(trace: SkipTrace, rows: Int[Tensor, " clip"]) -> SkipTrace:
    """The same trace for some of its clips, in the order asked for."""

    def select(name: str) -> Any:
        value = getattr(trace, name)
        return None if value is None else value[rows]

    return SkipTrace(**{field.name: select(field.name) for field in fields(SkipTrace)})


def skipping_nothing(trace: SkipTrace) -> SkipTrace:
    """Decisions to repeat: those of the same clips that skip nothing.

    Not among them are token gates of adapters and strides that are fixed beforehand, which stay as they are.
    """
    return replace(
        detached(trace),
        strides=torch.ones_like(trace.strides),
        visited=torch.ones_like(trace.visited),
        jumps=torch.zeros_like(trace.jumps),
        landings=torch.zeros_like(trace.landings),
        tokens=None if trace.tokens is None else torch.ones_like(trace.tokens),
    )


class ModelOutput(NamedTuple):
    """What a model says of a batch, and what it did to say it."""

    logits: Float[Tensor, "batch classes"]
    trace: SkipTrace
    thresholds: dict[int, Tensor]  # decision layer -> threshold of its gate, for layers that have one
    frontend_macs: Int[Tensor, " batch"]  # mel front end, kept apart from the model's own


def key_bits(*parts: int) -> int:
    """Mix integers into one 63-bit key: the same parts give the same key on every machine."""
    state = 0
    for part in parts:
        state = (state + (part & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def valid_mask(lengths: Int[Tensor, " batch"], size: int) -> Bool[Tensor, "batch size"]:
    """True at the positions that belong to a clip, False at its padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
