"""SkipAttention against multi-head attention, and against its own slow version."""

import pytest
import torch
from torch import Tensor, nn

from hopscotch.layers import attention
from hopscotch.layers.attention import SkipAttention
from hopscotch.types import valid_mask

DIM, HEADS, TIME = 16, 4, 13
LENGTHS = torch.tensor([13, 7, 1, 12])


def slow_attention(layer: SkipAttention, x: Tensor, length: int, stride: int) -> Tensor:
    """One clip (time, dim): a full table of scores, and minus infinity where a key is not read."""
    heads = layer.num_heads
    key, value = layer.key_value(x).chunk(2, dim=-1)
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (layer.query(x), key, value))
    scores = query @ key.transpose(-1, -2) / (layer.dim // heads) ** 0.5  # heads time keys
    for j in range(len(x)):
        if j % stride or j >= length:
            scores[:, :, j] = -torch.inf
    return layer.output((scores.softmax(dim=-1) @ value).transpose(0, 1).flatten(1))


def make(stride: int = 1) -> tuple[SkipAttention, Tensor]:
    torch.manual_seed(0)
    return SkipAttention(DIM, HEADS, stride=stride), torch.randn(4, TIME, DIM)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["equal", "padded"])
def test_stride_1_equals_multihead_attention_in_value_and_gradient(lengths: Tensor | None) -> None:
    layer, x = make()
    reference = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
        reference.out_proj.load_state_dict(layer.output.state_dict())
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    padding = None if lengths is None else ~valid_mask(lengths, TIME)
    y = layer(ours, lengths)
    expected, _ = reference(theirs, theirs, theirs, key_padding_mask=padding, need_weights=False)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 3, 5, 40])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["equal", "padded"])
def test_strided_equals_the_slow_version(stride: int, lengths: Tensor | None) -> None:
    layer, x = make(stride)
    y = layer(x, lengths)
    for clip in range(4):
        expected = slow_attention(layer, x[clip], TIME if lengths is None else int(lengths[clip]), stride)
        torch.testing.assert_close(y[clip], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strides", [[3, 1, 2, 1], [2, 2, 2, 2], [4, 3, 2, 1], [1, 1, 1, 13]])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["equal", "padded"])
@pytest.mark.parametrize("short", [0, TIME], ids=["a call for every stride", "one call"])
def test_a_stride_per_clip_packed_equals_clip_by_clip_in_value_and_gradient(
    strides: list[int], lengths: Tensor | None, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    layer, x = make()
    weights = torch.randn_like(x)
    y = layer(x, lengths, strides=strides)
    slow = torch.stack(
        [
            slow_attention(layer, x[clip], TIME if lengths is None else int(lengths[clip]), strides[clip])
            for clip in range(4)
        ]
    )
    torch.testing.assert_close(y, slow, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad((out * weights).sum(), list(layer.parameters())) for out in (y, slow)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_stride_beyond_the_clip_reads_position_0_alone() -> None:
    layer, x = make(stride=TIME)
    changed = x.clone()
    changed[:, 1:] += 1
    value = layer.key_value(x[:, :1]).chunk(2, dim=-1)[1]
    torch.testing.assert_close(layer(x), layer.output(value).expand(-1, TIME, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(layer(x), layer(changed), rtol=0, atol=1e-5)


def test_what_stands_in_the_padding_changes_nothing_bit_for_bit() -> None:
    layer, x = make(stride=2)
    noisy = torch.where(valid_mask(LENGTHS, TIME)[:, :, None], x, 100.0)
    valid = valid_mask(LENGTHS, TIME)
    assert torch.equal(layer(noisy, LENGTHS)[valid], layer(x, LENGTHS)[valid])


@pytest.mark.parametrize("stride", [0, -1, True])
def test_a_stride_below_1_is_rejected(stride: int) -> None:
    with pytest.raises(ValueError, match=r"stride must be a whole number of at least 1 .*got "):
        SkipAttention(DIM, HEADS, stride=stride)


@pytest.mark.parametrize("heads", [0, 3])
def test_a_width_that_the_heads_do_not_divide_is_rejected(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"^dim must be a multiple of num_heads, got dim=16, num_heads={heads}\."):
        SkipAttention(DIM, heads)
