"""Assemble an audio model: waveform -> mel -> stem -> encoder -> head, and what that cost.

    mel (batch, time, mel) -> stem, its layers (batch, position, dim) -> encoder -> head (batch, classes)

The stem is two masked convolutions, 2 or 4 frames per position, and then positions:

    sinusoidal      + sin and cos of the position at geometrically spaced wavelengths (Vaswani et al. 2017)
    convolutional   + GELU(a convolution over `POSITION_WIDTH` positions, channel by channel): it depends on what
                    surrounds a position, wherever in the clip (Baevski et al. 2020, there in 16 groups of channels)

The last layers of the stem are transformer blocks, if there are any: every position of every clip goes through them,
so that a gate and what it lets in know what is around a position.

The head is a linear layer on hidden states that are pooled over the clip's positions:

    statistics      mean and deviation (Snyder et al. 2018, x-vectors)
    maxima          mean and maximum (Kong et al. 2020, PANNs, add them up): keeps a short event that a mean dilutes
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Cost, convolution_macs, linear_macs
from hopscotch.frontend import LogMel
from hopscotch.layers.block import DepthwiseConvolution, TransformerBlock, over_time
from hopscotch.layers.pooling import masked_mean_and_max, masked_mean_and_std
from hopscotch.layers.sampling import Scheduled
from hopscotch.models.encoder import Encoder, Planner
from hopscotch.types import Decisions, Hidden, Lengths, Mask, ModelOutput, SkipTrace, valid_mask

Positions = Literal["sinusoidal", "convolutional", "none"]
Pooling = Literal["statistics", "maxima"]

KERNEL = 5  # frames
STEM_STRIDES = {2: (1, 2), 4: (2, 2)}  # of the two convolutions
LONGEST_WAVELENGTH = 10_000.0  # of the sinusoidal positions, in positions (Vaswani et al. 2017)
POSITION_WIDTH = 31  # positions that the convolution of positions spans: 0.6 s or 1.2 s at 10 ms a frame


class ConvStem(nn.Module):
    """Map mel frames to positions by two convolutions over time that never see padding."""

    def __init__(
        self, num_mels: int, dim: int, *, stride: int, dropout: float, positions: Positions = "sinusoidal"
    ) -> None:
        super().__init__()
        if stride not in STEM_STRIDES:
            raise ValueError(f"stem_stride must be 2 or 4 frames per position, got {stride}.")
        self.strides = STEM_STRIDES[stride]
        self.widths = num_mels, dim
        # These hold the weights alone: `over_time` has stride and padding.
        self.convolutions = nn.ModuleList(nn.Conv1d(width, dim, KERNEL) for width in self.widths)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.sinusoidal = positions == "sinusoidal"
        self.around = DepthwiseConvolution(dim, POSITION_WIDTH) if positions == "convolutional" else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, mel: Float[Tensor, "batch time mel"], frames: Lengths
    ) -> tuple[Float[Tensor, "batch position dim"], Lengths]:
        x = mel
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv1d)
            frames = (frames + stride - 1) // stride
            x = over_time(x, convolution.weight[:, :, None], convolution.bias, stride=stride)
            x = nn.functional.gelu(norm(x))
            x = x * valid_mask(frames, x.shape[1])[:, :, None]
        if self.around is not None:
            x = x + nn.functional.gelu(self.around(x))
        elif self.sinusoidal:
            x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        return self.dropout(x), frames

    def positions(self, frames: Lengths) -> Lengths:
        """Count the positions of clips of so many frames."""
        for stride in self.strides:
            frames = (frames + stride - 1) // stride
        return frames

    def macs(self, frames: Lengths) -> Lengths:
        half, positions = (frames + self.strides[0] - 1) // self.strides[0], self.positions(frames)
        num_mels, dim = self.widths
        total = convolution_macs(half, num_mels, dim, KERNEL) + convolution_macs(positions, dim, dim, KERNEL)
        return total if self.around is None else total + self.around.macs(positions)


def sinusoids(time: int, dim: int, device: torch.device) -> Float[Tensor, "time dim"]:
    """Return sine and cosine of the position at geometrically spaced wavelengths."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(LONGEST_WAVELENGTH) / dim))
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]


class Said(NamedTuple):
    """Put what a head said of a clip into words."""

    label: str
    confidence: float | None  # probability of the label; None of a number
    probabilities: dict[str, float]  # by class; none of a number


class OutputHead(nn.Module):
    """Serve as base of the heads, which read the hidden states of the encoder for a task."""

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
        self.linear = nn.Linear(2 * dim, num_classes)

    def forward(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch classes"]:
        pool = masked_mean_and_std if self.pooling == "statistics" else masked_mean_and_max
        return self.linear(self.dropout(pool(self.norm(x), mask)))

    def macs(self, time: Lengths) -> Lengths:
        return linear_macs(torch.ones_like(time), self.linear.in_features, self.linear.out_features)


class AudioModel(nn.Module):
    """Map waveforms to the outputs of a head, and record what every clip skipped.

    Evaluation adds the scalar `decision_bias` to every decision, to meet a budget. `head` makes the task's head for a
    width.
    """

    decision_bias: Tensor

    def __init__(
        self,
        *,
        name: str,
        frontend: LogMel,
        spectrogram_augment: nn.Module | None,
        encoder: Encoder,
        dim: int,
        head: Callable[[int], OutputHead],
        dropout: float,
        stem_stride: int,
        positions: Positions,
        stem_layers: Sequence[TransformerBlock] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.frontend = frontend
        self.spectrogram_augment = spectrogram_augment
        self.stem = ConvStem(frontend.num_mels, dim, stride=stem_stride, dropout=dropout, positions=positions)
        self.stem_layers = nn.ModuleList(stem_layers)
        self.encoder = encoder
        self.head = head(dim)
        self.scheduled = [part for part in encoder.modules() if isinstance(part, Scheduled)]
        self.register_buffer("decision_bias", torch.tensor(0.0))

    @property
    def decides(self) -> bool:
        return self.encoder.decides

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
        mel, frames = self.frontend(waveform, lengths)
        if self.training and self.spectrogram_augment is not None and keys is not None:
            mel = self.spectrogram_augment(mel, frames, keys)
        x, positions = self.stem(mel, frames)
        for block in self.stem_layers:
            x = block(x, positions)
        x, trace = self.encoder(x, positions, self.decision_bias, repeat)
        logits = self.head(x, valid_mask(positions, x.shape[1]))
        thresholds = {gate.layer: gate.threshold.detach() for gate in self.encoder.gates}
        macs = self.frontend.macs(lengths)
        return ModelOutput(logits, self._whole(trace, frames), thresholds, macs, positions)

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

    def cost(self, samples: int) -> Cost:
        """Count the multiply-accumulates of a clip of so many samples, by how its decisions fall."""
        frames = self.frontend.frames(torch.tensor([samples]))
        return self.encoder.cost(int(self.stem.positions(frames))) + int(self._fixed_macs(frames))

    def _fixed_macs(self, frames: Tensor) -> Tensor:
        positions = self.stem.positions(frames)
        total = self.stem.macs(frames) + self.head.macs(positions)
        for block in self.stem_layers:
            assert isinstance(block, TransformerBlock)
            total = total + block.macs(positions)
        return total

    def _whole(self, trace: SkipTrace, frames: Tensor) -> SkipTrace:
        """Add stem and head to the encoder's trace, so that fractions are those of the whole model."""
        fixed = self._fixed_macs(frames)
        dense_macs = trace.dense_macs + fixed
        expected = (trace.expected_compute * trace.dense_macs + fixed) / dense_macs
        return replace(trace, macs=trace.macs + fixed, dense_macs=dense_macs, expected_compute=expected)
