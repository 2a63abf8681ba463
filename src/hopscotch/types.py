"""Define what flows from a clip to a report, and the words for it.

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
    jump          the action that a clip took after a layer: 0 goes on, a > 0 skips layers
    history       the layers a clip landed on by jumping, in order
    compute       multiply-accumulates (MACs); fraction = run / dense
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

Hidden = Float[Tensor, "batch time dim"]  # hidden states
Mask = Bool[Tensor, "batch time"]  # True at the positions of a clip, False at its padding
Lengths = Int[Tensor, " batch"]  # positions of each clip


class AudioBatch(NamedTuple):
    """Hold the clips of one step, zero-padded on the right to the longest."""

    waveform: Float[Tensor, "batch sample"]
    lengths: Int[Tensor, " batch"]  # samples per clip, at least 1
    # As the task has them; events are rows of start and end in samples and class, filled with -1.
    labels: (
        Int[Tensor, " batch"] | Float[Tensor, "batch classes"] | Float[Tensor, " batch"] | Int[Tensor, "batch most 3"]
    )
    indices: Int[Tensor, " batch"]  # position of the clip in its split
    keys: Int[Tensor, " batch"]  # int64 noise key, a function of (seed, epoch, index)


Clips = TypeVar("Clips", bound="PerClip")


class PerClip:
    """Serve as base of dataclasses whose fields hold one row per clip, or None where a model has no such value."""

    def map(self: Clips, function: Callable[[Tensor], Tensor]) -> Clips:
        """Apply `function` to every tensor."""
        return type(self)(**{name: _mapped(value, function) for name, value in self._columns()})

    def detach(self: Clips) -> Clips:
        """Drop the autograd graph, so that the rows can be kept after the step."""
        return self.map(lambda column: column.detach() if column.requires_grad else column)

    def cpu(self: Clips) -> Clips:
        """Copy the rows to the CPU."""
        return self.map(Tensor.cpu)

    def to(self: Clips, device: torch.device) -> Clips:
        """Copy the rows to `device`."""
        return self.map(lambda column: column.to(device))

    def __getitem__(self: Clips, rows: Int[Tensor, " clip"]) -> Clips:
        """Select clips, in the order of `rows`."""
        return self.map(lambda column: column[rows])

    @classmethod
    def cat(cls: type[Clips], parts: Sequence[Clips]) -> Clips:
        """Concatenate the clips of several batches, on their device and with their graph."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return cls(**{named[0][0]: _concatenated([value for _, value in named]) for named in columns})

    def _columns(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]  # pyright: ignore[reportArgumentType]


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, PerClip):
        return value.map(function)
    return value if value is None else function(value)


def _concatenated(values: Sequence[Any]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, PerClip):
        return type(first).cat(values)
    if first.dim() == 2:  # tokens: batches differ in length
        longest = max(value.shape[1] for value in values)
        values = [torch.nn.functional.pad(value, (0, longest - value.shape[1])) for value in values]
    return torch.cat(list(values))


@dataclass(frozen=True)
class Decisions(PerClip):
    """Hold what an encoder decided for each clip: enough to take the same decisions again."""

    strides: Int[Tensor, "batch depth"]  # 0 where the layer has no attention or was not visited
    jumps: Int8[Tensor, "batch depth"]  # the action taken; -1 where not visited, and where a layer decides nothing
    tokens: Bool[Tensor, "batch time"] | None = None  # let into the encoder, where a gate chooses them
    positions: Int[Tensor, " batch"] | None = None  # number of positions that the gate chose among
    exits: Int[Tensor, " batch"] | None = None  # by which each clip left, where there are some; the last is 0, then -1

    def skip_nothing(self) -> "Decisions":
        """Replace the decisions by those that skip nothing.

        Token gates of adapters and fixed strides are not decisions: they stay as they are.
        """
        return Decisions(
            strides=torch.ones_like(self.strides),
            jumps=torch.zeros_like(self.jumps),
            tokens=None if self.tokens is None else torch.ones_like(self.tokens),
            positions=self.positions,
            exits=None if self.exits is None else torch.zeros_like(self.exits),
        )


@dataclass(frozen=True)
class SkipTrace(PerClip):
    """Record what every clip of a batch did at every decision layer, and what that cost.

    `depth` counts all decision layers in order (in `jump_attention`: jump layers, then attention layers).
    """

    decisions: Decisions
    visited: Bool[Tensor, "batch depth"]
    landings: Bool[Tensor, "batch depth"]  # layers reached by a jump (action > 0 at the layer before)
    open_rate: Float[Tensor, "batch depth"]  # NaN where not visited or without gate
    macs: Int[Tensor, " batch"]  # int64, what these decisions cost
    dense_macs: Int[Tensor, " batch"]  # int64, the same model with nothing skipped
    expected_compute: Float[Tensor, " batch"]  # differentiable fraction of dense_macs; 1 where nothing is decided
    log_prob: Float[Tensor, " batch"]  # of the sampled route, where a policy learns by it; else 0
    entropy: Float[Tensor, " batch"]  # nats per decision, mean over the decisions of the clip
    summary: Float[Tensor, "batch features"] | None = None  # what decisions were planned from, where gains are learnt

    @classmethod
    def of(
        cls,
        visited: Bool[Tensor, "batch depth"],
        macs: Int[Tensor, " batch"],
        dense_macs: Int[Tensor, " batch"],
        *,
        strides: Int[Tensor, "batch depth"] | None = None,
        jumps: Int8[Tensor, "batch depth"] | None = None,
        **known: Any,
    ) -> "SkipTrace":
        """Make a trace from what an encoder knows; all other fields say "not applicable".

        Without `strides` no layer attends, and without `jumps` no layer decides. `expected_compute` is by default the
        fraction that was run.
        """
        rest: dict[str, Any] = {
            "landings": torch.zeros_like(visited),
            "open_rate": torch.full(visited.shape, torch.nan, device=visited.device),
            "expected_compute": (macs / dense_macs).float().nan_to_num(1.0),  # of nothing nothing is skipped
            "log_prob": torch.zeros(len(visited), device=visited.device),
            "entropy": torch.zeros(len(visited), device=visited.device),
        }
        decisions = Decisions(
            strides=torch.zeros_like(visited, dtype=torch.long) if strides is None else strides,
            jumps=torch.full_like(visited, -1, dtype=torch.int8) if jumps is None else jumps,
        )
        return cls(decisions=decisions, visited=visited, macs=macs, dense_macs=dense_macs, **(rest | known))

    @property
    def strides(self) -> Int[Tensor, "batch depth"]:
        """Return the stride of every layer; 0 where it has no attention or was not visited."""
        return self.decisions.strides

    @property
    def jumps(self) -> Int8[Tensor, "batch depth"]:
        """Return the action after every layer; -1 where nothing was decided."""
        return self.decisions.jumps

    @property
    def tokens(self) -> Bool[Tensor, "batch time"] | None:
        """Return the positions that a gate let into the encoder; None without such a gate."""
        return self.decisions.tokens

    @property
    def positions(self) -> Int[Tensor, " batch"] | None:
        """Return the number of positions that the gate chose among; None without such a gate."""
        return self.decisions.positions

    @property
    def awake(self) -> Float[Tensor, " batch"] | None:
        """Return the share of positions that a gate let in, or of the time that spans were open; None without such."""
        if self.tokens is None or self.positions is None:
            return None
        return self.tokens.sum(dim=1) / self.positions

    @property
    def histories(self) -> list[list[int]]:
        """List the layers that each clip landed on by jumping, in order."""
        return [row.nonzero().flatten().tolist() for row in self.landings.cpu()]

    @property
    def fraction(self) -> Float[Tensor, " batch"]:
        """Return the share of the dense model's multiply-accumulates that each clip used."""
        return self.macs.double() / self.dense_macs.double()

    @staticmethod
    def kept(traces: Sequence["SkipTrace"]) -> "SkipTrace":
        """Join batches into one trace on the CPU, without autograd graph."""
        return SkipTrace.cat([trace.detach() for trace in traces]).cpu()


class Primary(NamedTuple):
    """Name the metric that a task is judged by, and which direction is better."""

    name: str  # without split: "acc" is logged as val/acc
    larger_is_better: bool


class AtExits(NamedTuple):
    """Hold what a model says of a batch at all of its exits, the cheapest first."""

    log_probs: Float[Tensor, "batch exit classes"]  # of all exits so far together
    rules: Float[Tensor, "batch earlier"] | None = None  # log odds that the last exit would agree, where a net says so


class ModelOutput(NamedTuple):
    """Hold the outputs of a model for a batch, and how they were computed."""

    logits: Float[Tensor, "batch ..."]  # what the head gives: (batch, classes) for labels of clips
    trace: SkipTrace
    thresholds: dict[int, Tensor]  # decision layer -> threshold of its gate, for layers that have one
    frontend_macs: Int[Tensor, " batch"]  # of the mel front end, which is not in `trace.macs`
    positions: Int[Tensor, " batch"]  # per clip in the encoder; later positions are padding
    stage: Float[Tensor, "batch step"] | None = None  # scores of what opens spans ahead of the stem, where there is one
    exits: AtExits | None = None  # in training, of a model that has exits


def key_bits(*parts: int) -> int:
    """Mix integers into one 63-bit key: the same parts give the same key on every machine."""
    state = 0
    for part in parts:
        state = (state + (part & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def valid_mask(lengths: Lengths, size: int) -> Bool[Tensor, "batch size"]:
    """Return True at the positions that belong to a clip, False at its padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class Step:
    """Hold the results of a step for callbacks, detached; Lightning would copy a dataclass, tensor by tensor."""

    def __init__(
        self,
        losses: Tensor,
        output: ModelOutput,
        batch: AudioBatch,
        judged: tuple[Tensor, Tensor],
        rows: Mapping[str, Tensor],
    ) -> None:
        self.losses = losses.detach()  # per clip
        self.task_loss = self.losses.mean()
        kept = {"logits": output.logits.detach(), "trace": output.trace.detach()}
        self.output = output._replace(**kept, stage=None, exits=None)  # which nothing reads after the step
        self.indices = batch.indices
        self.judged = judged[0].detach(), judged[1].detach()
        self.rows = rows  # columns of clips.csv by name; empty for training steps
