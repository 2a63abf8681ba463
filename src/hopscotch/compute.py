"""Count multiply-accumulates (MACs) from shapes and decisions, so that "skipped" has a price.

One MAC is one multiplication with its addition inside a matrix product or a convolution; norms, activations and
element-wise arithmetic are not counted (torch.utils.flop_counter does the same, at 2 FLOPs per MAC). Every function
takes Python integers or integer tensors of any shape and returns exact integers of that shape.

    linear      positions * in * out
    attention   queries and output: 2 T d^2;  keys and values: 2 K d^2;  scores and read-out: 2 T K d
                with T positions and K = ceil(T / stride) keys
    convolution T * in * out * width;  channel by channel: T * d * width
"""

from dataclasses import astuple, dataclass
from typing import TypeVar

from torch import Tensor

Count = TypeVar("Count", int, Tensor)


def kept_keys(time: Count, stride: int | Tensor) -> Count:
    """Count the positions 0, s, 2s, ... below `time`."""
    return (time + stride - 1) // stride  # pyright: ignore[reportReturnType]


def linear_macs(positions: Count, in_features: int, out_features: int) -> Count:
    return positions * (in_features * out_features)


def convolution_macs(positions: Count, in_channels: int, out_channels: int, kernel: int) -> Count:
    """Count the MACs of a convolution with so many output positions."""
    return positions * (in_channels * out_channels * kernel)


def attention_macs(time: Count, dim: int, stride: int | Tensor = 1) -> Count:
    keys = kept_keys(time, stride)
    return 2 * time * dim * dim + 2 * keys * dim * dim + 2 * time * keys * dim


def feed_forward_macs(time: Count, dim: int, ffn_ratio: float) -> Count:
    return 2 * linear_macs(time, dim, int(dim * ffn_ratio))


@dataclass(frozen=True)
class Cost:
    """Hold the MACs of one clip, by how its decisions fall."""

    cheapest: int  # every decision at its cheapest
    trained: int  # the most expensive decisions that training ends with
    dearest: int  # the most expensive decisions that evaluation can take
    dense: int  # nothing skipped: fractions are shares of it

    def __post_init__(self) -> None:
        assert self.cheapest <= min(self.trained, self.dearest), self
        assert max(self.trained, self.dearest) <= self.dense, self

    @property
    def floor(self) -> float:
        """Return the smallest fraction of the dense run that decisions can bring a clip to."""
        return self.cheapest / self.dense

    @property
    def ceiling(self) -> float:
        """Return the largest fraction; fixed strides keep it below 1."""
        return self.dearest / self.dense

    def __add__(self, other: "Cost | int") -> "Cost":
        more = astuple(other) if isinstance(other, Cost) else (other,) * 4
        return Cost(*(own + added for own, added in zip(astuple(self), more, strict=True)))
