"""detection.py: events from scores, who is whose partner, thresholds, and figures against sed_eval 0.2.1."""

import math
from itertools import permutations

import numpy as np
import pytest

from hopscotch.detection import (
    FIGURES,
    METRICS,
    NEVER,
    RATES,
    THRESHOLDS,
    Counts,
    Found,
    Recording,
    choose,
    count,
    errors,
    figures,
    find,
    in_words,
    is_hit,
    is_right,
    partners,
    segments,
)
from hopscotch.intervals import Units

STEP = 0.1
LOW, HIGH = 0.35, 0.9  # above half of a threshold of 0.5, and above it
HALVES = np.full((len(RATES), 1), 0.5)


def heard(*spans: tuple[float, float, float], seconds: float = 10.0) -> np.ndarray:
    """Scores of one class: (from second, to second, score), else 0.01."""
    scores = np.full((round(seconds / STEP), 1), 0.01)
    for start, end, score in spans:
        scores[round(start / STEP) : round(end / STEP)] = score
    return scores


def recording(scores: np.ndarray, *events: tuple[float, float, int]) -> Recording:
    return Recording(scores, np.array(events, dtype=float).reshape(-1, 3), STEP, len(scores) * STEP)


def test_an_event_lasts_while_its_score_is_above_half_of_the_threshold() -> None:
    found = find(heard((2.0, 2.3, LOW), (2.3, 2.5, HIGH), (2.5, 3.0, LOW), (6.0, 7.0, LOW)), np.array([0.5]), STEP)
    assert found.spans.tolist() == [[2.0, 3.0, 0]]
    assert found.alarms.tolist() == [2.4]  # the end of the first score above the threshold
    assert found.confidence.tolist() == [HIGH]


@pytest.mark.parametrize(("pause", "num_events"), [(0.2, 1), (0.3, 2)])
def test_two_events_less_than_three_tenths_apart_are_one(pause: float, num_events: int) -> None:
    found = find(heard((2.0, 2.4, HIGH), (2.4 + pause, 3.0, 0.95)), np.array([0.5]), STEP)
    assert len(found.spans) == num_events
    assert found.spans[0, 0] == 2.0
    assert found.spans[-1, 1] == 3.0
    assert found.confidence[-1] == 0.95
    assert found.alarms[0] == 2.1


def test_what_is_above_half_of_the_threshold_bridges_a_pause() -> None:
    found = find(heard((1.0, 1.2, HIGH), (1.4, 1.6, LOW), (1.8, 2.0, HIGH)), np.array([0.5]), STEP)
    assert found.spans[:, :2].tolist() == [[1.0, 2.0]]


def test_events_at_both_ends_of_a_recording_are_found_and_no_scores_have_none() -> None:
    found = find(heard((0.0, 0.2, HIGH), (9.8, 10.0, HIGH)), np.array([0.5]), STEP)
    assert found.spans[:, :2].tolist() == [[0.0, 0.2], [9.8, 10.0]]
    assert find(np.zeros((0, 2)), np.array([0.5, 0.5]), STEP).spans.shape == (0, 3)
    assert find(heard((0.0, 10.0, 1.0)), np.array([NEVER]), STEP).spans.shape == (0, 3)


def test_a_stream_can_say_the_same_alarms() -> None:
    """Compare with a slow listener that knows nothing of what comes later."""
    scores = np.random.default_rng(0).beta(0.3, 1.0, size=(400, 1))
    alarms, is_open, quiet = [], False, 10
    for place, score in enumerate(scores[:, 0]):
        quiet = 0 if score > 0.25 else quiet + 1
        is_open = is_open and (quiet < 3)
        if score > 0.5 and not is_open:
            alarms.append(round((place + 1) * STEP, 6))
            is_open = True
    found = find(scores, np.array([0.5]), STEP)
    assert len(alarms) > 20
    assert found.alarms.tolist() == alarms


def test_partners_are_as_many_as_can_be() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        fits = generator.random((generator.integers(1, 5), generator.integers(1, 5))) < 0.4
        mates = partners(fits)
        assert all(fits[pair] for pair in mates.items())
        assert len(set(mates.values())) == len(mates)
        rows, columns = fits.shape
        wide = fits if rows <= columns else fits.T
        ways = permutations(range(wide.shape[1]), wide.shape[0])
        assert len(mates) == max(sum(wide[row, column] for row, column in enumerate(way)) for way in ways)


def test_a_long_chain_of_neighbours_is_paired() -> None:
    """Each event may take its own or the next; the last one has only its own."""
    fits = np.eye(3000, dtype=bool) | np.eye(3000, k=1, dtype=bool)
    fits[0, 1], fits[-1, 0] = True, False
    assert len(partners(fits[::-1])) == 3000


def test_one_alarm_is_a_hit_a_second_one_in_the_event_and_one_elsewhere_are_false() -> None:
    scores = heard((2.0, 2.2, HIGH), (2.8, 3.0, HIGH), (8.0, 8.1, HIGH))
    counts = count(recording(scores, (1.9, 3.2, 0)), HALVES)
    assert (counts.events, counts.missed_2, counts.false_2) == (1, 0, 2)
    assert counts.delay == pytest.approx(0.2)  # from 1.9 to 2.1
    assert counts.hours == pytest.approx(10 / 3600)


def test_overlapping_events_of_a_class_need_an_alarm_each() -> None:
    counts = count(recording(heard((2.0, 3.0, HIGH)), (1.9, 2.6, 0), (2.4, 3.2, 0)), HALVES)
    assert (counts.events, counts.missed_2, counts.false_2, counts.event_right) == (2, 1, 0, 1)


@pytest.mark.parametrize(("start", "is_missed"), [(2.2, 0), (2.6, 1)])
def test_an_alarm_within_half_a_second_is_a_hit(start: float, is_missed: int) -> None:
    counts = count(recording(heard((start, start + 0.2, HIGH)), (1.0, 2.0, 0)), HALVES)
    assert counts.missed_2 == counts.false_2 == is_missed


def test_recordings_without_events_or_alarms_count_as_such() -> None:
    silent = count(recording(heard()), HALVES)
    assert sum(silent) == silent.hours == pytest.approx(10 / 3600)
    false = count(recording(heard((9.9, 10.0, HIGH))), HALVES)
    assert (false.events, false.false_2, false.event_said, false.segment_said, false.segments) == (0, 1, 1, 1, 0)
    missed = count(recording(heard(), (9.9, 10.0, 0)), HALVES)
    assert (missed.events, missed.missed_2, missed.missed_05, missed.segments) == (1, 1, 1, 1)


def test_operating_points_have_their_own_thresholds() -> None:
    counts = count(recording(heard((2.0, 2.2, 0.7)), (2.0, 2.2, 0)), np.array([[0.8], [0.6]]))
    assert (counts.missed_05, counts.missed_2) == (1, 0)


Event = tuple[float, float, int]
# (seconds, events, found), and what sed_eval 0.2.1 makes of them: `EventBasedMetrics` with t_collar=0.5 and
# percentage_of_length=0.5, `SegmentBasedMetrics` with time_resolution=1.0 and the seconds as evaluated length. Nref,
# Nsys, Ntp and the overall f_measure of each; NaN is its 0/0.
SED_EVAL: dict[str, tuple[float, list[Event], list[Event], tuple[float, ...], tuple[float, ...]]] = {
    "both ends": (
        4,
        [(1.0, 2.0, 0), (5.2, 5.9, 1)],
        [(1.4, 2.4, 0), (5.2, 6.0, 1)],
        (2, 2, 2, 1.0),
        (1, 2, 1, 0.6666666666666666),
    ),
    "late start": (8, [(1.0, 2.0, 0)], [(1.6, 2.1, 0)], (1, 1, 0, 0.0), (1, 2, 1, 0.6666666666666666)),
    "long event": (30, [(2.0, 12.0, 0)], [(2.3, 7.5, 0)], (1, 1, 1, 1.0), (10, 6, 6, 0.7499999999999999)),
    "long event cut": (30, [(2.0, 12.0, 0)], [(2.3, 6.9, 0)], (1, 1, 0, 0.0), (10, 5, 5, 0.6666666666666666)),
    "two alarms in one event": (
        10,
        [(3.0, 4.0, 1)],
        [(2.8, 3.4, 1), (3.3, 4.3, 1)],
        (1, 2, 1, 0.6666666666666666),
        (1, 3, 1, 0.5),
    ),
    "overlapping": (
        12,
        [(1.0, 3.0, 0), (2.0, 4.0, 0), (2.5, 3.5, 1)],
        [(1.2, 3.1, 0), (1.9, 4.2, 0), (2.4, 3.4, 0)],
        (3, 3, 2, 0.6666666666666666),
        (5, 4, 3, 0.6666666666666665),
    ),
    "crossed choices": (
        10,
        [(1.0, 2.0, 0), (1.4, 2.4, 0)],
        [(1.4, 2.4, 0), (1.8, 2.8, 0)],
        (2, 2, 2, 1.0),
        (2, 2, 2, 1.0),
    ),
    "very end": (
        10,
        [(9.5, 10.0, 2)],
        [(9.3, 10.0, 2), (4.0, 4.2, 2)],
        (1, 2, 1, 0.6666666666666666),
        (1, 2, 1, 0.6666666666666666),
    ),
    "wrong class": (
        9,
        [(1.0, 2.0, 0), (6.0, 7.5, 2)],
        [(1.0, 2.0, 1), (6.1, 7.4, 2)],
        (2, 2, 1, 0.5),
        (3, 3, 2, 0.6666666666666666),
    ),
    "nothing found": (7, [(1.0, 2.0, 0)], [], (1, 0, 0, math.nan), (1, 0, 0, math.nan)),
    "nothing there": (7, [], [(1.0, 2.0, 0), (3.5, 3.9, 2)], (0, 2, 0, math.nan), (0, 2, 0, math.nan)),
}
ALL = ((15, 18, 10, 0.606060606060606), (35, 31, 22, 0.6666666666666666))  # of all of them together


def rows(events: list[Event]) -> np.ndarray:
    return np.array(events, dtype=float).reshape(-1, 3)


def counted(name: str) -> np.ndarray:
    """Nref, Nsys and Ntp of events, then of segments."""
    seconds, events, found, *_ = SED_EVAL[name]
    true, said = (segments(rows(some), seconds, 3) for some in (events, found))
    right = len(partners(is_right(rows(events), rows(found))))
    return np.array([len(events), len(found), right, true.sum(), said.sum(), (true & said).sum()])


def f1(counts: np.ndarray) -> list[float]:
    told = dict.fromkeys(Counts._fields, np.zeros(()))
    names = ("events", "event_said", "event_right", "segments", "segment_said", "segment_right")
    own = Counts(**(told | dict(zip(names, counts.astype(float), strict=True))))
    return [float(part / whole) for part, whole in (METRICS[name](own) for name in ("event_f1", "segment_f1"))]


@pytest.mark.parametrize("name", SED_EVAL)
def test_f1_is_that_of_sed_eval(name: str) -> None:
    *_, of_events, of_segments = SED_EVAL[name]
    counts = counted(name)
    assert counts.tolist() == [*of_events[:3], *of_segments[:3]]
    wanted = [0.0 if math.isnan(value) else value for value in (of_events[3], of_segments[3])]  # precision 0/0
    assert f1(counts) == pytest.approx(wanted)


def test_f1_of_many_recordings_is_that_of_sed_eval() -> None:
    counts = np.sum([counted(name) for name in SED_EVAL], axis=0)
    assert counts.tolist() == [*ALL[0][:3], *ALL[1][:3]]
    assert f1(counts) == pytest.approx([ALL[0][3], ALL[1][3]])


def test_hits_are_of_the_same_class_alone() -> None:
    found = Found(rows([(1, 2, 1)]), np.array([1.1]), np.array([HIGH]))
    assert is_hit(rows([(1, 2, 0), (1, 2, 1)]), found).tolist() == [[False], [True]]


def test_one_who_never_stops_talking_hits_one_event() -> None:
    counts = count(recording(heard((0.0, 10.0, HIGH)), (0.2, 0.8, 0), (4.0, 5.0, 0), (8.0, 9.0, 0)), HALVES)
    assert (counts.missed_2, counts.false_2) == (2, 0)


def noisy(seed: int, num_recordings: int = 6) -> list[Recording]:
    """Two classes; events score higher than the noise, most of the time."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_recordings):
        scores = generator.beta(0.2, 3.0, size=(600, 2))
        events = []
        for place, label in enumerate((0, 1, 1)):
            start = 50 + 150 * place
            scores[start : start + 6, label] = generator.beta(3.0, 1.0)
            events.append((start * STEP, (start + 6) * STEP, label))
        found.append(recording(scores, *events))
    return found


def test_errors_by_threshold_are_those_of_counting_recording_by_recording() -> None:
    recordings = noisy(0)
    table = errors(recordings)
    for place in (0, 20, 40, len(THRESHOLDS) - 1):
        thresholds = np.full((2, 2), THRESHOLDS[place])
        each = [count(one, thresholds) for one in recordings]
        assert table.missed[:, place].sum() == sum(one.missed_2 for one in each)
        assert table.false[:, place].sum() == sum(one.false_2 for one in each)
    assert table.missed[:, -1].tolist() == [6, 12]
    assert table.num_events == 18
    assert table.hours == pytest.approx(0.1)
    alarms, missed = table.curve
    assert (alarms[-1], missed[-1]) == (0, 1)
    assert alarms[0] > 100
    assert missed.min() < 0.2


@pytest.mark.parametrize("rate", [0.0, 10.0, 60.0])
def test_thresholds_keep_to_the_false_alarms_and_miss_least(rate: float) -> None:
    """Compare with every pair of thresholds."""
    recordings = noisy(1)
    table = errors(recordings)
    chosen = choose(table, rate)
    each = [count(one, np.stack([chosen, chosen])) for one in recordings]
    assert sum(one.false_2 for one in each) <= rate * table.hours
    missed = sum(one.missed_2 for one in each)
    sums = table.false[0][:, None] + table.false[1]
    best = (table.missed[0][:, None] + table.missed[1])[sums <= rate * table.hours].min()
    assert best <= missed <= best + 1  # whoever takes the best bargain first may be left with a rest
    assert missed < 18


def test_a_class_without_events_is_never_said_and_equal_thresholds_give_the_middle_one() -> None:
    one = recording(np.hstack([heard((2.0, 2.4, 0.9)), heard((5.0, 5.4, 0.6))]), (2.0, 2.4, 0))
    chosen = choose(errors([one]), 0.0)
    assert chosen[1] == NEVER
    same = THRESHOLDS[THRESHOLDS < 0.9]
    assert chosen[0] == same[(len(same) - 1) // 2]


def test_figures_are_ratios_of_sums_and_their_intervals_come_from_recordings() -> None:
    recordings = noisy(2, 40)
    thresholds = np.stack([choose(errors(recordings), 60.0)] * 2)
    counts = np.array([count(one, thresholds) for one in recordings])
    columns = dict(zip(Counts._fields, counts.T, strict=True))
    found = figures(columns, Units.of([None] * 40))
    assert found.keys() == FIGURES.keys()
    assert found["miss_2"].value == columns["missed_2"].sum() / 120
    assert found["miss_2"].low < found["miss_2"].value < found["miss_2"].high
    assert found["alarms_2"].value == pytest.approx(columns["false_2"].sum() / (40 / 60))
    assert found["miss_2"].over == "40 clips"
    pairs = figures({name: np.repeat(column, 2) for name, column in columns.items()}, Units.of([None] * 80))
    halves = figures(
        {name: np.repeat(column, 2) for name, column in columns.items()},
        Units.of([f"recording: {n // 2}" for n in range(80)]),
    )
    width = {key: one["miss_2"].high - one["miss_2"].low for key, one in (("alone", pairs), ("shared", halves))}
    assert width["shared"] > 1.2 * width["alone"]  # two halves of one recording are no two recordings
    assert "40 clips" in in_words(found)["seconds to detection"]


def test_there_are_no_figures_of_other_tasks_nor_shares_of_no_events() -> None:
    assert figures({"label": np.zeros(2)}, Units.of([None, None])) == {}
    assert in_words({}) == {}
    nothing = {name: np.zeros(2) for name in Counts._fields} | {"hours": np.ones(2)}
    found = figures(nothing, Units.of([None, None]))
    assert math.isnan(found["miss_2"].value)
    assert found["alarms_2"].value == 0
