"""The head: scores of a clip from its valid positions alone."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hopscotch.models.head import Head, Pooling

DIM = 8


@pytest.mark.parametrize("pooling", ["statistics", "peaks"])
def test_padding_changes_nothing(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    x, mask = torch.randn(2, 6, DIM), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = head(x, mask)
    torch.testing.assert_close(head(x[1:, :4], mask[1:, :4])[0], together[1])


@pytest.mark.parametrize("pooling", ["statistics", "peaks"])
def test_macs_are_those_that_ran(pooling: Pooling) -> None:
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    with FlopCounterMode(display=False) as counter:
        head(torch.randn(2, 6, DIM), torch.ones(2, 6, dtype=torch.bool))
    assert int(head.macs(torch.tensor([6, 6])).sum()) == counter.get_total_flops() // 2


def test_one_position_is_enough_for_a_peak_and_the_length_of_the_rest_is_not_counted() -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling="peaks", dropout=0.0).eval()
    x = torch.randn(1, 1, DIM)
    torch.testing.assert_close(
        head(x.expand(1, 9, DIM), torch.ones(1, 9, dtype=torch.bool)), head.linear(head.norm(x))[:, 0]
    )
    quiet, loud = head.linear.weight.new_zeros(1, 50, DIM), head.linear.weight[1].detach() * 100
    with torch.no_grad():
        head.linear.weight.mul_(20)
    quiet[0, 17] = loud
    assert head(quiet, torch.ones(1, 50, dtype=torch.bool)).argmax() == 1
