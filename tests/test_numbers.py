import dataclasses

import numpy as np
import pytest
import torch

from hopscotch.report.numbers import (
    JUMPED_OVER,
    LANDED,
    RAN,
    Kinds,
    attention_layers,
    confusion_counts,
    evaluation_numbers,
    history_cells,
    jump_rate,
    jump_skipped,
    kinds_of,
    partial_rank_correlation,
    ranks,
    route_shares,
    split_numbers,
    stride_shares,
)
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace
from tests.hand_made import both_trace, dense_trace, jump_trace, make_trace, stride_trace


def evaluate(trace: SkipTrace, losses: list[float]) -> Evaluation:
    rows = torch.arange(4)
    return Evaluation(trace, rows, rows % 2, rows * 0, torch.ones(4), torch.tensor(losses), {})


def test_kinds_follow_the_trace() -> None:
    assert kinds_of(dense_trace()) == Kinds()
    assert kinds_of(stride_trace()) == Kinds(strides=True, decides=True)
    assert kinds_of(jump_trace()) == Kinds(jumps=True, gates=True, decides=True)
    going_on = make_trace(jumps=torch.tensor([[0, 0, -1]] * 4, dtype=torch.int8))
    assert kinds_of(going_on).jumps, "a clip that went on everywhere could have jumped"
    assert kinds_of(both_trace()) | kinds_of(jump_trace()) == Kinds(True, True, True, True)


def test_history_cells_say_ran_jumped_over_and_landed() -> None:
    expected = [[RAN, RAN, RAN], [RAN, JUMPED_OVER, LANDED], [RAN, JUMPED_OVER, LANDED], [RAN, RAN, RAN]]
    np.testing.assert_array_equal(history_cells(jump_trace()), expected)


def test_stride_shares_add_up_to_all_clips_and_keep_those_that_did_not_attend_apart() -> None:
    shares = stride_shares(both_trace())
    np.testing.assert_array_equal(shares, [[0, 0.75, 0.25, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0.25, 0, 0.75]])
    np.testing.assert_array_equal(shares.sum(axis=1), 1.0)


def test_jump_rate_counts_decisions_and_jump_skipped_counts_layers() -> None:
    assert jump_rate(jump_trace()) == pytest.approx(2 / 10)  # ten layers were visited, two jumps taken there
    assert jump_skipped(jump_trace()) == pytest.approx(2 / 12)


def test_every_clip_counts_once_however_it_was_batched() -> None:
    """Means of batch means would weigh the clip of a batch of one three times as much."""
    trace = stride_trace()
    numbers = evaluation_numbers(evaluate(trace, [1.0, 2.0, 3.0, 4.0]), kinds_of(trace))
    assert numbers["skip/stride/layer_00"] == (1 + 1 + 1 + 2) / 4


def test_split_numbers_carry_the_split_in_their_tag() -> None:
    assert split_numbers(jump_trace(), kinds_of(jump_trace()), "test") == {
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


def test_equal_values_share_their_mean_rank() -> None:
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])


def test_rank_correlation_is_one_where_compute_follows_loss() -> None:
    x = np.array([0.1, 0.2, 0.3, 0.4])
    assert partial_rank_correlation(x, x**3, given=np.ones(4)) == pytest.approx(1.0)
    assert partial_rank_correlation(x, -x, given=np.ones(4)) == pytest.approx(-1.0)


def test_rank_correlation_takes_out_what_both_owe_to_duration() -> None:
    """Compared with the residuals of rank regressions, the slow and obvious way."""
    generator = np.random.default_rng(0)
    duration = generator.normal(size=200)
    x, y = duration + 0.5 * generator.normal(size=200), duration + 0.5 * generator.normal(size=200)
    design = np.stack([np.ones(200), ranks(duration)], axis=1)
    residuals = [ranks(v) - design @ np.linalg.lstsq(design, ranks(v), rcond=None)[0] for v in (x, y)]
    expected = np.corrcoef(residuals[0], residuals[1])[0, 1]
    assert partial_rank_correlation(x, y, given=duration) == pytest.approx(expected)
    assert abs(expected) < 0.2 < np.corrcoef(ranks(x), ranks(y))[0, 1]


def test_rank_correlation_is_left_out_where_it_says_nothing() -> None:
    constant = dataclasses.replace(stride_trace(), macs=torch.full((4,), 60))
    numbers = evaluation_numbers(evaluate(constant, [1.0, 2.0, 3.0, 4.0]), kinds_of(constant))
    assert "policy/rank_correlation" not in numbers
    x = np.arange(4.0)
    assert np.isnan(partial_rank_correlation(x, x[::-1] ** 2, given=x))  # length alone decides


def test_the_confusion_matrix_counts_every_clip_once() -> None:
    np.testing.assert_array_equal(confusion_counts(evaluate(dense_trace(), [1.0] * 4), 2), [[2, 0], [2, 0]])
