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


def test_training_drops_late_layers_for_a_share_of_the_clips_and_evaluation_none() -> None:
    torch.manual_seed(0)
    stack = Stack(BlockSpec(8, 2, dropout=0.0), 3, drop=0.5)
    x, lengths = torch.randn(400, 5, 8), torch.full((400,), 5)
    for number, share in ((0, 0.0), (1, 0.25), (2, 0.5)):
        block, y = stack.blocks[number](x, lengths), stack.train().layer(number, x, lengths)
        dropped = (y == x).all(dim=2).all(dim=1)
        assert dropped.float().mean().item() == pytest.approx(share, abs=0.08)
        kept = x + (block - x) / (1 - share)  # so that the mean is that of evaluation
        torch.testing.assert_close(y[~dropped], kept[~dropped], rtol=0, atol=1e-5)
        assert torch.equal(stack.eval().layer(number, x, lengths), block)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop": 1.0}, r"^drop must be a share, at least 0 and below 1, got 1\.0\."),
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
