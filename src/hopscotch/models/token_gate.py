"""Only the tokens that a gate opens go through the encoder: silence and noise between words cost nothing but the gate.

    x_t <- x_t + open_t (encoder(x_open)_t - x_t)        closed tokens pass it by, unchanged

The open tokens of a clip lie side by side in the encoder, in their order, so that their number decides the cost of all
its layers: scores of attention fall with its square. In evaluation on a CPU, clips with about as many open tokens go
through it together, for none of them should pay for the padding to another. Training begins with nearly all tokens
open. A few closed ones, drawn at random, come along, so that they can learn to open: open tokens hear them, they
themselves stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.layers.gate import Gate
from hopscotch.layers.sampling import Scheduled, interpolate
from hopscotch.models.encoder import Cost, Encoder
from hopscotch.types import Decisions, SkipTrace, valid_mask

PASS = 5e7  # MACs that take as long as the calls of one more pass through the encoder, about, on one core
CLOSED = 0.5  # share of training over which the open rate falls from the gate's ceiling to where it stays


class GatedEncoder(Encoder, Scheduled):
    """`gate` holds arguments of Gate; its open rate is that of the end of training."""

    decides = True

    def __init__(self, encoder: Encoder, dim: int, *, gate: Mapping[str, Any]) -> None:
        super().__init__()
        rate, floor, ceiling = (gate[key] for key in ("open_rate", "rate_floor", "rate_ceiling"))
        if gate["rule"] != "target":
            raise ValueError(
                f"gate.rule must be target before an encoder, got {gate['rule']}: no other rule holds an open rate."
            )
        if not floor <= rate <= ceiling:
            raise ValueError(
                f"open_rate must lie between gate.rate_floor and gate.rate_ceiling, {floor} and {ceiling}, got {rate}."
            )
        self.encoder = encoder
        self.gate = Gate(dim, **{**gate, "training_mode": "packed", "threshold_by": "loss"})
        self.rates = (self.gate.rate_ceiling, self.gate.open_rate)
        self.gates, self.skips = [self.gate, *encoder.gates], encoder.skips | {"tokens"}
        self._costs: dict[int, Cost] = {}  # of the encoder, by length: counted once
        self.set_progress(0.0)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: Decisions | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        mask = valid_mask(lengths, x.shape[1])
        if repeat is not None and repeat.tokens is not None and repeat.positions is not None:
            computed = stretched(repeat.tokens.to(x.device), repeat.positions.to(x.device), lengths, x.shape[1])
            is_open = computed.to(x.dtype)
        else:
            decision = self.gate(x, mask, bias)
            is_open, computed = decision.is_open, decision.computed
        computed = computed | (torch.arange(x.shape[1], device=x.device) == 0)  # an encoder needs one token of a clip
        counts = computed.sum(dim=1)
        sizes, times = torch.stack([counts, lengths]).tolist()  # the one look at the device
        # Open tokens first, in their order. What fills up the shorter clips is closed tokens, which change nothing.
        order = (~computed).to(torch.uint8).argsort(dim=1, stable=True)
        rows = order + x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
        groups = self._groups(sizes) if x.device.type == "cpu" and not self.training else []
        if len(groups) < 2:
            rows = rows[:, : max(sizes)]
            changes, trace = self._changes(x, is_open, rows, counts, bias, repeat)
        else:
            parts = list[tuple[Tensor, Tensor, SkipTrace]]()
            for clips in groups:
                index = torch.tensor(clips)
                here = rows[index, : max(sizes[clip] for clip in clips)]
                same = None if repeat is None else repeat[index]
                parts.append((here.flatten(), *self._changes(x, is_open, here, counts[index], bias, same)))
            where, added, traces = zip(*parts, strict=True)
            rows, changes = torch.cat(where), torch.cat(added)
            as_run = torch.tensor([clip for clips in groups for clip in clips])
            trace = SkipTrace.cat(traces)[as_run.argsort()]
        x = x.flatten(0, 1).index_add(0, rows.flatten(), changes.to(x.dtype)).view_as(x)
        return x, self._trace(trace, lengths, (is_open.detach() > 0) & mask, times)

    def _groups(self, sizes: Sequence[int]) -> list[list[int]]:
        """Clips that go together, each group padded to its largest: the cheapest split, by dense MACs and passes."""
        clips = sorted(range(len(sizes)), key=sizes.__getitem__)
        # Of so many of the shortest clips: what they cost at least, and in which groups.
        best: list[tuple[float, list[list[int]]]] = [(0.0, [])]
        for end in range(1, len(clips) + 1):
            macs = self.encoder_cost(sizes[clips[end - 1]]).dense
            cost, start = min((best[start][0] + PASS + (end - start) * macs, start) for start in range(end))
            best.append((cost, [*best[start][1], clips[start:end]]))
        return best[-1][1]

    def _changes(
        self,
        x: Float[Tensor, "batch time dim"],
        is_open: Float[Tensor, "batch time"],
        rows: Int[Tensor, "clip open"],
        counts: Int[Tensor, " clip"],
        bias: Tensor | float,
        repeat: Decisions | None,
    ) -> tuple[Float[Tensor, "token dim"], SkipTrace]:
        """What the encoder adds to the tokens of some clips, in `rows` of all tokens of the batch; 0 to closed ones."""
        weight = is_open.flatten().index_select(0, rows.flatten()).view(*rows.shape, 1).to(x.dtype)
        tokens = x.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, -1)
        y, trace = self.encoder(tokens * (1 + (weight - weight.detach())), counts, bias, repeat)
        return (weight * (y - tokens)).flatten(0, 1), trace

    def _trace(
        self, trace: SkipTrace, lengths: Tensor, tokens: Bool[Tensor, "batch time"], times: Sequence[int]
    ) -> SkipTrace:
        rate = tokens.sum(dim=1) / lengths
        gate = self.gate.macs(lengths)
        dense = torch.tensor([self.cost(time).dense for time in times], device=lengths.device)
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
        """Cheapest: one token, for an encoder needs something to read. Trained: as many as training ends with."""
        kept = max(1, round(self.rates[1] * time))
        everything = self.encoder_cost(time)
        return Cost(
            self.encoder_cost(1).cheapest,
            self.encoder_cost(kept).dense,
            everything.dearest,
            everything.dense,
        ) + self.gate.macs(time)

    def encoder_cost(self, time: int) -> Cost:
        """Count the encoder's own multiply-accumulates."""
        if time not in self._costs:
            self._costs[time] = self.encoder.cost(time)
        return self._costs[time]

    def set_progress(self, progress: float) -> None:
        self.gate.open_rate = interpolate(*self.rates, min(1.0, progress / CLOSED))


def stretched(
    tokens: Bool[Tensor, "batch other"], others: Int[Tensor, " batch"], lengths: Int[Tensor, " batch"], time: int
) -> Bool[Tensor, "batch time"]:
    """Open tokens of clips of `others` positions as those of clips of `lengths`, at the same parts of the clip."""
    place = torch.arange(time, device=lengths.device) * others[:, None] // lengths[:, None]
    here = tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))
    return here & valid_mask(lengths, time)
