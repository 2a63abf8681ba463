"""A convolution channel by channel: equal to the sum it stands for, the same wherever the sound lies."""

import pytest
import torch
from torch import nn

from hopscotch.layers.block import DepthwiseConvolution

DIM = 6


@pytest.mark.parametrize("width", [1, 3, 7])
def test_it_is_a_weighted_sum_of_neighbours_channel_by_channel(width: int) -> None:
    torch.manual_seed(0)
    layer, x = DepthwiseConvolution(DIM, width), torch.randn(2, 9, DIM)
    weight, half = layer.convolution.weight[:, 0, 0], width // 2  # dim width
    expected = layer.convolution.bias.expand_as(x).clone()  # pyright: ignore[reportOptionalMemberAccess]
    for t in range(9):
        for k in range(-half, half + 1):
            if 0 <= t + k < 9:
                expected[:, t] += weight[:, k + half] * x[:, t + k]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_it_equals_torchs_convolution_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    ours, theirs = DepthwiseConvolution(DIM, 5), nn.Conv1d(DIM, DIM, 5, padding=2, groups=DIM)
    with torch.no_grad():
        theirs.weight.copy_(ours.convolution.weight[:, :, 0])
        theirs.bias.copy_(ours.convolution.bias)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    x = torch.randn(3, 11, DIM, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    y, expected = ours(x), theirs(same.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    (y**2).sum().backward()
    (expected**2).sum().backward()
    torch.testing.assert_close(x.grad, same.grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.convolution.weight.grad[:, :, 0], theirs.weight.grad, rtol=0, atol=1e-5)  # pyright: ignore[reportOptionalSubscript]
