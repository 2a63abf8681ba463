"""SkipLayer as an encoder, alone and upstream of attention."""

import pytest
import torch
from torch import Tensor

from hopscotch.layers.block import BlockSpec
from hopscotch.models.jumps import JumpAttention, JumpStack
from tests.small_models import DEPTH, DIM, decide_at_random, make_encoder

LENGTHS = torch.tensor([9, 3, 6, 9])


def clips() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 9, DIM) + torch.randn(4, 1, DIM)


def test_groups_reach_the_block_with_their_prefix() -> None:
    encoder = make_encoder(
        "skip_layer",
        jump={"rule": "literal", "max": 2, "mix": "none"},
        policy={"sees": "state", "estimator": "reinforce"},
        gate={"rule": "sign", "num_keys": 3},
    )
    assert isinstance(encoder, JumpStack)
    block = encoder.block
    assert (block.policy.rule, block.policy.num_actions, block.mix) == ("literal", 3, "none")
    assert (block.sees, block.policy.estimator) == ("state", "reinforce")
    assert [(gate.rule, gate.num_keys) for gate in block.gates] == [("sign", 3)] * DEPTH


def test_the_encoder_is_its_block() -> None:
    encoder, x = make_encoder("skip_transformer"), clips()
    assert isinstance(encoder, JumpStack)
    decide_at_random(encoder, x, LENGTHS)
    y, trace = encoder(x, LENGTHS, 0.3)
    expected, block_trace = encoder.block.run(x, LENGTHS, bias=0.3)
    assert torch.equal(y, expected)
    assert torch.equal(trace.jumps, block_trace.jumps)
    assert encoder.cost(9) == encoder.block.cost(9)


def test_the_temperature_follows_progress_and_thresholds_are_reported_by_layer() -> None:
    encoder = make_encoder("skip_layer", temperature_start=3.0, temperature_end=1.0)
    assert isinstance(encoder, JumpStack)
    assert encoder.block.policy.temperature == 3.0
    encoder.set_progress(0.5)
    assert encoder.block.policy.temperature == 2.0
    for loss in (1.0, 2.0):
        for gate in encoder.gates:
            gate.update_threshold(loss, 0.01)
    assert [gate.layer for gate in encoder.gates] == list(range(DEPTH))
    assert all(float(gate.threshold) < 0.5 for gate in encoder.gates)
    assert list(make_encoder("skip_transformer").gates) == []


def test_jump_attention_is_the_jump_block_and_then_the_stack() -> None:
    encoder, x = make_encoder("jump_attention", attention_depth=2), clips()
    assert isinstance(encoder, JumpAttention)
    decide_at_random(encoder, x, LENGTHS)
    y, trace = encoder(x, LENGTHS)
    jumped, first = encoder.jump(x, LENGTHS)
    expected, second = encoder.attention(jumped, LENGTHS)
    assert torch.equal(y, expected)
    assert torch.equal(trace.macs, first.macs + second.macs)
    assert torch.equal(trace.dense_macs, first.dense_macs + second.dense_macs)
    assert trace.strides.tolist() == [[0] * DEPTH + [4, 3]] * 4
    assert torch.equal(trace.visited[:, :DEPTH], first.visited)
    assert trace.visited[:, DEPTH:].all()
    assert trace.histories == first.histories
    run = trace.expected_compute * trace.dense_macs
    parts = first.expected_compute * first.dense_macs + second.macs
    torch.testing.assert_close(run, parts)
    assert encoder.cost(9).dense == int(trace.dense_macs[0])


@pytest.mark.parametrize("kind", [JumpStack, JumpAttention])
def test_a_misspelt_key_of_a_group_is_refused(kind: type[JumpStack | JumpAttention]) -> None:
    with pytest.raises(TypeError, match="jump_ruel"):
        kind(BlockSpec(DIM, 2), DEPTH, jump={"ruel": "skip"}, policy={}, gate={})
    with pytest.raises(TypeError, match="num_kyes"):
        kind(BlockSpec(DIM, 2), DEPTH, jump={}, policy={}, gate={"num_kyes": 3})
