"""Gate tokens before the encoder: closed ones, such as silence between words, cost nothing but the gate.

    x_t <- x_t + open_t (encoder(x_open)_t - x_t)        closed tokens pass unchanged

The encoder gets the open tokens of a clip as one short sequence, in their order, so that their number decides the cost
of all its layers: scores of attention fall with its square. A clip without an open token skips the encoder. In
evaluation on a CPU, clips with a similar number of open tokens go through it together, so that little is padding.
Training begins with nearly all tokens open. It also computes the first token of each clip and a few random closed ones,
so that they can learn to open: open tokens attend to them, they stay unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.compute import Cost
from hopscotch.layers.checks import refuse_tracing
from hopscotch.layers.gate import Gate
from hopscotch.layers.sampling import Scheduled, interpolate
from hopscotch.models.encoder import Encoder
from hopscotch.types import Decisions, Hidden, Lengths, Mask, SkipTrace, valid_mask

PASS = 5e7  # MACs that take about as long as the overhead of one more pass through the encoder, on one core
CLOSED = 0.5  # share of training over which the open rate falls from the gate's ceiling to its final value


class GatedEncoder(Encoder, Scheduled):
    """Encode only the tokens that a gate opens; `gate` holds its arguments, with the final open rate."""

    decides = True

    def __init__(self, encoder: Encoder, dim: int, *, gate: Mapping[str, Any]) -> None:
        super().__init__()
        rate, floor, ceiling = (gate[key] for key in ("open_rate", "rate_floor", "rate_ceiling"))
        if gate["rule"] != "target":
            raise ValueError(f"rule must be target in a gate before an encoder, got {gate['rule']}.")
        if not floor <= rate <= ceiling:
            raise ValueError(
                f"open_rate must lie between rate_floor and rate_ceiling, {floor} and {ceiling}, got {rate}."
            )
        self.encoder = encoder
        self.gate = Gate(dim, **{**gate, "training_mode": "packed", "threshold_by": "loss"})
        self.rates = (self.gate.rate_ceiling, self.gate.open_rate)
        self.gates, self.skips = [self.gate, *encoder.gates], encoder.skips | {"tokens"}
        self._costs: dict[int, Cost] = {}  # of the encoder, by length: counted once
        self.set_progress(0.0)

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        refuse_tracing()
        mask = valid_mask(lengths, x.shape[1])
        if repeat is not None and repeat.tokens is not None and repeat.positions is not None:
            computed = stretched(repeat.tokens.to(x.device), repeat.positions.to(x.device), lengths, x.shape[1])
            is_open = computed.to(x.dtype)
        else:
            decision = self.gate(x, mask, bias)
            is_open, computed = decision.is_open, decision.computed
        if self.training:  # every clip takes part, by its first token at least
            computed = computed | (torch.arange(x.shape[1], device=x.device) == 0)
        counts = computed.sum(dim=1)
        sizes, times = torch.stack([counts, lengths]).tolist()  # the one synchronisation with the device
        # Open tokens first, in their order. Shorter clips are filled up with closed tokens, which change nothing.
        order = (~computed).to(torch.uint8).argsort(dim=1, stable=True)
        rows = order + x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
        parts = list[tuple[Tensor, Tensor, SkipTrace]]()
        ran = sizes if any(sizes) else [1, *sizes[1:]]  # one of them runs for its trace's shape
        together = self.training or x.device.type != "cpu"
        groups = groups_of(ran, lambda size: self.encoder_cost(size).dense, together=together)
        for clips in groups:
            index = torch.tensor(clips, device=x.device)
            here = rows[index, : max(1, *(sizes[clip] for clip in clips))]
            same = None if repeat is None else repeat[index]
            changes = self._changes(x, is_open, here, counts[index].clamp(min=1), bias, same)
            parts.append((here.flatten(), *changes))
        where, added, traces = zip(*parts, strict=True)
        x = x.flatten(0, 1).index_add(0, torch.cat(where), torch.cat(added).to(x.dtype)).view_as(x)
        place = [0] * len(sizes)  # of a clip among those that ran; a clip that did not gets the first one's row
        for row, clip in enumerate(clip for clips in groups for clip in clips):
            place[clip] = row
        trace = SkipTrace.cat(traces)
        if place != list(range(len(place))):
            trace = trace[torch.tensor(place, device=x.device)]
        if 0 in sizes:
            trace = without(trace, counts == 0)
        return x, self._trace(trace, lengths, (is_open.detach() > 0) & mask, times)

    def _changes(
        self,
        x: Hidden,
        is_open: Float[Tensor, "batch time"],
        rows: Int[Tensor, "clip open"],
        counts: Int[Tensor, " clip"],
        bias: Tensor | float,
        repeat: Decisions | None,
    ) -> tuple[Float[Tensor, "token dim"], SkipTrace]:
        """Compute what the encoder adds to the tokens in `rows` of all tokens of the batch; 0 for closed ones."""
        weight = is_open.flatten().index_select(0, rows.flatten()).view(*rows.shape, 1).to(x.dtype)
        tokens = x.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, -1)
        y, trace = self.encoder(tokens * (1 + (weight - weight.detach())), counts, bias, repeat)
        return (weight * (y - tokens)).flatten(0, 1), trace

    def _trace(self, trace: SkipTrace, lengths: Tensor, tokens: Mask, times: Sequence[int]) -> SkipTrace:
        rate = tokens.sum(dim=1) / lengths
        gate = self.gate.macs(lengths)
        dense = torch.tensor([self.encoder_cost(time).dense for time in times], device=lengths.device) + gate
        inner = torch.where(trace.open_rate.isnan(), 1.0, trace.open_rate)
        return replace(
            trace,
            open_rate=torch.where(trace.visited, rate[:, None] * inner, torch.nan),
            macs=trace.macs + gate,
            dense_macs=dense,
            expected_compute=(trace.expected_compute * trace.dense_macs + gate) / dense,
            decisions=replace(trace.decisions, tokens=tokens, positions=lengths),
        )

    def cost(self, time: int) -> Cost:
        """Count the MACs of a clip; the cheapest has no token, the trained one as many as training ends with."""
        kept = max(1, round(self.rates[1] * time))
        everything, trained = self.encoder_cost(time), self.encoder_cost(kept).dense
        return Cost(0, trained, everything.dearest, everything.dense) + self.gate.macs(time)

    def encoder_cost(self, time: int) -> Cost:
        """Count the encoder's own multiply-accumulates."""
        if time not in self._costs:
            self._costs[time] = self.encoder.cost(time)
        return self._costs[time]

    def set_progress(self, progress: float) -> None:
        self.gate.open_rate = interpolate(*self.rates, min(1.0, progress / CLOSED))


def groups_of(sizes: Sequence[int], macs: Callable[[int], int], *, together: bool = False) -> list[list[int]]:
    """Group clips by size so that passes and dense MACs, each group padded to its largest, cost least.

    `macs` counts those of a clip of a size. Clips of size 0 are in no group.
    """
    clips = sorted((clip for clip, size in enumerate(sizes) if size), key=sizes.__getitem__)
    if together or not clips:
        return [sorted(clips)] if clips else []
    # Clips of one size stay together. For each number of shortest clips: the least cost, and the groups that have it.
    ends = [end for end in range(1, len(clips) + 1) if end == len(clips) or sizes[clips[end]] > sizes[clips[end - 1]]]
    best: dict[int, tuple[float, list[list[int]]]] = {0: (0.0, [])}
    for end in ends:
        most = macs(sizes[clips[end - 1]])
        cost, start = min((best[start][0] + PASS + (end - start) * most, start) for start in best)
        best[end] = (cost, [*best[start][1], clips[start:end]])
    return best[len(clips)][1]


def without(trace: SkipTrace, absent: Bool[Tensor, " batch"]) -> SkipTrace:
    """Clear what the encoder did for clips that never went through it."""
    whole = absent[:, None]
    decisions = replace(
        trace.decisions,
        strides=trace.strides.masked_fill(whole, 0),
        jumps=trace.jumps.masked_fill(whole, -1),
    )
    per_clip = ("macs", "expected_compute", "log_prob", "entropy")
    return replace(
        trace,
        decisions=decisions,
        visited=trace.visited & ~whole,
        landings=trace.landings & ~whole,
        **{name: getattr(trace, name).masked_fill(absent, 0) for name in per_clip},
    )


def stretched(tokens: Bool[Tensor, "batch other"], others: Lengths, lengths: Lengths, time: int) -> Mask:
    """Move open tokens of clips of `others` positions to the same parts of clips of `lengths`, padded to `time`."""
    place = torch.arange(time, device=lengths.device) * others[:, None] // lengths[:, None]
    here = tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))
    return here & valid_mask(lengths, time)
