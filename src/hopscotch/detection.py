"""Find events in scores over time, and judge them as keyword spotters and sound-event people do, on plain arrays.

Scores are probabilities of the classes, background not among them: a row for every `step` seconds.

    found       A class is heard while its score is above half of its threshold, pauses of less than 0.3 s included; it
                is an event if it comes above the threshold at all. An event raises one alarm: at the end of the first
                score above the threshold. Nothing later is needed for that, so that a stream can say the same.
    hit         An alarm falls into an event of its class, or less than 0.5 s from it. Each has one partner at most: a
                second alarm in one event is a false one, for whatever listens would act twice.
    misses      Share of the events without a partner, at thresholds that gave N false alarms an hour, of all classes
                together, on the validation recordings.
    event F1    Both ends within 0.5 s, or the later one within half of the event's length; one to one.
    segment F1  Classes that are heard in each second.

The last two are those of sed_eval (Mesaros, Heittola and Virtanen 2016, doi.org/10.3390/app6060162), counted over all
classes. All figures are ratios of sums over recordings, and their intervals come from drawing recordings.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hopscotch.intervals import Interval, Units, ratio_bootstrap

HYSTERESIS = 0.5  # of the threshold
MERGED = 0.3  # seconds: a pause within a word is shorter
COLLAR = 0.5  # seconds
LENGTH_SHARE = 0.5  # of an event's length, by which its end may be wrong
SEGMENT = 1.0  # seconds
RATES = (0.5, 2.0)  # false alarms an hour: the operating points
NEVER = 1.0  # threshold: no score is above it
# Candidates, evenly spaced in log odds from 0.02 to 0.999999.
THRESHOLDS = np.append(1 / (1 + np.exp(-np.linspace(-4.0, 14.0, 91))), NEVER)
FREE = 1e-9  # false alarms, so that a gain without any comes first
DIGITS = 6  # decimals of seconds: a multiple of the step that is a whole second is one

Scores = Float[np.ndarray, "score classes"]
Spans = Float[np.ndarray, "event 3"]  # start and end in seconds, class
FoundSpans = Float[np.ndarray, "found 3"]  # the same


class Recording(NamedTuple):
    """Hold what was scored in a recording, and what is in it."""

    scores: Scores
    events: Spans
    step: float  # seconds from score to score
    seconds: float


class Found(NamedTuple):
    """Hold the events that were found, class by class in the order of time."""

    spans: FoundSpans
    alarms: Float[np.ndarray, " found"]  # seconds: when the threshold had been crossed
    confidence: Float[np.ndarray, " found"]  # largest score


class Counts(NamedTuple):
    """Hold what became of a recording's events, or of the events of each of many.

    Figures of 2 false alarms an hour but for those that end with `_05`.
    """

    events: Float[np.ndarray, "*recording"]
    hours: Float[np.ndarray, "*recording"]
    missed_2: Float[np.ndarray, "*recording"]
    false_2: Float[np.ndarray, "*recording"]
    missed_05: Float[np.ndarray, "*recording"]
    false_05: Float[np.ndarray, "*recording"]
    delay: Float[np.ndarray, "*recording"]  # seconds from start to alarm, summed over the hits
    event_said: Float[np.ndarray, "*recording"]
    event_right: Float[np.ndarray, "*recording"]  # with both ends
    segments: Float[np.ndarray, "*recording"]  # pairs of second and class
    segment_said: Float[np.ndarray, "*recording"]
    segment_right: Float[np.ndarray, "*recording"]


Ratio = Callable[[Counts], tuple[Float[np.ndarray, "*recording"], Float[np.ndarray, "*recording"]]]
METRICS: dict[str, Ratio] = {  # what a task logs
    "miss_2": lambda c: (c.missed_2, c.events),
    "miss_05": lambda c: (c.missed_05, c.events),
    "event_f1": lambda c: (2 * c.event_right, c.events + c.event_said),
    "segment_f1": lambda c: (2 * c.segment_right, c.segments + c.segment_said),
}
FIGURES = METRICS | {
    "alarms_2": lambda c: (c.false_2, c.hours),  # an hour
    "alarms_05": lambda c: (c.false_05, c.hours),
    "delay": lambda c: (c.delay, c.events - c.missed_2),  # seconds
}


# From scores to events.


def find(scores: Scores, thresholds: Float[np.ndarray, " classes"], step: float) -> Found:
    """Find the events of all classes: one line of scores, class after class with silence between them."""
    silence = np.zeros((int(np.ceil(MERGED / step)) + 1, len(thresholds)), dtype=scores.dtype)
    rows = np.concatenate([scores, silence]).T  # class score
    line, width = rows.ravel(), rows.shape[1]
    heard = np.concatenate([[False], (rows > HYSTERESIS * thresholds[:, None]).ravel()])  # it ends with silence
    starts, ends = np.flatnonzero(heard[1:] != heard[:-1]).reshape(-1, 2).T
    is_apart = (starts[1:] - ends[:-1]) * step > MERGED - FREE
    starts = starts[np.append(True, is_apart)[: len(starts)]]
    ends = ends[np.append(is_apart, True)[: len(ends)]]
    above = np.flatnonzero(rows > thresholds[:, None])
    first = np.searchsorted(above, starts)
    is_sure = first < np.searchsorted(above, ends)
    starts, ends, first = starts[is_sure], ends[is_sure], above[first[is_sure]]
    edges = np.stack([starts, ends], axis=1).ravel()
    peaks = np.maximum.reduceat(line, edges)[::2] if len(edges) else line[:0]
    labels = starts // width
    spans = np.stack([(starts - labels * width) * step, (ends - labels * width) * step, labels], axis=1)
    return Found(spans.round(DIGITS), ((first - labels * width + 1) * step).round(DIGITS), peaks)


# What became of events.


def partners(fits: Bool[np.ndarray, "event found"]) -> dict[int, int]:
    """Pair as many events as can be with one that was found each, by augmenting paths (Berge 1957)."""
    mates: dict[int, int] = {}  # event -> found
    taken: dict[int, int] = {}  # found -> event
    choices = [np.flatnonzero(row).tolist() for row in fits]
    for event in range(len(choices)):
        origin: dict[int, int] = {}  # found -> the event that it was reached from
        waiting, free = deque([event]), None
        while waiting and free is None:
            asking = waiting.popleft()
            for one in choices[asking]:
                if one in origin:
                    continue
                origin[one] = asking
                if one not in taken:
                    free = one
                    break
                waiting.append(taken[one])
        while free is not None:  # each event on the path takes the one that it asked for
            owner = origin[free]
            taken[free], mates[owner], free = owner, free, mates.get(owner)
    return mates


def is_hit(events: Spans, found: Found) -> Bool[np.ndarray, "event found"]:
    """Tell whose alarm falls into an event of its class, or less than a collar from it."""
    is_near = (found.alarms > events[:, :1] - COLLAR) & (found.alarms < events[:, 1:2] + COLLAR)
    return is_near & (found.spans[:, 2] == events[:, 2:])


def is_right(events: Spans, found: FoundSpans) -> Bool[np.ndarray, "event found"]:
    """Tell what has both ends of an event of its class, within the collars."""
    onset, offset = (np.abs(found[:, end] - events[:, end : end + 1]).round(DIGITS) for end in (0, 1))
    lengths = events[:, 1:2] - events[:, :1]
    fits = (onset <= COLLAR) & (offset <= np.maximum(COLLAR, LENGTH_SHARE * lengths).round(DIGITS))
    return fits & (found[:, 2] == events[:, 2:])


def segments(
    spans: Float[np.ndarray, "span 3"], seconds: float, num_classes: int
) -> Bool[np.ndarray, "segment classes"]:
    """Tell for each second that has begun which classes are heard in it."""
    heard = np.zeros((int(np.ceil(round(seconds / SEGMENT, DIGITS))), num_classes), dtype=bool)
    for start, end, label in spans:
        heard[int(start / SEGMENT) : int(np.ceil(end / SEGMENT)), int(label)] = True
    return heard


def count(recording: Recording, thresholds: Float[np.ndarray, "rate classes"]) -> Counts:
    """Count what became of a recording's events; `thresholds` are those of `RATES`."""
    events, scores = recording.events, recording.scores
    seldom = judge(find(scores, thresholds[0], recording.step), events)
    found = find(scores, thresholds[1], recording.step)
    often = judge(found, events)
    true, said = (segments(spans, recording.seconds, scores.shape[1]) for spans in (events, found.spans))
    told = (
        *(len(events), recording.seconds / 3600, often.missed, often.false, seldom.missed, seldom.false),
        sum(found.alarms[one] - events[event, 0] for event, one in often.mates.items()),
        *(len(found.spans), len(partners(is_right(events, found.spans)))),
        *(true.sum(), said.sum(), (true & said).sum()),
    )
    return Counts(*(np.asarray(value, dtype=np.float64) for value in told))


class Judged(NamedTuple):
    """Hold what became of events, and of what was found."""

    missed: int
    false: int
    mates: dict[int, int]  # event -> what was found of it


def judge(found: Found, events: Spans) -> Judged:
    """Count misses and false alarms, and say who is whose partner."""
    mates = partners(is_hit(events, found))
    return Judged(len(events) - len(mates), len(found.alarms) - len(mates), mates)


# Thresholds.


class Errors(NamedTuple):
    """Hold misses and false alarms by class and threshold, of `THRESHOLDS`."""

    missed: Int[np.ndarray, "classes threshold"]
    false: Int[np.ndarray, "classes threshold"]
    num_events: int
    hours: float

    @property
    def curve(self) -> tuple[Float[np.ndarray, " threshold"], Float[np.ndarray, " threshold"]]:
        """Return false alarms an hour and share of misses, where all classes share their threshold (DET)."""
        return self.false.sum(axis=0) / self.hours, self.missed.sum(axis=0) / max(self.num_events, 1)


def errors(recordings: Sequence[Recording]) -> Errors:
    """Try all thresholds on recordings of one step."""
    whole, num_classes = _joined(recordings), recordings[0].scores.shape[1]
    missed, false = np.zeros((2, num_classes, len(THRESHOLDS)), dtype=np.int64)
    classes = np.arange(num_classes)
    events = [whole.events[whole.events[:, 2] == label] for label in classes]
    for place, threshold in enumerate(THRESHOLDS):
        found = find(whole.scores, np.full(num_classes, threshold), whole.step)
        ends = np.searchsorted(found.spans[:, 2], classes[1:])
        parts = zip(*(np.split(column, ends) for column in found), strict=True)
        for label, part in enumerate(parts):
            missed[label, place], false[label, place], _ = judge(Found(*part), events[label])
    return Errors(missed, false, len(whole.events), whole.seconds / 3600)


def _joined(recordings: Sequence[Recording]) -> Recording:
    """Join recordings, with silence between them that parts their events; `seconds` leave it out."""
    step = recordings[0].step
    silence = np.zeros((int(np.ceil((MERGED + 2 * COLLAR) / step)) + 1, recordings[0].scores.shape[1]))
    scores, events, begin = [], [], 0
    for one in recordings:
        room = np.zeros((max(0, int(np.ceil(one.seconds / step)) - len(one.scores)), silence.shape[1]))
        scores += [one.scores, room, silence]  # room: the last event may end after the last score
        events.append(one.events + np.array([begin * step, begin * step, 0]))
        begin += len(one.scores) + len(room) + len(silence)
    return Recording(np.concatenate(scores), np.concatenate(events), step, sum(one.seconds for one in recordings))


def choose(found: Errors, rate: float) -> Float[np.ndarray, " classes"]:
    """Choose thresholds that come to at most `rate` false alarms an hour of all classes together.

    From `NEVER` on, the threshold of that class is lowered that finds most events for each false alarm more, while any
    finds more. Where a class has the same errors at neighbouring thresholds, the middle one is taken.
    """
    missed, false = found.missed, found.false
    rows, at = np.arange(len(missed)), np.full(len(missed), len(THRESHOLDS) - 1)
    while True:
        gain = missed[rows, at][:, None] - missed
        price = false - false[rows, at][:, None]
        is_open = (gain > 0) & (price + false[rows, at].sum() <= rate * found.hours + FREE)
        if not is_open.any():
            break
        label, place = np.unravel_index(np.where(is_open, gain / np.maximum(price, FREE), 0).argmax(), gain.shape)
        at[label] = place
    return np.array([THRESHOLDS[_middle(missed[label], false[label], int(place))] for label, place in enumerate(at)])


def _middle(missed: Int[np.ndarray, " threshold"], false: Int[np.ndarray, " threshold"], place: int) -> int:
    """Return the middle of the neighbours of a threshold that err as it does; `NEVER` stays."""
    if place == len(THRESHOLDS) - 1:
        return place
    other = np.flatnonzero((missed != missed[place]) | (false != false[place]))
    low, high = other[other < place].max(initial=-1) + 1, other[other > place].min(initial=len(missed)) - 1
    return int(low + high) // 2


# Figures.


def figures(columns: Mapping[str, np.ndarray], units: Units) -> dict[str, Interval]:
    """Return every figure with its interval, of columns (recording); none where there are no such columns of counts."""
    if not set(Counts._fields) <= columns.keys():
        return {}
    counts = Counts(**{name: np.asarray(columns[name], dtype=np.float64) for name in Counts._fields})
    return {name: ratio_bootstrap(*ratio(counts), units) for name, ratio in FIGURES.items()}


def in_words(found: Mapping[str, Interval]) -> dict[str, str]:
    """Say the figures in a line each."""
    if not found:
        return {}
    told = {name: f"{one.value:.4f} ({one.low:.3f} to {one.high:.3f})" for name, one in found.items()}
    return {
        "misses at 0.5 an hour": f"{told['miss_05']}, with {told['alarms_05']} false alarms an hour",
        "misses at 2 an hour": f"{told['miss_2']}, with {told['alarms_2']} false alarms an hour",
        "event F1": f"{told['event_f1']}, of segments {told['segment_f1']}",
        "seconds to detection": f"{told['delay']}; 95 % over {found['miss_2'].over}",
    }
