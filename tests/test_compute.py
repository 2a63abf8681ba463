"""What compute.py and the traces claim, against an independent count of the code that ran."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from hopscotch.compute import attention_macs, convolution_macs, kept_keys, linear_macs
from hopscotch.layers import attention
from hopscotch.layers.attention import SkipAttention
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.jump import SkipLayer
from hopscotch.models.audio_model import AudioModel
from tests.counting import counted_macs
from tests.small_models import DEPTH, DIM, HEADS, decide_at_random, make_clips, make_model


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 50])
def test_kept_keys_are_the_positions_0_s_2s(stride: int) -> None:
    times = torch.arange(1, 20)
    assert kept_keys(times, stride).tolist() == [len(range(0, time, stride)) for time in range(1, 20)]


def test_the_counter_counts_known_layers() -> None:
    assert counted_macs(nn.Linear(8, 3), torch.zeros(2, 5, 8)) == 2 * linear_macs(5, 8, 3) == 240
    assert counted_macs(nn.Conv1d(4, 6, 3, padding=1), torch.zeros(1, 4, 9)) == convolution_macs(9, 4, 6, 3) == 648


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
@pytest.mark.parametrize("padded", [True, False])
def test_attention_macs_are_those_that_run(stride: int, padded: bool) -> None:
    x, lengths = torch.zeros(2, 11, 16), torch.tensor([11, 11]) if padded else None
    layer = SkipAttention(16, 2, stride=stride).eval()
    assert counted_macs(layer, x, lengths) == 2 * attention_macs(11, 16, stride)


def test_block_macs_are_those_that_run() -> None:
    for width in (0, 5):
        spec = BlockSpec(16, 2, ffn_ratio=3, convolution_width=width)
        block = TransformerBlock(spec, stride=2).eval()
        assert counted_macs(block, torch.zeros(2, 11, 16)) == 2 * spec.macs(11, 2)


def test_short_clips_project_the_kept_keys_alone_and_pad_the_scores() -> None:
    strides, time, dim = [1, 3, 3, 8, 50], 11, 16
    layer = SkipAttention(dim, 2).eval()
    assert time <= attention.SHORT
    projected = 2 * len(strides) * linear_macs(time, dim, dim) + sum(
        linear_macs(int(kept_keys(torch.tensor(time), stride)), dim, 2 * dim) for stride in strides
    )
    scores = len(strides) * 2 * time * time * dim
    assert counted_macs(lambda x: layer(x, strides=strides), torch.zeros(5, time, dim)) == projected + scores
    assert counted_macs(lambda x: layer(x, strides=strides[1:]), torch.zeros(4, time, dim)) < projected


def test_dense_macs_are_the_same_arithmetic_as_the_dense_model() -> None:
    clips = make_clips([1000, 6000])
    dense = make_model("dense").eval()(*clips).trace
    assert make_model("skip_attention").eval()(*clips).trace.dense_macs.tolist() == dense.macs.tolist()


@pytest.mark.parametrize("inner", ["adapter", "transformer"])
@pytest.mark.parametrize("sees", ["input", "first", "state"])
def test_layers_run_on_just_the_clips_whose_trace_says_so(inner: Any, sees: Any) -> None:
    torch.manual_seed(0)
    block = SkipLayer(DIM, HEADS, DEPTH, inner=inner, policy_sees=sees)
    x = torch.randn(7, 6, DIM) * torch.arange(1, 8)[:, None, None] + torch.randn(7, 1, DIM)
    decide_at_random(block, x)
    rows = [0] * DEPTH
    for index, layer in enumerate(block.layers):
        layer.register_forward_hook(lambda _, inputs, __, index=index: rows.__setitem__(index, len(inputs[0])))
    _, trace = block.run(x)
    assert rows == trace.visited.sum(0).tolist()
    assert 0 < sum(rows) < 7 * DEPTH


def test_counts_follow_each_clips_own_length() -> None:
    model: AudioModel = make_model("dense").eval()
    together = model(*make_clips([1000, 6000])).trace.macs.tolist()
    alone = [int(model(*make_clips([length])).trace.macs) for length in (1000, 6000)]
    assert together == alone
    assert math.prod(together) > 0
