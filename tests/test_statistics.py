"""Ranks and counts, against the slow and obvious way to them."""

import math

import numpy as np
import pytest

from hopscotch.report.statistics import confusion, partial_rank_correlation, quantile_groups, ranks


def test_groups_hold_equal_numbers_and_every_value_once() -> None:
    values = np.random.default_rng(0).permutation(100).tolist()
    groups = quantile_groups(values, 5)
    assert [sorted(values[place] for place in group) for group in groups] == [
        list(range(low, low + 20)) for low in range(0, 100, 20)
    ]


def test_equal_values_are_not_parted_and_silence_has_a_place() -> None:
    assert quantile_groups([1.0] * 7, 5) == [list(range(7))]
    assert quantile_groups([-math.inf] * 3 + [-10.0] * 4, 5) == [[0, 1, 2], [3, 4, 5, 6]]


def test_confusions_are_counted_by_label_and_prediction() -> None:
    found = confusion(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 0]), 3)
    assert found.tolist() == [[1, 1, 0], [2, 0, 0], [0, 0, 0]]


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
    x = np.arange(4.0)
    assert np.isnan(partial_rank_correlation(x, x[::-1] ** 2, given=x))  # length alone decides
    assert np.isnan(partial_rank_correlation(x, 0 * x, given=x))
