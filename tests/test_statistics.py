"""Intervals, ranks and counts, against the slow and obvious way to them."""

import math

import numpy as np
import pytest

from hopscotch.report.statistics import (
    MAX_DRAWN,
    NUM_DRAWS,
    bootstrap,
    confusion,
    partial_rank_correlation,
    quantile_groups,
    ranks,
    ratio_interval,
    student,
    wilson,
)


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(1.0, 10)[1] == 1.0
    assert wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_the_interval_over_seeds_is_students() -> None:
    found = student([0.017, 0.032, 0.011])
    assert found is not None
    # deviation 0.010817, over the root of three 0.006245, times 4.303
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02 - 0.02687, 0.02 + 0.02687), abs=1e-5)
    assert student([0.017]) is None
    many = student([0.0, 1.0] * 10)  # more seeds than the table has: wider than need be
    assert many is not None
    assert many.high - many.value == pytest.approx(2.262 * 0.51299 / 20**0.5, abs=1e-4)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    samples = [bootstrap(generator.normal(0.2, 1.0, size=60)) for _ in range(200)]
    inside = sum(sample.low <= 0.2 <= sample.high for sample in samples)
    assert 0.88 <= inside / 200 <= 0.99


def test_values_that_are_drawn_in_parts_have_the_interval_of_all_at_once() -> None:
    values = np.random.default_rng(2).normal(size=3 * MAX_DRAWN // NUM_DRAWS + 1)
    drawn = np.random.default_rng(0).integers(len(values), size=(NUM_DRAWS, len(values)))
    found = bootstrap(values)
    assert (found.low, found.high) == tuple(np.quantile(values[drawn].mean(axis=1), (0.025, 0.975)))


def test_the_interval_of_a_ratio_narrows_with_the_pairs() -> None:
    few, many = ratio_interval([40, 60], [100, 100]), ratio_interval([40, 60] * 50, [100, 100] * 50)
    deviation = np.std([-10, 10] * 50, ddof=1)
    assert many == pytest.approx((0.5 - 1.96 * deviation / 1000, 0.5 + 1.96 * deviation / 1000), 1e-4)
    assert np.diff(few) > np.diff(many)
    assert np.isnan(ratio_interval([40], [100])).all()


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
