"""Make positions of mel frames by convolutions that never see padding: the stem of a model.

    ConvStem      two convolutions over time, 2 or 4 frames per position
    Conv2dStem    stages over time and mel, each of which halves both, as in PANNs (Kong et al. 2020): a stage is a
                  convolution of stride 2 and, but for the first stage, where it would cost most, a second one whose
                  output is added to its input (He et al. 2016). For sounds that are no speech.

Then positions:

    sinusoidal      + sin and cos of the position at geometrically spaced wavelengths (Vaswani et al. 2017)
    convolutional   + GELU(a convolution over `POSITION_WIDTH` positions, channel by channel): it depends on what
                    surrounds a position, wherever in the clip (Baevski et al. 2020, there in 16 groups of channels)
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import convolution_macs, linear_macs
from hopscotch.layers.block import DepthwiseConvolution, over_time
from hopscotch.types import Hidden, Lengths, valid_mask

Positions = Literal["sinusoidal", "convolutional", "none"]
Mel = Float[Tensor, "batch time mel"]
Image = Float[Tensor, "batch channel time mel"]
Positioned = Float[Tensor, "batch position dim"]

KERNEL = 5  # frames
STEM_STRIDES = {2: (1, 2), 4: (2, 2)}  # of the two convolutions over time
SQUARE = 3  # frames and bins that a convolution over time and mel spans
LONGEST_WAVELENGTH = 10_000.0  # of the sinusoidal positions, in positions (Vaswani et al. 2017)
POSITION_WIDTH = 31  # positions that the convolution of positions spans: 0.6 s or 1.2 s at 10 ms a frame


class Stem(nn.Module):
    """Serve as base: a stem takes a step for each of `strides`, which are those of its convolutions over time."""

    strides: Sequence[int]

    def forward(self, mel: Mel, frames: Lengths) -> tuple[Positioned, Lengths]:
        """Return hidden states, and how many of the positions are a clip's own."""
        x = self.begin(mel)
        for number in range(len(self.strides)):
            x, frames = self.step(number, x, frames)
        return self.end(x), frames

    def begin(self, mel: Mel) -> Tensor:
        """Lay out mel frames as the first step takes them."""
        return mel

    def step(self, number: int, x: Tensor, frames: Lengths) -> tuple[Tensor, Lengths]:
        """Take one step."""
        raise NotImplementedError

    def end(self, x: Tensor) -> Positioned:
        """Make hidden states of what the last step leaves."""
        return self._ended(x)

    def seen(self, x: Tensor) -> Hidden:
        """Show what a step leaves as one row of features per position."""
        return x

    def width(self, number: int) -> int:
        """Return the number of features that `seen` shows after a step."""
        raise NotImplementedError

    def macs_each(self) -> list[int]:
        """Count, for each stride, the multiply-accumulates of a frame that leaves it; the last has what follows."""
        raise NotImplementedError

    def macs(self, frames: Lengths) -> Lengths:
        """Count the multiply-accumulates of clips of so many frames."""
        return self.macs_by_step(frames).sum(dim=-1)

    def macs_by_step(self, frames: Lengths) -> Int[Tensor, "batch step"]:
        """Count the multiply-accumulates of each step; the last has what follows."""
        found = []
        for stride, macs in zip(self.strides, self.macs_each(), strict=True):
            frames = strided(frames, stride)
            found.append(frames * macs)
        return torch.stack(found, dim=-1)

    def positions(self, frames: Lengths) -> Lengths:
        """Count the positions of clips of so many frames."""
        return strided(frames, math.prod(self.strides))

    def _end_with(self, dim: int, positions: Positions, dropout: float) -> None:
        self.sinusoidal = positions == "sinusoidal"
        self.around = DepthwiseConvolution(dim, POSITION_WIDTH) if positions == "convolutional" else None
        self.dropout = nn.Dropout(dropout)

    def _ended(self, x: Positioned) -> Positioned:
        if self.around is not None:
            x = x + nn.functional.gelu(self.around(x))
        elif self.sinusoidal:
            x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        return self.dropout(x)

    def _end_macs(self) -> int:
        return 0 if self.around is None else self.around.macs(1)


class ConvStem(Stem):
    """Convolve over time, twice."""

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
        self._end_with(dim, positions, dropout)

    def step(self, number: int, x: Tensor, frames: Lengths) -> tuple[Tensor, Lengths]:
        convolution, stride = self.convolutions[number], self.strides[number]
        assert isinstance(convolution, nn.Conv1d)
        frames = strided(frames, stride)
        x = over_time(x, convolution.weight[:, :, None], convolution.bias, stride=stride)
        x = nn.functional.gelu(self.norms[number](x))
        return x * valid_mask(frames, x.shape[1])[:, :, None], frames

    def width(self, number: int) -> int:
        return self.widths[-1]

    def macs_each(self) -> list[int]:
        first, second = (convolution_macs(1, width, self.widths[-1], KERNEL) for width in self.widths)
        return [first, second + self._end_macs()]


class Conv2dStem(Stem):
    """Convolve over time and mel: for each of `channels` a stage, then a linear layer from what is left of the bins.

    Every stage halves the bins, the first ones also the frames, until `stride` frames are one position. Batch
    normalisation learns from whole batches in training, and is a fixed scale afterwards, so that a trained model says
    the same of a clip alone and in any batch.
    """

    def __init__(
        self,
        num_mels: int,
        dim: int,
        *,
        channels: Sequence[int],
        stride: int,
        dropout: float,
        positions: Positions = "sinusoidal",
    ) -> None:
        super().__init__()
        if stride not in {2**halved for halved in range(1, len(channels) + 1)}:
            most = 2 ** len(channels)
            raise ValueError(f"stem_stride must be 2, 4, ... {most} with {len(channels)} stem_channels, got {stride}.")
        if num_mels < 2 ** len(channels):
            raise ValueError(f"stem_channels must be at most {int(math.log2(num_mels))} for {num_mels} mel bins.")
        self.strides = [2 if 2 ** (stage + 1) <= stride else 1 for stage in range(len(channels))]
        self.widths = list(channels)
        self.bins = [num_mels]  # before the first stage, and after each
        for _ in channels:
            self.bins.append((self.bins[-1] + 1) // 2)
        self.stages = nn.ModuleList(
            Stage(before, after, stride, refines=before > 1)
            for before, after, stride in zip([1, *channels[:-1]], channels, self.strides, strict=True)
        )
        self.linear = nn.Linear(channels[-1] * self.bins[-1], dim)
        self._end_with(dim, positions, dropout)

    def begin(self, mel: Mel) -> Image:
        return mel[:, None].contiguous(memory_format=torch.channels_last)  # batch channel time mel

    def step(self, number: int, x: Tensor, frames: Lengths) -> tuple[Tensor, Lengths]:
        return self.stages[number](x, frames)

    def end(self, x: Tensor) -> Positioned:
        return self._ended(self.linear(self.seen(x)))

    def seen(self, x: Tensor) -> Hidden:
        return x.permute(0, 2, 3, 1).flatten(2)  # batch time features

    def width(self, number: int) -> int:
        return self.widths[number] * self.bins[number + 1]

    def macs_each(self) -> list[int]:
        stages = [stage for stage in self.stages if isinstance(stage, Stage)]
        macs = [bins * stage.macs_per_bin for stage, bins in zip(stages, self.bins[1:], strict=True)]
        macs[-1] += linear_macs(1, self.linear.in_features, self.linear.out_features) + self._end_macs()
        return macs


class Stage(nn.Module):
    """Halve the mel bins, and with `stride` 2 the frames; then refine what is there, if `refines` is set."""

    def __init__(self, before: int, after: int, stride: int, *, refines: bool) -> None:
        super().__init__()
        self.stride, self.refines = stride, refines
        self.macs_per_bin = SQUARE**2 * after * (before + after * refines)  # and frame that leave the stage
        self.down = nn.Conv2d(before, after, SQUARE, stride=(stride, 2), padding=SQUARE // 2, bias=False)
        self.down_norm = nn.BatchNorm2d(after)
        if refines:
            self.refine = nn.Conv2d(after, after, SQUARE, padding=SQUARE // 2, bias=False)
            self.refine_norm = nn.BatchNorm2d(after)

    def forward(self, x: Image, frames: Lengths) -> tuple[Float[Tensor, "batch wider half fewer"], Lengths]:
        frames = strided(frames, self.stride)
        x = nn.functional.gelu(self.down_norm(self.down(x)))
        mask = valid_mask(frames, x.shape[2])[:, None, :, None]
        x = x * mask
        if self.refines:
            x = (x + nn.functional.gelu(self.refine_norm(self.refine(x)))) * mask
        return x, frames


def sinusoids(time: int, dim: int, device: torch.device) -> Float[Tensor, "time dim"]:
    """Return sine and cosine of the position at geometrically spaced wavelengths."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(LONGEST_WAVELENGTH) / dim))
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]


def strided(frames: Lengths, stride: int) -> Lengths:
    """Count what a stride leaves of so many frames."""
    return (frames + stride - 1) // stride
