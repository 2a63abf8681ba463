"""Strides fixed beforehand."""

from typing import Any

import pytest
import torch

from hopscotch.layers.block import BlockSpec
from hopscotch.models.stack import Stack


def test_the_strides_count_down_from_the_first_to_1_or_are_listed() -> None:
    assert Stack(BlockSpec(8, 2), 5, first=4).strides == [4, 3, 2, 1, 1]
    assert Stack(BlockSpec(8, 2), 3).strides == [1, 1, 1]
    assert Stack(BlockSpec(8, 2), 3, strides=[1, 5, 2], first=4).strides == [1, 5, 2]


def test_the_stack_is_its_blocks_one_after_the_other() -> None:
    torch.manual_seed(0)
    stack, x, lengths = Stack(BlockSpec(8, 2, dropout=0.0), 3, first=3), torch.randn(2, 7, 8), torch.tensor([7, 3])
    y, trace = stack(x, lengths)
    for block, stride in zip(stack.blocks, (3, 2, 1), strict=True):
        x = block(x, lengths, strides=stride)
    assert torch.equal(y, x)
    assert trace.strides.tolist() == [[3, 2, 1], [3, 2, 1]]
    assert (trace.fraction < 1).all()
    torch.testing.assert_close(trace.expected_compute, trace.fraction.float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": 0}, r"^first must be a whole number of at least 1 .*got 0\."),
        (
            {"strides": [2, 0, 1]},
            r"^every stride of strides must be a whole number of at least 1 .*got 0\.",
        ),
        ({"strides": [2, 1]}, r"must name one stride per layer, got \[2, 1\] for depth=3\."),
        ({"num_heads": 3}, r"^dim must be a multiple of num_heads, got dim=8, num_heads=3\."),
    ],
)
def test_a_pattern_that_cannot_be_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stack(BlockSpec(8, changes.pop("num_heads", 2)), 3, **changes)
