import dataclasses

import numpy as np
import pytest
import torch

from hopscotch.report.decisions import (
    JUMPED_OVER,
    LANDED,
    RAN,
    RouteUse,
    attention_layers,
    evaluation_numbers,
    history_cells,
    jump_rate,
    jump_skipped,
    layers_of,
    open_tokens,
    route_shares,
    route_use,
    split_numbers,
    stride_shares,
)
from tests.hand_made import both_trace, jump_trace, make_evaluation, make_trace, skips_of, stride_trace
from tests.small_models import DEPTH, decide_at_random, make_clips, make_model


def exit_trace():
    """A model that leaves after one, two or three layers, and never jumps."""
    return make_trace(visited=torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool))


@pytest.mark.parametrize("skips", [frozenset({"exits"}), frozenset({"layers"})])
def test_an_early_exit_shows_its_layers_without_a_jump(skips: frozenset[str]) -> None:
    trace = exit_trace()
    numbers = evaluation_numbers(make_evaluation(trace), skips, True)
    assert [numbers[f"jump/visited/layer_0{layer}"] for layer in range(3)] == [1.0, 0.75, 0.25]
    assert numbers["jump/skipped"] == pytest.approx(4 / 12)
    assert "jump/rate" not in numbers
    assert numbers["policy/routes"] == 3
    table = layers_of(history_cells(trace), trace.strides.numpy(), trace.open_rate.numpy()).table(skips)
    assert table.head == ["layer", "ran", "landed on"]
    assert list(table.rows[2]) == ["2", "25%", "·"]


def test_history_cells_say_ran_jumped_over_and_landed() -> None:
    expected = [[RAN, RAN, RAN], [RAN, JUMPED_OVER, LANDED], [RAN, JUMPED_OVER, LANDED], [RAN, RAN, RAN]]
    np.testing.assert_array_equal(history_cells(jump_trace()), expected)


def test_stride_shares_add_up_to_all_clips_and_keep_those_that_did_not_attend_apart() -> None:
    shares = stride_shares(both_trace().strides.numpy())
    np.testing.assert_array_equal(shares, [[0, 0.75, 0.25, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0.25, 0, 0.75]])
    np.testing.assert_array_equal(shares.sum(axis=1), 1.0)


def test_jump_rate_counts_decisions_and_jump_skipped_counts_layers() -> None:
    assert jump_rate(jump_trace()) == pytest.approx(2 / 10)  # ten layers were visited, two jumps taken there
    assert jump_skipped(jump_trace()) == pytest.approx(2 / 12)


def test_every_clip_counts_once_however_it_was_batched() -> None:
    """Means of batch means would weigh the clip of a batch of one three times as much."""
    trace = stride_trace()
    numbers = evaluation_numbers(make_evaluation(trace), skips_of(trace), True)
    assert numbers["skip/stride/layer_00"] == (1 + 1 + 1 + 2) / 4


def test_split_numbers_carry_the_split_in_their_tag() -> None:
    assert split_numbers(jump_trace(), skips_of(jump_trace()), "test") == {
        "test/jump_rate": pytest.approx(2 / 10),
        "test/jump_skipped": pytest.approx(2 / 12),
        "test/open_rate": pytest.approx((1 + 0.5 + 0.5 + 0.5 + 1 + 1) / 6),
    }


def test_route_shares_count_clips_on_the_same_route() -> None:
    np.testing.assert_array_equal(route_shares(jump_trace()), [0.5, 0.25, 0.25])


def test_attention_layers_leave_out_layers_that_ran_without_a_stride() -> None:
    trace = stride_trace()
    strides = torch.cat([torch.zeros(4, 1, dtype=torch.long), trace.strides], dim=1)
    assert attention_layers(make_trace(strides=strides)) == [1, 2, 3]


def test_the_use_of_routes_tells_common_ones_and_the_most_common() -> None:
    assert route_use(jump_trace()) == RouteUse(3, 3, 0.5)


def test_rank_correlation_is_left_out_where_all_clips_cost_the_same() -> None:
    constant = dataclasses.replace(stride_trace(), macs=torch.full((4,), 60))
    assert "policy/rank_correlation" in evaluation_numbers(make_evaluation(stride_trace()), frozenset(), True)
    assert "policy/rank_correlation" not in evaluation_numbers(make_evaluation(constant), frozenset(), True)


@pytest.mark.parametrize("name", ["skip_layer", "jump_attention"])
def test_the_tokens_shown_are_those_the_trace_counted(name: str) -> None:
    model = make_model(name)
    waveform, lengths = make_clips([6000])
    decide_at_random(model, waveform, lengths)
    model.eval()
    rates = model(waveform, lengths).trace.open_rate[0]
    is_open = open_tokens(model, waveform[0])
    assert is_open is not None
    gated = rates[: len(is_open)].nan_to_num().numpy()
    np.testing.assert_allclose(is_open.mean(axis=1), gated, rtol=1e-6)
    assert len(is_open) == DEPTH
    assert 0 < is_open.mean() < 1, "some must be open and some closed for this to be a test"
    assert not any(gate._forward_hooks for gate in model.modules())


def test_tokens_behind_a_gate_are_shown_where_they_lie_in_the_clip() -> None:
    model = make_model("jump_attention", open_rate=0.5)
    waveform, lengths = make_clips([6000])
    decide_at_random(model, waveform, lengths)
    trace = model(waveform, lengths).trace
    is_open = open_tokens(model, waveform[0])
    assert is_open is not None
    assert trace.tokens is not None
    assert len(is_open) == 1 + DEPTH  # the gate before the encoder, then those of the jump layers
    np.testing.assert_array_equal(is_open[0], trace.tokens[0].numpy())
    let_in = is_open[0].copy()
    let_in[0] |= not let_in.any()
    assert not (is_open[1:] & ~let_in).any()
    assert 0 < is_open[1:].mean() < is_open[0].mean() < 1


def test_a_model_without_gates_has_no_tokens_to_show() -> None:
    assert open_tokens(make_model("dense").eval(), torch.zeros(800)) is None
