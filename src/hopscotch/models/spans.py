"""Turn what a small net heard into the spans that a full model computes, and those into pieces: pure functions.

Time is counted in units, some frames each, which scores of both nets fit into. A span opens `before` units ahead of a
unit that was heard, and stays open `after` units behind it, so that spans that touch are one.

    open_u = max(heard_(u - after), ..., heard_(u + before)) > threshold

Only the results of a span's core count, which has `context` units of the span on both sides, as far as the recording
has them. A core longer than `longest` is cut, and every part has its context, too. A result depends on the units of its
piece alone, `longest` + 2 `context` at most.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CEILING_SECONDS = 10.0  # that a ceiling on the open share looks back over


class Piece(NamedTuple):
    """Name the units that are computed together, and those among them whose results count; ends are exclusive."""

    start: int
    end: int
    core_start: int
    core_end: int


def widened(scores: Float[Tensor, "batch unit"], before: int, after: int) -> Float[Tensor, "batch unit"]:
    """Give each unit the highest score within reach: of the `after` units before it to the `before` units behind it."""
    padded = F.pad(scores, (after, before), value=-torch.inf)
    return F.max_pool1d(padded[:, None], before + after + 1, stride=1)[:, 0]


def runs(is_open: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """List the spans of units that are open without a break."""
    start = None
    for unit, opened in enumerate([*is_open, False]):
        if opened and start is None:
            start = unit
        elif not opened and start is not None:
            yield start, unit
            start = None


def pieces(spans: Iterable[tuple[int, int]], num_units: int, *, context: int, longest: int) -> Iterator[Piece]:
    """Cut the spans of a recording of so many units. A span that is all context, after a ceiling, is its own core."""
    for start, end in spans:
        first = start if start == 0 else start + context
        last = end if end == num_units else end - context
        if first >= last:
            first, last = start, end
        for here in range(first, last, longest):
            core_end = min(here + longest, last)
            yield Piece(max(start, here - context), min(end, core_end + context), here, core_end)


class Ceiling:
    """Close what would exceed a share of the time, unit by unit; the state of a stream.

    Each unit earns `share` of a unit, each open one costs one, and no more is saved than `most` units. What was closed
    by the ceiling opens again once `least` units are saved.
    """

    def __init__(self, share: float, *, most: float, least: float) -> None:
        self.share, self.most, self.least = share, most, min(least, most)
        self.saved, self.is_open = most, False

    def allows(self, wanted: bool) -> bool:
        """Tell whether the next unit is open, given whether it should be."""
        self.saved = min(self.saved + self.share, self.most)
        self.is_open = wanted and self.saved >= (1.0 if self.is_open else self.least)
        self.saved -= self.is_open
        return self.is_open
