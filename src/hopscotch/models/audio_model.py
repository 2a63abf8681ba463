"""Assemble an audio model: waveform -> mel -> stem -> encoder -> head, and what that cost.

    mel (batch, time, mel) -> stem, its layers (batch, position, dim) -> encoder -> head (batch, classes)

The stem makes positions of frames by convolutions (models/stem.py). Its last layers are transformer blocks, if there
are any: every position of every clip goes through them, so that a gate and what it lets in know what is around a
position.

The head is a linear layer on hidden states that are pooled over the clip's positions:

    statistics      mean and deviation (Snyder et al. 2018, x-vectors)
    maxima          mean and maximum (Kong et al. 2020, PANNs, add them up): keeps a short event that a mean dilutes
    all             mean, deviation and maximum
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Cost, linear_macs
from hopscotch.frontend import LogMel
from hopscotch.layers.block import TransformerBlock
from hopscotch.layers.noise import Draws, Noise
from hopscotch.layers.pooling import (
    masked_mean_and_max,
    masked_mean_and_std,
    masked_mean_std_and_max,
    masked_summary,
    of_summary,
)
from hopscotch.layers.sampling import Decider, Scheduled
from hopscotch.layers.together import Together
from hopscotch.models.encoder import Encoder, Layered, Planner
from hopscotch.models.memory import Memory
from hopscotch.models.stem import Mel, Positioned, Stem
from hopscotch.types import Decisions, Hidden, Lengths, Mask, ModelOutput, SkipTrace, valid_mask

Pooling = Literal["statistics", "maxima", "all"]
POOLS = {"statistics": masked_mean_and_std, "maxima": masked_mean_and_max, "all": masked_mean_std_and_max}
SUMMARY_ROWS = 4  # of layers/pooling.py
READ = {"statistics": (0, 1), "maxima": (0, 2), "all": (0, 1, 2)}  # of mean, deviation and maximum


class Said(NamedTuple):
    """Put what a head said of a clip into words."""

    label: str
    confidence: float | None  # probability of the label; None of a number
    probabilities: dict[str, float]  # by class; none of a number


class OutputHead(nn.Module):
    """Serve as base of the heads, which read the hidden states of the encoder for a task."""

    pool = 0  # neighbouring positions that a row of outputs is of; 0: all of a clip, which has one row

    def read_every(self, hop: int, sample_rate: int) -> None:
        """Learn how many samples lie from position to position; the model says so once."""

    def forward(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch ..."]:
        """Read the valid positions of each clip, those where `mask` is True."""
        raise NotImplementedError

    def macs(self, time: Lengths) -> Lengths:
        """Count the multiply-accumulates of clips of so many positions."""
        raise NotImplementedError

    def scores(self, logits: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch outputs"]:
        """Turn outputs into what the windows of a recording are averaged by: probabilities of the classes."""
        return logits.softmax(dim=-1)

    def said(self, scores: list[float], classes: list[str]) -> Said:
        """Say the scores of a clip in words."""
        probabilities = dict(zip(classes, scores, strict=True))
        label = max(classes, key=probabilities.__getitem__)
        return Said(label, probabilities[label], probabilities)


class Head(OutputHead):
    """Pool over the positions of a clip, and map to one row of outputs per clip."""

    def __init__(self, dim: int, num_classes: int, *, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.pooling = pooling
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear((3 if pooling == "all" else 2) * dim, num_classes)

    def forward(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch classes"]:
        return self.linear(self.dropout(self.pooled(x, mask)))

    def pooled(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch features"]:
        """Summarise the valid positions of each clip."""
        return POOLS[self.pooling](self.norm(x), mask)

    def summary(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch 4 dim"]:
        """Return what `pooled` depends on and no weight of this head changes."""
        return masked_summary(nn.functional.layer_norm(x, self.norm.normalized_shape, eps=self.norm.eps), mask)

    def pooled_of(self, summary: Float[Tensor, "batch 4 dim"]) -> Float[Tensor, "batch features"]:
        """Return `pooled` of the states that a summary is of."""
        parts = of_summary(summary, self.norm.weight, self.norm.bias)
        return torch.cat([parts[number] for number in READ[self.pooling]], dim=-1)

    def macs(self, time: Lengths) -> Lengths:
        return linear_macs(torch.ones_like(time), self.linear.in_features, self.linear.out_features)


class Parts(nn.Module):
    """Hold what lies behind the front end."""

    def __init__(self, stem: Stem, stem_layers: Sequence[TransformerBlock], encoder: Encoder, head: OutputHead) -> None:
        super().__init__()
        self.stem, self.stem_layers, self.encoder, self.head = stem, nn.ModuleList(stem_layers), encoder, head

    def begun(self, mel: Mel, frames: Lengths) -> tuple[Positioned, Lengths]:
        """Return what the encoder reads, and the number of positions of each clip."""
        x, positions = self.stem(mel, frames)
        for block in self.stem_layers:
            x = block(x, positions)
        return x, positions

    def states(self, mel: Mel, frames: Lengths) -> tuple[Positioned, Lengths]:
        """Return what the head reads where nothing is decided, and the number of positions of each clip."""
        assert isinstance(self.encoder, Layered)
        x, positions = self.begun(mel, frames)
        return self.encoder.layers(x, positions), positions

    def answer(
        self, mel: Mel, frames: Lengths
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch classes"]]:
        """Return what the head of one label per clip pools, and its logits, where nothing is decided."""
        assert isinstance(self.head, Head)
        x, positions = self.states(mel, frames)
        pooled = self.head.pooled(x, valid_mask(positions, x.shape[1]))
        return pooled, self.head.linear(self.head.dropout(pooled))

    def layered_macs(self, frames: Lengths) -> tuple[Lengths, Lengths]:
        """Count the multiply-accumulates where nothing is decided, as they are and with every key read."""
        assert isinstance(self.encoder, Layered)
        fixed, layers = self.fixed_macs(frames), self.encoder.macs(self.stem.positions(frames))
        return fixed + layers[0].sum(dim=1), fixed + layers[1].sum(dim=1)

    def fixed_macs(self, frames: Lengths) -> Lengths:
        """Count the multiply-accumulates of stem and head."""
        return self._stem_macs(frames) + self.head.macs(self.stem.positions(frames))

    def _stem_macs(self, frames: Tensor) -> Tensor:
        total = self.stem.macs(frames)
        for block in self.stem_layers:
            assert isinstance(block, TransformerBlock)
            total = total + block.macs(self.stem.positions(frames))
        return total


class AudioModel(Parts, Draws):
    """Map waveforms to the outputs of a head, and record what every clip skipped.

    Evaluation adds the scalar `decision_bias` to every decision, to meet a budget. `head` makes the task's head for a
    width.
    """

    decision_bias: Tensor
    stops = False  # whether a clip may have its answer before all parts have run
    in_pieces = False  # whether a clip is computed in pieces, so that no decision of a layer is of all of it
    memory: Memory | None = None  # of what heads read of clips, while no part ahead of them learns

    def __init__(
        self,
        *,
        name: str,
        frontend: LogMel,
        spectrogram_augment: nn.Module | None,
        stem: Stem,
        encoder: Encoder,
        dim: int,
        head: Callable[[int], OutputHead],
        stem_layers: Sequence[TransformerBlock] = (),
    ) -> None:
        super().__init__(stem, stem_layers, encoder, head(dim))
        self.name, self.dim = name, dim
        self.frontend = frontend
        self.spectrogram_augment = spectrogram_augment
        self.head.read_every(frontend.hop * math.prod(stem.strides), frontend.sample_rate)
        self.scheduled = [part for part in encoder.modules() if isinstance(part, Scheduled)]
        self.deciders = [part for part in encoder.modules() if isinstance(part, Decider)]
        self.register_buffer("decision_bias", torch.tensor(0.0))

    @property
    def decides(self) -> bool:
        return self.encoder.decides

    @property
    def skips(self) -> frozenset[str]:
        """Name the kinds of what it can leave out, of `models.encoder.KINDS`."""
        return self.encoder.skips

    @property
    def token_frames(self) -> int:
        """Return the frames of what a gate opens."""
        return math.prod(self.stem.strides)

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Lengths,
        keys: Lengths | None = None,
        repeat: Decisions | None = None,
    ) -> ModelOutput:
        """Compute the outputs of a batch.

        In training `keys` seed each clip's spectrogram augmentation. `repeat` holds decisions to take instead of the
        model's own, one row per clip.
        """
        if self.memory is not None:
            return self._recalled(self.memory, waveform, lengths)
        mel, frames = self.mel_of(waveform, lengths, keys)
        x, positions, trace = self.encoded(mel, frames, repeat)
        logits = self.head(x, valid_mask(positions, x.shape[1]))
        thresholds = {gate.layer: gate.threshold.detach() for gate in self.encoder.gates}
        macs = self.frontend.macs(lengths)
        return ModelOutput(logits, self._whole(trace, frames), thresholds, macs, positions)

    def _recalled(self, memory: Memory, waveform: Float[Tensor, "batch sample"], lengths: Lengths) -> ModelOutput:
        """Compute the outputs from what is remembered of clips; nothing is decided for them."""
        assert isinstance(self.encoder, Layered)
        assert isinstance(self.head, Head)
        (pooled,) = self.pooled_by_head(memory.recall(waveform, lengths, self.summaries))
        frames = self.frontend.frames(lengths)
        positions = self.stem.positions(frames)
        logits, trace = self.head.linear(self.head.dropout(pooled)), self.encoder.trace(positions)
        return ModelOutput(logits, self._whole(trace, frames), {}, self.frontend.macs(lengths), positions)

    def mel_of(
        self, waveform: Float[Tensor, "batch sample"], lengths: Lengths, keys: Lengths | None
    ) -> tuple[Mel, Lengths]:
        """Return the frames that the stem reads, in training changed by the keys of clips."""
        mel, frames = self.frontend(waveform, lengths)
        if self.training and self.spectrogram_augment is not None and keys is not None:
            mel = self.spectrogram_augment(mel, frames, keys)
        return mel, frames

    def encoded(
        self, mel: Mel, frames: Lengths, repeat: Decisions | None = None
    ) -> tuple[Positioned, Lengths, SkipTrace]:
        """Return hidden states, the number of positions of each clip, and what the encoder skipped."""
        x, positions = self.begun(mel, frames)
        x, trace = self.encoder(x, positions, self.decision_bias, repeat)
        return x, positions, trace

    @property
    def can_remember(self) -> bool:
        """Tell whether what its heads read of a clip depends on the parts ahead of them alone."""
        return type(self) is AudioModel and isinstance(self.encoder, Layered) and type(self.head) is Head

    @property
    def heads(self) -> list[Head]:
        """List the heads of a model that can remember."""
        return [head for head in (self.head,) if isinstance(head, Head)]

    @property
    def trunk(self) -> list[nn.Module]:
        """List the parts that heads read from."""
        return [self.frontend, self.stem, self.stem_layers, self.encoder]

    @property
    def read_at(self) -> tuple[Sequence[int], ...]:
        """Say where heads read, as far as the parts ahead of them do not tell."""
        return ()

    @property
    def summary_sizes(self) -> list[int]:
        """Count the numbers that `summaries` gives for a clip, by head."""
        return [SUMMARY_ROWS * head.norm.normalized_shape[0] for head in self.heads]

    @torch.no_grad()
    def summaries(self, waveform: Float[Tensor, "batch sample"], lengths: Lengths) -> Float[Tensor, "batch size"]:
        """Compute what no weight of a head changes, of all heads."""
        x, positions = self.states(*self.frontend(waveform, lengths))
        return self.heads[0].summary(x, valid_mask(positions, x.shape[1])).flatten(1)

    def pooled_by_head(self, summaries: Float[Tensor, "batch size"]) -> list[Float[Tensor, "batch features"]]:
        """Return what each head pools of the states that `summaries` are of."""
        parts = summaries.split(self.summary_sizes, dim=1)
        return [
            head.pooled_of(part.unflatten(1, (SUMMARY_ROWS, -1))) for head, part in zip(self.heads, parts, strict=True)
        ]

    @property
    def planner(self) -> Planner | None:
        """Return the part of the encoder that plans by learned gains; None where there is none."""
        planners = (part for part in self.encoder.modules() if isinstance(part, Planner))
        return next((part for part in planners if part.gain_net is not None), None)

    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the gates' thresholds by the mean loss of the last step; call it once after every optimizer step."""
        for gate in self.encoder.gates:
            if gate.threshold_by == "loss":  # else the optimizer moves it
                gate.update_threshold(loss, lr)

    def set_progress(self, progress: float) -> None:
        """Set temperatures and open rates by the share of training done, 0 to 1."""
        for part in self.scheduled:
            part.set_progress(progress)

    def hold(self, is_held: bool) -> None:
        """Let training skip nothing, or let go."""
        for part in self.deciders:
            part.is_held = is_held

    def train_together(self, together: Together | None) -> None:
        """Measure what gates follow over all processes of a training; pieces of clips come in no common order."""
        for part in () if self.in_pieces else self.deciders:
            part.together = together

    def begin_step(self, key: int) -> Noise:
        """Begin a training step of this key, and return the noise that draws for the clips of its passes."""
        if self.noise is None:
            self.noise = Noise()
            self.noise.give_to(part for part in self.modules() if isinstance(part, Draws))
        self.noise.begin(key)
        return self.noise

    def cost(self, samples: int) -> Cost:
        """Count the multiply-accumulates of a clip of so many samples, by how its decisions fall."""
        frames = self.frontend.frames(torch.tensor([samples]))
        return self.encoder.cost(int(self.stem.positions(frames))) + int(self.fixed_macs(frames))

    def _whole(self, trace: SkipTrace, frames: Tensor) -> SkipTrace:
        """Add stem and head to the encoder's trace, so that fractions are those of the whole model."""
        fixed = self.fixed_macs(frames)
        dense_macs = trace.dense_macs + fixed
        expected = (trace.expected_compute * trace.dense_macs + fixed) / dense_macs
        return replace(trace, macs=trace.macs + fixed, dense_macs=dense_macs, expected_compute=expected)
