"""Draw random numbers as functions of keys, without generator or state.

The finaliser of splitmix64 (Steele, Lea, Flood 2014) hashes (key, stream, counter) on the device of the keys. Every use
has a stream of its own, so that no two decisions share a number.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

STEP = -0x61C8864680B583EB  # 2^64 / golden ratio, as the signed number that int64 holds; products wrap


def keyed_bits(keys: Int[Tensor, " batch"], stream: int, counters: Int[Tensor, " count"]) -> Int[Tensor, "batch count"]:
    """Draw 64 random bits per key and counter."""
    return _mix(_mix(keys.long() + (stream + 1))[:, None] + counters * STEP)


def keyed_uniform(keys: Int[Tensor, " batch"], stream: int, count: int) -> Float[Tensor, "batch count"]:
    """Draw numbers in [0, 1), with 24 bits each."""
    return as_uniform(keyed_bits(keys, stream, torch.arange(count, device=keys.device)))


def as_uniform(bits: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Make numbers in [0, 1) of the upper 24 bits of 64."""
    return (bits >> 40 & 0xFFFFFF).float() * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9; the masks make shifts logical
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ (x >> 31 & 0x1FFFFFFFF)
