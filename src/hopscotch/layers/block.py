"""Compute a pre-norm transformer block whose attention may skip keys.

    x <- x + around(x)             a convolution channel by channel, where `convolution_width` is above 0
    x <- x + attention(norm(x))
    x <- x + ffn(norm(x))          dim -> ffn_ratio * dim -> dim

`ffn_ratio` decides what a stride can save: at 4 the keys and values are a sixth of the block's weights, at 1 a third.
Attention has to learn which positions are near; a convolution knows. It is, for each channel by itself,

    y_t = b + sum_k w_k x_(t + k),  k = -(width - 1) / 2 ... (width - 1) / 2

with x = 0 at padding, so that a clip gives the same alone and in any batch. Sources: Vaswani et al. 2017; pre-norm
after Xiong et al. 2020; a convolution in front of each block as in UniFormer (Li et al. 2022, there over images).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Count, attention_macs, convolution_macs, feed_forward_macs
from hopscotch.layers.attention import SkipAttention
from hopscotch.layers.checks import check_heads
from hopscotch.types import Hidden, Lengths, valid_mask


@dataclass(frozen=True)
class BlockSpec:
    """Hold the options of a transformer block: a new option is a field here and a line of `TransformerBlock`.

    Args:
        dim: Width of the hidden states; a multiple of `num_heads`.
        num_heads: Attention heads.
        ffn_ratio: Width of the feed-forward layer / `dim`. The smaller, the larger the share that strides save.
        dropout: Probability of a zero in the output of every residual branch.
        convolution_width: Positions, an odd number, that a convolution before the attention spans; 0 for none.
        residual_init_scale: Factor on the output projections of a new block; below 1 its residual branches start small
            (LayerScale, Touvron et al. 2021; ReZero at 0, Bachlechner et al. 2020).
    """

    dim: int
    num_heads: int
    ffn_ratio: float = 3.0
    dropout: float = 0.1
    convolution_width: int = 7
    residual_init_scale: float = 1.0

    def __post_init__(self) -> None:
        check_heads(self.dim, self.num_heads)

    def macs(self, time: Count, stride: int | Tensor = 1) -> Count:
        """Count the MACs of a block over `time` positions whose attention reads every s-th key."""
        convolution = convolution_macs(time, self.dim, 1, self.convolution_width)
        feed_forward = feed_forward_macs(time, self.dim, self.ffn_ratio)
        return convolution + attention_macs(time, self.dim, stride) + feed_forward


class FeedForward(nn.Sequential):
    """Apply two linear layers with a GELU between them: dim -> ffn_ratio * dim -> dim."""

    def __init__(self, dim: int, ffn_ratio: float) -> None:
        hidden = int(dim * ffn_ratio)
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class TransformerBlock(nn.Module):
    """Compute a transformer block; `stride` is that of its attention where `forward` is given no other."""

    def __init__(self, spec: BlockSpec, *, stride: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.around = DepthwiseConvolution(spec.dim, spec.convolution_width) if spec.convolution_width else None
        self.attention_norm = nn.LayerNorm(spec.dim)
        self.attention = SkipAttention(spec.dim, spec.num_heads, stride=stride)
        self.ffn_norm = nn.LayerNorm(spec.dim)
        self.ffn = FeedForward(spec.dim, spec.ffn_ratio)
        self.dropout = nn.Dropout(spec.dropout)
        for last in (self.around, self.attention.output, self.ffn[-1]):
            shrink(last, spec.residual_init_scale)

    def forward(
        self, x: Hidden, lengths: Lengths | None = None, *, strides: int | Sequence[int] | None = None
    ) -> Hidden:
        x = self.look_around(x, lengths)
        x = x + self.dropout(self.attention(self.attention_norm(x), lengths, strides=strides))
        return self.feed_forward(x)

    def macs(self, time: Count) -> Count:
        """Count the MACs over `time` positions, every key read."""
        return self.spec.macs(time)

    def look_around(self, x: Hidden, lengths: Lengths | None) -> Hidden:
        """Add the convolution's branch; padding counts as zeros."""
        if self.around is None:
            return x
        valid = x if lengths is None else x * valid_mask(lengths, x.shape[1])[:, :, None]
        return x + self.dropout(self.around(valid))

    def feed_forward(self, x: Hidden) -> Hidden:
        """Add the feed-forward branch."""
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class DepthwiseConvolution(nn.Module):
    """Convolve each channel by itself over `width` positions, an odd number."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.convolution = nn.Conv2d(dim, dim, (1, width), groups=dim)  # holds the weights; `over_time` runs

    def forward(self, x: Hidden) -> Hidden:
        return over_time(x, self.convolution.weight, self.convolution.bias, groups=self.dim)

    def macs(self, positions: Count) -> Count:
        return convolution_macs(positions, self.dim, 1, self.width)


def over_time(
    x: Float[Tensor, "batch time input"],
    weight: Float[Tensor, "output input_per_group 1 width"],
    bias: Float[Tensor, " output"] | None,
    *,
    stride: int = 1,
    groups: int = 1,
) -> Float[Tensor, "batch position output"]:
    """Convolve over time, padded by half the odd width.

    x is taken as an image of height 1, channels last, which is its layout in memory: a CPU takes 0.7 of the time of a
    Conv1d, channel by channel a quarter to a half, and what follows needs no copy.
    """
    image = x.transpose(1, 2)[:, :, None].contiguous(memory_format=torch.channels_last)  # batch input 1 time
    y = F.conv2d(image, weight, bias, stride=(1, stride), padding=(0, weight.shape[-1] // 2), groups=groups)
    return y[:, :, 0].transpose(1, 2)


@torch.no_grad()
def shrink(module: nn.Module | None, factor: float) -> None:
    """Multiply the parameters of a new module by `factor`."""
    for parameter in () if module is None else module.parameters():
        parameter.mul_(factor)
