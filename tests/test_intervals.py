"""Intervals against the slow and obvious way to them, over clips and over groups."""

import numpy as np
import pytest

from hopscotch.data.clips import Clip
from hopscotch.intervals import (
    MAX_DRAWN,
    NUM_DRAWS,
    Units,
    bootstrap,
    ratio_interval,
    share_interval,
    student,
    wilson,
)


def clips(count: int) -> Units:
    return Units.of([None] * count)


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
    samples = [bootstrap(generator.normal(0.2, 1.0, size=60), clips(60)) for _ in range(200)]
    inside = sum(sample.low <= 0.2 <= sample.high for sample in samples)
    assert 0.88 <= inside / 200 <= 0.99


def test_values_that_are_drawn_in_parts_have_the_interval_of_all_at_once() -> None:
    values = np.random.default_rng(2).normal(size=3 * MAX_DRAWN // NUM_DRAWS + 1)
    drawn = np.random.default_rng(0).integers(len(values), size=(NUM_DRAWS, len(values)))
    found = bootstrap(values, clips(len(values)))
    assert (found.low, found.high) == tuple(np.quantile(values[drawn].mean(axis=1), (0.025, 0.975)))


def test_the_interval_of_a_ratio_narrows_with_the_pairs() -> None:
    few, many = ratio_interval([40, 60], [100, 100]), ratio_interval([40, 60] * 50, [100, 100] * 50)
    deviation = np.std([-10, 10] * 50, ddof=1)
    assert many == pytest.approx((0.5 - 1.96 * deviation / 1000, 0.5 + 1.96 * deviation / 1000), 1e-4)
    assert np.diff(few) > np.diff(many)
    assert np.isnan(ratio_interval([40], [100])).all()


def test_an_interval_over_groups_is_that_of_drawing_whole_groups() -> None:
    generator = np.random.default_rng(3)
    groups = [f"speaker: {number}" for number in generator.integers(8, size=200)]
    values, names = generator.normal(size=200), sorted({*groups})
    found = bootstrap(values, Units.of(groups))
    of_group = [values[[group == name for group in groups]] for name in names]
    draws = np.random.default_rng(0).integers(8, size=(NUM_DRAWS, 8))
    means = [np.concatenate([of_group[place] for place in draw]).mean() for draw in draws]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))
    assert (found.value, found.over) == (values.mean(), "8 speakers")


def test_clips_that_are_right_or_wrong_by_speaker_are_as_sure_as_so_many_speakers() -> None:
    right = [True] * 60 + [False] * 40
    by_clip, by_speaker = (share_interval(right, Units.of(groups)) for groups in ([None] * 100, speakers(10, each=10)))
    assert (by_clip.low, by_clip.high) == wilson(0.6, 100)
    assert by_speaker.high - by_speaker.low > 2.5 * (by_clip.high - by_clip.low)


def test_an_interval_over_groups_is_never_narrower_than_over_clips() -> None:
    found = share_interval([True] * 50, Units.of(speakers(5, each=10)))
    assert (found.low, found.high) == wilson(1.0, 50)


def speakers(count: int, each: int) -> list[str | None]:
    return [f"speaker: {number}" for number in range(count) for _ in range(each)]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([None] * 1200, "1,200 clips"),
        ([None], "1 clip"),
        (speakers(6, each=2), "6 speakers"),
        (speakers(4, each=2), "4 speakers, too few to be sure"),
        (speakers(1, each=7), "7 clips of one speaker"),
        ([*speakers(5, each=2), None], "6 groups"),
        ([*speakers(5, each=1), "room: a"], "6 groups"),
    ],
)
def test_an_interval_says_what_it_is_over(groups: list[str | None], words: str) -> None:
    assert share_interval([True] * len(groups), Units.of(groups)).over == words


@pytest.mark.parametrize(
    ("facts", "group", "shared"),
    [
        ({"speaker": "ann", "snr_db": 3.0}, None, "speaker: ann"),
        ({"src_file": "7", "fold": "1"}, "7", "src_file: 7"),
        ({}, "b", "group: b"),
        ({"fold": "1"}, None, None),
    ],
)
def test_a_clip_shares_its_group_or_its_speaker(facts: dict[str, str | float], group: str | None, shared: str) -> None:
    assert Clip("a", 0, 1, facts=facts, group=group).shared == shared
