"""Summaries of a clip do not depend on the padding beside it."""

import torch

from hopscotch.layers.pooling import VARIANCE_FLOOR, masked_mean, masked_mean_and_std


def test_mean_and_deviation_are_those_of_the_valid_positions() -> None:
    x, mask = torch.randn(2, 6, 3), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    both = masked_mean_and_std(x, mask)
    for clip, length in enumerate((6, 4)):
        valid = x[clip, :length]
        deviation = (valid.var(dim=0, correction=0) + VARIANCE_FLOOR).sqrt()
        torch.testing.assert_close(both[clip], torch.cat([valid.mean(dim=0), deviation]))
    assert torch.equal(masked_mean(x, mask), both[:, :3])


def test_gradient_of_a_constant_clip_is_finite() -> None:
    x = torch.ones(1, 4, 3, requires_grad=True)
    masked_mean_and_std(x, torch.ones(1, 4, dtype=torch.bool)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full((1, 4, 3), 0.25))
