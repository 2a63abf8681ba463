"""A stack in which every clip chooses its strides."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hopscotch.layers.block import BlockSpec
from hopscotch.models.stack import Stack
from hopscotch.models.strides import LearnedBlock, LearnedStack
from hopscotch.types import valid_mask
from tests.small_models import decide_at_random

DIM, HEADS, DEPTH, MAX = 16, 2, 3, 4
SPEC = BlockSpec(DIM, HEADS, dropout=0.0)
LENGTHS = torch.tensor([11, 4, 1, 8, 11])


def make(**changes: Any) -> tuple[LearnedStack, Tensor]:
    torch.manual_seed(0)
    return LearnedStack(SPEC, DEPTH, max_stride=MAX, **changes), torch.randn(5, 11, DIM) + torch.randn(5, 1, DIM)


@pytest.mark.parametrize("gate_input", ["layer", "encoder"])
def test_evaluation_equals_each_clip_alone_at_its_own_strides(gate_input: Any) -> None:
    stack, x = make(gate_input=gate_input)
    decide_at_random(stack, x, LENGTHS)
    y, trace = stack(x, LENGTHS)
    assert len(set(map(tuple, trace.strides.tolist()))) > 2
    for clip, length in enumerate(LENGTHS.tolist()):
        plain = Stack(SPEC, DEPTH, strides=trace.strides[clip].tolist())
        names = {name: name.replace("attention.attention", "attention") for name in stack.state_dict()}
        weights = {names[name]: value for name, value in stack.state_dict().items() if ".gate." not in name}
        plain.load_state_dict(weights)
        alone, alone_trace = plain(x[clip : clip + 1, :length], LENGTHS[clip : clip + 1])
        torch.testing.assert_close(y[clip, :length], alone[0], rtol=0, atol=1e-5)
        gates = DEPTH * (DIM * DIM + DIM * MAX)
        assert int(trace.macs[clip]) == int(alone_trace.macs) + gates
        assert int(trace.dense_macs[clip]) == DEPTH * SPEC.macs(length) + gates


@pytest.mark.parametrize("estimator", ["selected", "soft"])
@pytest.mark.parametrize("gate_input", ["layer", "encoder", "first"])
def test_every_gate_learns_from_the_task_alone(gate_input: Any, estimator: Any) -> None:
    stack, x = make(gate_input=gate_input, estimator=estimator)
    y, _ = stack.train()(x, LENGTHS)
    y[valid_mask(LENGTHS, 11)].square().sum().backward()
    blocks = [block for block in stack.blocks if isinstance(block, LearnedBlock)]
    assert len(blocks) == DEPTH - (gate_input == "first")
    for block in blocks:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.attention.gate.parameters())


def test_expected_compute_is_the_mean_over_sampled_strides() -> None:
    stack, x = make(gate_input="encoder")
    stack.train()
    clips = x[:1].expand(800, -1, -1)
    _, trace = stack(clips, torch.full((800,), 11))
    assert float(trace.fraction.mean()) == pytest.approx(trace.expected_compute[0].item(), abs=0.01)
    trace.expected_compute.mean().backward()
    block = stack.blocks[0]
    assert isinstance(block, LearnedBlock)
    assert all(p.grad is not None for p in block.attention.gate.net[2].parameters())


def test_a_bias_moves_planned_strides_one_way() -> None:
    stack, x = make(gate_input="encoder")
    decide_at_random(stack, x, LENGTHS)
    macs = torch.stack([stack(x, LENGTHS, bias)[1].macs for bias in (-1e5, -4.0, -1.0, 0.0, 1.0, 4.0, 1e5)])
    assert (macs.diff(dim=0) >= 0).all()
    costs = [stack.cost(length) for length in LENGTHS.tolist()]
    assert macs[0].tolist() == [cost.cheapest for cost in costs]
    assert macs[-1].tolist() == [cost.dense for cost in costs]


def test_temperatures_follow_progress() -> None:
    stack, _ = make(temperature_start=3.0, temperature_end=1.0)
    stack.set_progress(0.25)
    assert [gate.temperature for gate in stack.stride_gates] == [2.5] * DEPTH


def test_a_plan_from_layer_0_leaves_it_dense_and_reads_mean_and_deviation() -> None:
    stack, x = make(gate_input="first")
    decide_at_random(stack, x, LENGTHS)
    _, trace = stack(x, LENGTHS)
    assert (trace.strides[:, 0] == 1).all()
    assert len(set(map(tuple, trace.strides.tolist()))) > 2
    gates = (DEPTH - 1) * (2 * DIM * DIM + DIM * MAX)
    assert trace.dense_macs.tolist() == [DEPTH * SPEC.macs(n) + gates for n in LENGTHS.tolist()]
    for bias, wanted in ((-1e5, "cheapest"), (1e5, "dense")):
        _, trace = stack(x, LENGTHS, bias)
        assert trace.macs.tolist() == [getattr(stack.cost(n), wanted) for n in LENGTHS.tolist()]


def test_gain_trains_on_strides_of_every_cost() -> None:
    stack, x = make(gate_input="first", estimator="gain")
    _, trace = stack.train()(x[:1].expand(400, -1, -1), torch.full((400,), 11))
    assert trace.strides[:, 1:].unique().tolist() == [1, 2, 3, 4]
    every = (trace.strides[:, 1:] == 1).all(dim=1).float().mean().item()
    none = (trace.strides[:, 1:] > 1).all(dim=1).float().mean().item()
    assert every > 0.3
    assert none > 0.12


def test_a_shared_plan_is_one_stride_for_all_its_layers() -> None:
    for estimator in ("selected", "gain"):
        stack, x = make(gate_input="first", tied=True, estimator=estimator)
        decide_at_random(stack, x, LENGTHS)
        for mode in (True, False):
            _, trace = stack.train(mode)(x, LENGTHS)
            assert (trace.strides[:, 1:] == trace.strides[:, 1:2]).all()
            assert len(trace.strides[:, 1].unique()) > 1
        gate = 2 * DIM * DIM + DIM * MAX
        assert trace.dense_macs.tolist() == [DEPTH * SPEC.macs(n) + gate for n in LENGTHS.tolist()]
    with pytest.raises(ValueError, match="gate_input must be first or encoder under tied=true, got layer"):
        make(tied=True)


@pytest.mark.parametrize("tied", [True, False])
def test_reinforce_weighs_the_log_probability_of_the_strides_drawn(tied: bool) -> None:
    stack, x = make(gate_input="first", tied=tied, estimator="reinforce")
    lengths = torch.full((2000,), 11)
    y, trace = stack.train()(x[:1].expand(2000, -1, -1), lengths)
    assert trace.log_prob.requires_grad
    y.square().mean().backward(retain_graph=True)
    assert all(p.grad is None for p in stack.stride_gates[0].parameters()), "nothing through the model"
    drawn = trace.strides[:, 1] if tied else trace.strides[:, 1] * 10 + trace.strides[:, 2]
    for pattern in drawn.unique():
        here = drawn == pattern
        assert trace.log_prob[here].exp().mean().item() == pytest.approx(here.float().mean().item(), abs=0.03)
    trace.log_prob.sum().backward()
    assert all(p.grad is not None for gate in stack.stride_gates for p in gate.parameters())
    assert not stack.eval()(x, LENGTHS)[1].log_prob.any()
