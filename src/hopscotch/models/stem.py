"""From mel frames to positions: two masked convolutions, 2 or 4 frames per position, and where a position lies.

sinusoidal      + sin and cos of the position at geometrically spaced wavelengths (Vaswani et al. 2017)
convolutional   + GELU(a convolution over `POSITION_WIDTH` positions, channel by channel): what lies around, and how
                far away, wherever in the clip (Baevski et al. 2020, there in 16 groups of channels)
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import convolution_macs
from hopscotch.layers.convolution import DepthwiseConvolution, over_time
from hopscotch.types import valid_mask

Positions = Literal["sinusoidal", "convolutional", "none"]

KERNEL = 5  # frames
STEM_STRIDES = {2: (1, 2), 4: (2, 2)}  # of the two convolutions
LONGEST_WAVELENGTH = 10_000.0  # of the sinusoidal positions, in positions (Vaswani et al. 2017)
POSITION_WIDTH = 31  # positions that the convolution of positions spans: 0.6 s or 1.2 s at 10 ms a frame


class ConvStem(nn.Module):
    """Two convolutions over time that never see padding, each with norm and GELU; then positions."""

    def __init__(
        self, num_mels: int, dim: int, *, stride: int, dropout: float, positions: Positions = "sinusoidal"
    ) -> None:
        super().__init__()
        if stride not in STEM_STRIDES:
            raise ValueError(f"model.stem_stride must be 2 or 4 frames per position, got {stride}.")
        self.strides = STEM_STRIDES[stride]
        widths = (num_mels, dim, dim)
        # Weights alone: `over_time` has stride and padding.
        self.convolutions = nn.ModuleList(nn.Conv1d(widths[i], widths[i + 1], KERNEL) for i in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.sinusoidal = positions == "sinusoidal"
        self.around = ConvPositions(dim) if positions == "convolutional" else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, mel: Float[Tensor, "batch time mel"], frames: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch position dim"], Int[Tensor, " batch"]]:
        x = mel
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv1d)
            frames = (frames + stride - 1) // stride
            x = over_time(x, convolution.weight[:, :, None], convolution.bias, stride=stride)
            x = nn.functional.gelu(norm(x))
            x = x * valid_mask(frames, x.shape[1])[:, :, None]
        if self.around is not None:
            x = x + self.around(x)
        elif self.sinusoidal:
            x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        return self.dropout(x), frames

    def positions(self, frames: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        for stride in self.strides:
            frames = (frames + stride - 1) // stride
        return frames

    def macs(self, frames: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        total = torch.zeros_like(frames)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv1d)
            frames = (frames + stride - 1) // stride
            total = total + convolution_macs(frames, convolution.in_channels, convolution.out_channels, KERNEL)
        return total if self.around is None else total + self.around.macs(frames)


class ConvPositions(DepthwiseConvolution):
    """What lies around each position. The stem's padding is 0, so a clip has the same positions in any batch."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, POSITION_WIDTH)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        return nn.functional.gelu(super().forward(x))


def sinusoids(time: int, dim: int, device: torch.device) -> Float[Tensor, "time dim"]:
    """Sine and cosine of the position at geometrically spaced wavelengths."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(LONGEST_WAVELENGTH) / dim))
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
