"""Answer several times, each time for more compute, and let a clip go as soon as its answer is sure.

    mel -> first steps of the stem | exit -> rest of the stem | exit -> layers | exit -> layers | last exit

An exit is a head like the last one (models/audio_model.py), and it speaks for all exits so far (layers/exits.py). Clips
that leave are gathered out of the batch: nothing behind their exit is computed for them. Training computes all exits
for all clips. Early exits move what they read by a share of their gradient, so that a narrow stack is not pulled in as
many directions as it has exits, and late layers drop clips at random (stochastic depth, Huang et al. 2016): exits ahead
of them get used to being the last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import Cost
from hopscotch.layers.block import TransformerBlock
from hopscotch.layers.checks import refuse_tracing
from hopscotch.layers.exits import Exits, Joined, Rule
from hopscotch.layers.sampling import drop_layer
from hopscotch.models.audio_model import AudioModel, Head
from hopscotch.models.encoder import Layered
from hopscotch.types import AtExits, Decisions, Hidden, Lengths, ModelOutput, SkipTrace, valid_mask

State = tuple[Tensor, ...]  # what the next rung reads, a row for each clip


class Answer(NamedTuple):
    """Hold what a rung leaves."""

    state: State
    pooled: Float[Tensor, "batch features"]
    logits: Float[Tensor, "batch classes"]


class Ladder(AudioModel):
    """Serve as base of models that climb from answer to answer; a subclass says what its rungs are.

    It makes `exits` at the end of its constructor, by `_end_with`.
    """

    stops = True
    exits: Exits

    def start(self, waveform: Float[Tensor, "batch sample"], lengths: Lengths, keys: Lengths | None) -> State:
        """Return what the first rung reads."""
        return self.mel_of(waveform, lengths, keys)

    def rung(self, number: int, state: State) -> Answer:
        """Compute what leads to an exit from what the exit before it has left."""
        raise NotImplementedError

    def costs(self, lengths: Lengths) -> tuple[Int[Tensor, "batch exit"], Int[Tensor, " batch"]]:
        """Count the multiply-accumulates up to each exit, and those of the dense model, of clips of so many samples."""
        raise NotImplementedError

    def strides_at(self, exits: Int[Tensor, " batch"]) -> Int[Tensor, "batch depth"]:
        """Return the strides of the layers that clips go through which leave by these exits; 0 at the others."""
        raise NotImplementedError

    def _end_with(self, heads: Sequence[nn.Module], *, rule: Rule, weight: float, joins: bool = True) -> None:
        """Make the exits of these heads, the last one being the model's own."""
        if any(type(head) is not Head for head in heads):
            raise ValueError(f"exits need one label per clip, task=classify; got {type(self.head).__name__}.")
        if weight < 0:
            raise ValueError(f"exits.weight must be at least 0, got {weight}.")
        self.loss_weight = weight  # of what early exits say, in training
        widths = [head.linear.in_features for head in heads if isinstance(head, Head)]
        self.exits = Exits(widths, rule=rule, joins=joins)

    @property
    def decides(self) -> bool:
        return True

    @property
    def skips(self) -> frozenset[str]:
        return self.encoder.skips | {"exits"}

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Lengths,
        keys: Lengths | None = None,
        repeat: Decisions | None = None,
    ) -> ModelOutput:
        refuse_tracing()
        last = self.exits.number - 1
        if self.training:
            at = self.at_exits(waveform, lengths, keys)
            logits, exits = at.log_probs[:, -1], torch.full_like(lengths, last)
        else:
            at, (logits, exits) = None, self.climbed(waveform, lengths, repeat)
        macs, dense = self.costs(lengths)
        strides = self.strides_at(exits)
        trace = SkipTrace.of(strides > 0, macs.gather(1, exits[:, None]).squeeze(1), dense, strides=strides)
        trace = replace(trace, decisions=replace(trace.decisions, exits=exits - last))
        frontend = self.frontend_macs(lengths).gather(1, exits[:, None]).squeeze(1)
        return ModelOutput(logits, trace, {}, frontend, self.positions(lengths), exits=at)

    def drawn(self) -> list[int]:
        """List the rungs that are computed where no clip leaves; training may draw some of them."""
        return list(range(self.exits.number))

    def answers(
        self, waveform: Tensor, lengths: Lengths, keys: Lengths | None
    ) -> Iterator[tuple[int, Float[Tensor, "batch features"], Float[Tensor, "batch classes"]]]:
        """Yield the rungs that are computed where no clip leaves, each with its pooled state and its logits."""
        state = self.start(waveform, lengths, keys)
        for number in self.drawn():
            state, pooled, logits = self.rung(number, state)
            yield number, pooled, logits

    def at_exits(
        self, waveform: Float[Tensor, "batch sample"], lengths: Lengths, keys: Lengths | None = None
    ) -> AtExits:
        """Compute what all exits say of all clips."""
        before, found, rules = None, list[Tensor](), list[Tensor]()
        for number, pooled, logits in self.answers(waveform, lengths, keys):
            joined = self.exits.join(number, before, logits)
            if number < self.exits.number - 1:
                ruled = self.exits.ruled(number, joined.log_probs, before, pooled)
                rules += [] if ruled is None else [ruled]
            found.append(joined.log_probs)
            before = joined
        return AtExits(torch.stack(found, dim=1), torch.stack(rules, dim=1) if rules else None)

    def climbed(
        self, waveform: Tensor, lengths: Lengths, repeat: Decisions | None
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Return log p of each clip where it leaves, and the exit."""
        last, device = self.exits.number - 1, lengths.device
        wanted = None if repeat is None or repeat.exits is None else (repeat.exits.to(device) + last).clamp(min=0)
        state, before = self.start(waveform, lengths, None), None
        rows, gone = torch.arange(len(lengths), device=device), list[tuple[Tensor, Tensor, Tensor]]()
        for number in range(last + 1):
            state, pooled, logits = self.rung(number, state)
            joined = self.exits.join(number, before, logits)
            leaves = torch.ones_like(rows, dtype=torch.bool)
            if wanted is not None:
                leaves = wanted[rows] <= number
            elif number < last:
                ruled = self.exits.ruled(number, joined.log_probs, before, pooled)
                leaves = self.exits.leaves(number, joined.log_probs, ruled, self.decision_bias)
            gone.append((rows[leaves], joined.log_probs[leaves], torch.full_like(rows[leaves], number)))
            stays = (~leaves).nonzero().flatten()
            if len(stays) == 0:
                break
            if len(stays) < len(rows):
                rows, joined = rows[stays], Joined(joined.total[stays], joined.weight, joined.log_probs[stays])
                state = tuple(part[stays] for part in state)
            before = joined
        rows, said, exits = (torch.cat(part) for part in zip(*gone, strict=True))
        order = rows.argsort()
        return said[order], exits[order]

    def cost(self, samples: int) -> Cost:
        """Count the multiply-accumulates of a clip of so many samples, by where it leaves."""
        macs, dense = self.costs(torch.tensor([samples], device=self.decision_bias.device))
        return Cost(int(macs[0, 0]), int(macs[0, -1]), int(macs[0, -1]), int(dense))

    def positions(self, lengths: Lengths) -> Lengths:
        """Count the positions of clips of so many samples."""
        return self.stem.positions(self.frontend.frames(lengths))

    def frontend_macs(self, lengths: Lengths) -> Int[Tensor, "batch exit"]:
        """Count the multiply-accumulates of the front end up to each exit."""
        return self.frontend.macs(lengths)[:, None].expand(-1, self.exits.number)


class EarlyExit(Ladder):
    """Stop inside the stem, behind it, or after some of the layers.

    Args:
        rule: When a clip leaves: "confidence", or "learned" (layers/exits.py).
        every: Layers from one exit to the next; the last layer has one in any case.
        inside: Steps of the stem, counted back from its last but one, that have an exit.
        gradient: Share of the gradient of an early exit that moves what it reads.
        weight: Of the losses of each early exit (training/exits.py).
        drop: Share of the clips that the last layer drops in training; layers before it drop fewer, the first none.
        parts: Of the model; its encoder has layers that run one by one.
    """

    encoder: Layered

    def __init__(
        self, *, rule: Rule, every: int, inside: int, gradient: float, weight: float, drop: float, **parts: Any
    ) -> None:
        super().__init__(**parts)
        if not isinstance(self.encoder, Layered):
            raise ValueError(
                "exits need layers that run one by one (model=dense, skip_attention) and no gate of tokens "
                f"(open_rate=null), got {type(self.encoder).__name__}."
            )
        for name, share in {"gradient": gradient, "drop": drop}.items():
            if not 0 <= share <= 1 or (name == "drop" and share == 1):
                raise ValueError(f"exits.{name} must be a share, 0 to 1 (drop: below 1), got {share}.")
        steps = len(self.stem.strides)
        if not 0 <= inside < steps:
            raise ValueError(f"exits.inside must be at least 0 and below the {steps} steps of the stem, got {inside}.")
        if every < 1:
            raise ValueError(f"exits.every must be at least 1 layer, got {every}.")
        depth = len(self.encoder.strides)
        self.gradient, self.drop = gradient, drop
        self.num_drawn = depth if drop else 0
        self.steps = list(range(steps - inside, steps + 1))  # steps of the stem that were taken at its exits
        self.layers = [0] * len(self.steps) + [min(layer + every, depth) for layer in range(0, depth, every)]
        make_head = parts["head"]
        widths = [self.stem.width(step - 1) for step in self.steps[:-1]]
        widths += [self.dim] * (len(self.layers) - len(widths) - 1)
        self.early = nn.ModuleList(make_head(width) for width in widths)
        self._end_with([*self.early, self.head], rule=rule, weight=weight)

    def start(self, waveform: Float[Tensor, "batch sample"], lengths: Lengths, keys: Lengths | None) -> State:
        mel, frames = self.mel_of(waveform, lengths, keys)
        return self.stem.begin(mel), frames

    @property
    def heads(self) -> list[Head]:
        """List the heads of all exits."""
        return [head for head in (*self.early, self.head) if isinstance(head, Head)]

    @property
    def can_remember(self) -> bool:
        return True

    @property
    def read_at(self) -> tuple[Sequence[int], ...]:
        return self.steps, self.layers

    @torch.no_grad()
    def summaries(self, waveform: Float[Tensor, "batch sample"], lengths: Lengths) -> Float[Tensor, "batch size"]:
        state, found = self.start(waveform, lengths, None), list[Tensor]()
        for number, head in enumerate(self.heads):
            state, seen = self.climb(number, state)
            found.append(head.summary(seen, valid_mask(state[1], seen.shape[1])).flatten(1))
        return torch.cat(found, dim=1)

    def answers(
        self, waveform: Tensor, lengths: Lengths, keys: Lengths | None
    ) -> Iterator[tuple[int, Float[Tensor, "batch features"], Float[Tensor, "batch classes"]]]:
        if self.memory is None:
            yield from super().answers(waveform, lengths, keys)
            return
        pooled = self.pooled_by_head(self.memory.recall(waveform, lengths, self.summaries))
        for number, (head, own) in enumerate(zip(self.heads, pooled, strict=True)):
            yield number, own, head.linear(head.dropout(own))

    def climbed(
        self, waveform: Tensor, lengths: Lengths, repeat: Decisions | None
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        if self.memory is None:
            return super().climbed(waveform, lengths, repeat)
        at, last = self.at_exits(waveform, lengths), self.exits.number - 1
        if repeat is not None and repeat.exits is not None:
            exits = (repeat.exits.to(lengths.device) + last).clamp(min=0)
        else:
            leaves = self.exits.scores(at) - self.exits.thresholds > self.decision_bias
            exits = torch.where(leaves.any(dim=1), leaves.to(torch.uint8).argmax(dim=1), last)
        return at.log_probs[torch.arange(len(exits), device=exits.device), exits], exits

    def climb(self, number: int, state: State) -> tuple[State, Hidden]:
        """Compute what leads to an exit, and show it as one row of features per position."""
        x, positions = state
        if number < len(self.steps):
            for step in range(self.steps[number - 1] if number else 0, self.steps[number]):
                x, positions = self.stem.step(step, x, positions)
            seen = self.stem.seen(x)
            if number == len(self.steps) - 1:
                x = self.stem.end(x)
                for block in self.stem_layers:
                    x = block(x, positions)
                seen = x
        else:
            for layer in range(self.layers[number - 1], self.layers[number]):
                x = self._layer(layer, x, positions)
            seen = x
        return (x, positions), seen

    def rung(self, number: int, state: State) -> Answer:
        state, seen = self.climb(number, state)
        head = self.head if number == self.exits.number - 1 else self.early[number]
        assert isinstance(head, Head)
        if head is not self.head and self.training:
            seen = seen.detach() + self.gradient * (seen - seen.detach())
        pooled = head.pooled(seen, valid_mask(state[1], seen.shape[1]))
        return Answer(state, pooled, head.linear(head.dropout(pooled)))

    def _layer(self, layer: int, x: Tensor, positions: Lengths) -> Tensor:
        y = self.encoder.layer(layer, x, positions)
        return drop_layer(self, x, y, self.drop, layer, len(self.encoder.strides)) if self.encoder.training else y

    def costs(self, lengths: Lengths) -> tuple[Int[Tensor, "batch exit"], Int[Tensor, " batch"]]:
        frames = self.frontend.frames(lengths)
        by_step = self.stem.macs_by_step(frames)  # batch step
        positions = self.stem.positions(frames)
        by_layer, dense = self.encoder.macs(positions)
        blocks = [block for block in self.stem_layers if isinstance(block, TransformerBlock)]
        around = sum((block.macs(positions) for block in blocks), torch.zeros_like(positions))
        one, spoken, found = torch.ones_like(frames), torch.zeros_like(frames), list[Tensor]()
        for number, head in enumerate(self.heads):
            spoken = spoken + head.macs(one) + self.exits.macs(number)
            behind_stem = number >= len(self.steps) - 1
            stem = by_step[:, : self.steps[min(number, len(self.steps) - 1)]].sum(dim=1) + around * behind_stem
            found.append(spoken + stem + by_layer[:, : self.layers[number]].sum(dim=1))
        return torch.stack(found, dim=1), found[-1] - by_layer.sum(dim=1) + dense.sum(dim=1)

    def strides_at(self, exits: Int[Tensor, " batch"]) -> Int[Tensor, "batch depth"]:
        strides = torch.tensor(self.encoder.strides, device=exits.device)
        ran = torch.tensor(self.layers, device=exits.device)[exits]
        return torch.where(torch.arange(len(strides), device=exits.device) < ran[:, None], strides, 0)
