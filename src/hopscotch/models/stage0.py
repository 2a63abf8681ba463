"""Hear everything at next to no cost: three convolutions, channel by channel and then across channels.

    thin mel (batch, time, mel), every second frame -> scores (batch, step), one for every second of those

    x <- GELU(norm(linear(convolution_k(x)))),  the first of stride 2, the others added to their input

A score depends on `reach` frames on both sides, whatever the length of the recording, so that a stream hears the same.
Depthwise separable convolutions: Howard et al. 2017, for keywords Zhang et al. 2017.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import convolution_macs, linear_macs
from hopscotch.layers.block import DepthwiseConvolution, over_time
from hopscotch.types import Hidden, Lengths, valid_mask

NUM_LAYERS = 3
THINNED = 2  # frames of the front end for one that is heard
STEP = 2 * THINNED  # frames of the front end from score to score


class Separable(nn.Module):
    """Convolve over time channel by channel, then across channels."""

    def __init__(self, before: int, after: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.around = DepthwiseConvolution(before, width)
        self.linear = nn.Linear(before, after)
        self.norm = nn.LayerNorm(after)

    def forward(self, x: Hidden) -> Float[Tensor, "batch position channel"]:
        weights = self.around.convolution
        y = over_time(x, weights.weight, weights.bias, stride=self.stride, groups=self.around.dim)
        y = nn.functional.gelu(self.norm(self.linear(y)))
        return y if self.stride > 1 else x + y

    def macs(self, positions: Lengths) -> Lengths:
        """Count the multiply-accumulates of so many positions that leave the layer."""
        inner = convolution_macs(positions, self.around.dim, 1, self.around.width)
        return inner + linear_macs(positions, self.linear.in_features, self.linear.out_features)


class Stage0(nn.Module):
    """Score every step of a recording by how surely the full model is needed there."""

    def __init__(self, num_mels: int, *, channels: int, width: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"stage.channels must be at least 1, got {channels}.")
        if width < 1 or width % 2 == 0:
            raise ValueError(f"stage.width must be an odd number of steps, got {width}.")
        sizes = [num_mels] + NUM_LAYERS * [channels]
        self.layers = nn.ModuleList(
            Separable(before, after, width, stride=2 if layer == 0 else 1)
            for layer, (before, after) in enumerate(pairwise(sizes))
        )
        self.output = nn.Linear(channels, 1)
        self.reach = width // 2 * (THINNED + (NUM_LAYERS - 1) * STEP)  # frames

    def forward(
        self, mel: Float[Tensor, "batch time mel"], frames: Lengths
    ) -> tuple[Float[Tensor, "batch step"], Lengths]:
        """Score the steps of recordings of so many thin frames, 0 in the padding; also count them."""
        x, steps = mel, self.steps(frames)
        for layer in self.layers:
            x = layer(x)
            x = x * valid_mask(steps, x.shape[1])[:, :, None]
        return self.output(x)[..., 0], steps

    @staticmethod
    def steps(frames: Lengths) -> Lengths:
        """Count the scores of recordings of so many thin frames."""
        return (frames + 1) // 2

    def macs(self, frames: Lengths) -> Lengths:
        """Count the multiply-accumulates of recordings of so many thin frames."""
        steps = self.steps(frames)
        total = linear_macs(steps, self.output.in_features, 1)
        for layer in self.layers:
            assert isinstance(layer, Separable)
            total = total + layer.macs(steps)
        return total


class Awake(nn.Module):
    """Need the full model at every step, and cost nothing: what a model has that is never asleep."""

    reach = 0

    def forward(
        self, mel: Float[Tensor, "batch time mel"], frames: Lengths
    ) -> tuple[Float[Tensor, "batch step"], Lengths]:
        """Score the steps of recordings of so many thin frames by infinity."""
        steps = Stage0.steps(frames)
        return mel.new_full((len(mel), int(steps.max())), torch.inf), steps

    def macs(self, frames: Lengths) -> Lengths:
        return torch.zeros_like(frames)
