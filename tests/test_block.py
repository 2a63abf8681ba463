"""A pre-norm block with its attention's stride, and its convolution channel by channel."""

import pytest
import torch
from torch import nn

from hopscotch.layers.block import BlockSpec, DepthwiseConvolution, TransformerBlock
from hopscotch.types import valid_mask


def test_at_stride_1_the_block_is_torchs_own_pre_norm_layer() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(BlockSpec(16, 2, dropout=0.0, convolution_width=0))
    reference = nn.TransformerEncoderLayer(16, 2, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        query, key_value = block.attention.query, block.attention.key_value
        reference.self_attn.in_proj_weight.copy_(torch.cat([query.weight, key_value.weight]))
        reference.self_attn.in_proj_bias.copy_(torch.cat([query.bias, key_value.bias]))
    reference.self_attn.out_proj.load_state_dict(block.attention.output.state_dict())
    linear_1, linear_2 = (part for part in block.ffn if isinstance(part, nn.Linear))
    reference.linear1.load_state_dict(linear_1.state_dict())
    reference.linear2.load_state_dict(linear_2.state_dict())
    x, lengths = torch.randn(3, 9, 16), torch.tensor([9, 4, 1])
    mask = valid_mask(lengths, 9)
    expected = reference(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(block(x, lengths)[mask], expected[mask], rtol=0, atol=1e-5)


def test_the_convolution_comes_first_and_never_hears_padding() -> None:
    torch.manual_seed(0)
    block, plain = TransformerBlock(BlockSpec(16, 2, 3, 0.0, 5)), TransformerBlock(BlockSpec(16, 2, 3, 0.0, 0))
    plain.load_state_dict({key: value for key, value in block.state_dict().items() if not key.startswith("around")})
    x, lengths = torch.randn(2, 9, 16), torch.tensor([9, 4])
    heard = x * valid_mask(lengths, 9)[:, :, None]
    assert block.around is not None
    expected = plain(x + block.around(heard), lengths)
    torch.testing.assert_close(block(x, lengths)[0], expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(block(x, lengths)[1, :4], block(x[1:, :4])[0], rtol=0, atol=1e-5)
    silent = TransformerBlock(BlockSpec(16, 2, dropout=0.0, residual_init_scale=0.0))
    assert torch.equal(silent(x, lengths), x)


def test_strides_of_the_call_go_before_the_blocks_own() -> None:
    torch.manual_seed(0)
    block, x = TransformerBlock(BlockSpec(16, 2, dropout=0.0, convolution_width=0), stride=3), torch.randn(2, 9, 16)
    three = block(x)
    assert torch.equal(block(x, strides=3), three)
    assert not torch.allclose(block(x, strides=1), three)
    torch.testing.assert_close(block(x, strides=[3, 1])[0], three[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(block(x, strides=[3, 1])[1], block(x, strides=1)[1], rtol=0, atol=1e-5)


# Its convolution.


@pytest.mark.parametrize("width", [1, 3, 7])
def test_a_convolution_is_a_weighted_sum_of_neighbours_channel_by_channel(width: int) -> None:
    torch.manual_seed(0)
    layer, x = DepthwiseConvolution(6, width), torch.randn(2, 9, 6)
    weight, half = layer.convolution.weight[:, 0, 0], width // 2  # dim width
    expected = layer.convolution.bias.expand_as(x).clone()  # pyright: ignore[reportOptionalMemberAccess]
    for t in range(9):
        for k in range(-half, half + 1):
            if 0 <= t + k < 9:
                expected[:, t] += weight[:, k + half] * x[:, t + k]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_a_convolution_equals_torchs_convolution_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    ours, theirs = DepthwiseConvolution(6, 5), nn.Conv1d(6, 6, 5, padding=2, groups=6)
    with torch.no_grad():
        theirs.weight.copy_(ours.convolution.weight[:, :, 0])
        theirs.bias.copy_(ours.convolution.bias)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    x = torch.randn(3, 11, 6, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    y, expected = ours(x), theirs(same.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    (y**2).sum().backward()
    (expected**2).sum().backward()
    torch.testing.assert_close(x.grad, same.grad, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.convolution.weight.grad[:, :, 0], theirs.weight.grad, rtol=0, atol=1e-5)  # pyright: ignore[reportOptionalSubscript]
