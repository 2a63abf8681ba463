"""Say what is heard when in a recording: its events, and those of a part of it."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

NONE = -1  # fills the rows of a batch, and is the label of a clip that has events


class Event(NamedTuple):
    """A sound of a class, from one sample of its recording to another."""

    start: int  # samples at the data's rate
    end: int  # the first sample after it
    label: int  # place among the classes


Events = tuple[Event, ...]


def part_of(events: Events, start: int, num_samples: int) -> Events:
    """Return the events of the part from sample `start` on: counted from there, and cut at its ends."""
    moved = (
        Event(max(one.start - start, 0), min(one.end - start, num_samples), one.label)
        for one in events
        if one.start < start + num_samples and one.end > start
    )
    return tuple(moved)


def played(events: Events, speed: Fraction, before: int, num_samples: int) -> Events:
    """Return the events of a recording that is played at `speed` after `before` samples, `num_samples` long in all."""
    faster = ((round(one.start / speed) + before, round(one.end / speed) + before, one.label) for one in events)
    return part_of(tuple(Event(start, max(end, start + 1), label) for start, end, label in faster), 0, num_samples)


def covered(events: Events) -> int:
    """Count the samples at which something is heard."""
    total, until = 0, 0
    for one in sorted(events):
        total += max(0, one.end - max(one.start, until))
        until = max(until, one.end)
    return total


def rows_of(recordings: Sequence[Events]) -> Int[Tensor, "batch most 3"]:
    """Make rows (start, end, class) of each recording's events, filled with -1 to the most that one has, at least 1."""
    rows = [torch.tensor([*events, *([] if events else [(NONE,) * 3])]) for events in recordings]
    return pad_sequence(rows, batch_first=True, padding_value=NONE)


def events_in(rows: Int[Tensor, "most 3"]) -> Events:
    """Read the events of one recording out of its rows."""
    return tuple(Event(*row) for row in rows.tolist() if row[2] != NONE)
