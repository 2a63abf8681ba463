"""What lies around a position, wherever in the clip: a convolution over time, channel by channel.

    y_t = b + sum_k w_k x_(t + k),  k = -(width - 1) / 2 ... (width - 1) / 2,  for each channel by itself

x has to be 0 at padding, so that a clip sees the same alone and in any batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Count, convolution_macs


class DepthwiseConvolution(nn.Module):
    """`width` positions, an odd number, around each one."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.convolution = nn.Conv2d(dim, dim, (1, width), padding=(0, width // 2), groups=dim)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        # As a picture of height 1, channels last, which is how x lies in memory: forward, a CPU takes a quarter to a
        # half of the time of a Conv1d or of channels first.
        picture = x.transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)  # batch dim 1 time
        return self.convolution(picture)[:, :, 0].transpose(1, 2)

    def macs(self, positions: Count) -> Count:
        return convolution_macs(positions, self.dim, 1, self.width)
