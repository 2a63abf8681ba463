"""keyed.py: numbers that hang on nothing but key, stream and counter."""

import torch

from hopscotch.data.sampling import keyed_bits, keyed_uniform
from hopscotch.types import key_bits

MASK = 2**64 - 1


def mix(x: int) -> int:
    """Splitmix64's finaliser with whole numbers, as published."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_bits_equal_the_published_hash() -> None:
    keys = [0, 1, key_bits(3, 4, 5), 2**63 - 1]
    bits = keyed_bits(torch.tensor(keys), 7, torch.arange(3))
    for row, key in zip(bits.tolist(), keys, strict=True):
        assert [b & MASK for b in row] == [mix((mix(key + 8) + i * 0x9E3779B97F4A7C15) & MASK) for i in range(3)]


def test_uniform_numbers_fill_the_range_evenly_and_without_correlation() -> None:
    keys = torch.tensor([key_bits(0, 0, index) for index in range(4000)])
    numbers = keyed_uniform(keys, 0, 4)
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert (counts - 1600).abs().max() < 160  # four standard deviations
    both = torch.cat([numbers, keyed_uniform(keys, 1, 4)], dim=1)
    assert (torch.corrcoef(both.T) - torch.eye(8)).abs().max() < 0.08
