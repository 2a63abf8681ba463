"""The head: scores of a clip from its valid positions alone."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hopscotch.models.audio_model import Head, Pooling

DIM = 8


@pytest.mark.parametrize("pooling", ["statistics", "maxima"])
def test_padding_changes_nothing(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    x, mask = torch.randn(2, 6, DIM), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = head(x, mask)
    torch.testing.assert_close(head(x[1:, :4], mask[1:, :4])[0], together[1])


@pytest.mark.parametrize("pooling", ["statistics", "maxima"])
def test_macs_are_those_that_ran(pooling: Pooling) -> None:
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    with FlopCounterMode(display=False) as counter:
        head(torch.randn(2, 6, DIM), torch.ones(2, 6, dtype=torch.bool))
    assert int(head.macs(torch.tensor([6, 6])).sum()) == counter.get_total_flops() // 2


def test_maxima_are_those_of_single_positions() -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling="maxima", dropout=0.0).eval()
    x = torch.randn(1, 50, DIM)
    normed = head.norm(x)[0]
    pooled = torch.cat([normed.mean(dim=0), normed.max(dim=0).values])
    torch.testing.assert_close(head(x, torch.ones(1, 50, dtype=torch.bool))[0], head.linear(pooled))
