"""Turn the rows of clips.csv into what a report of a run shows: pure functions, groups of clips with their intervals.

Shares of compute are sums over clips: sum of `macs` / sum of `dense_macs`. Intervals hold the true value 95 times of
100 if the test clips were drawn independently of each other: Wilson's for accuracy, and for compute that of a ratio of
sums, 1.96 sqrt(n var(macs - fraction dense_macs)) / sum of dense_macs.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from hopscotch.report.clip_table import ClipRow
from hopscotch.report.numbers import JUMPED_OVER, LANDED, Kinds

DEVIATIONS = NormalDist().inv_cdf(0.975)
NUM_BINS = 5


@dataclass(frozen=True)
class Group:
    """Some clips, and how right and how costly they were together."""

    name: str
    rows: tuple[ClipRow, ...]

    @property
    def accuracy(self) -> float:
        return sum(row.is_right for row in self.rows) / len(self.rows)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        return wilson(self.accuracy, len(self.rows))

    @property
    def compute(self) -> float:
        return sum(row.macs for row in self.rows) / sum(row.dense_macs for row in self.rows)

    @property
    def compute_interval(self) -> tuple[float, float]:
        """NaN for a single clip, of which nothing is known but itself."""
        macs = np.array([row.macs for row in self.rows], dtype=float)
        dense = np.array([row.dense_macs for row in self.rows], dtype=float)
        deviation = (macs - self.compute * dense).std(ddof=1) if len(macs) > 1 else math.nan
        half = float(DEVIATIONS * math.sqrt(len(macs)) * deviation / dense.sum())
        return self.compute - half, self.compute + half

    @property
    def macs(self) -> float:
        """Mean per clip."""
        return sum(row.macs for row in self.rows) / len(self.rows)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of a share that was counted, within [0, 1] also where all clips, or none, were right."""
    squared = DEVIATIONS**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = DEVIATIONS / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def by_class(rows: Sequence[ClipRow], classes: Sequence[str]) -> list[Group]:
    """In the order of `classes`, without those that no clip shows."""
    found: dict[str, list[ClipRow]] = {name: [] for name in classes}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return [Group(name, tuple(members)) for name, members in found.items() if members]


def by_duration(rows: Sequence[ClipRow]) -> list[Group]:
    return in_bins(rows, lambda row: row.seconds, lambda low, high: f"{low:.2f} to {high:.2f} s")


def by_loudness(rows: Sequence[ClipRow]) -> list[Group]:
    return in_bins(rows, lambda row: row.decibels, lambda low, high: f"{low:.0f} to {high:.0f} dB")


def in_bins(
    rows: Sequence[ClipRow], value: Callable[[ClipRow], float], words: Callable[[float, float], str]
) -> list[Group]:
    """At most five groups of rising value with nearly the same number of clips each; equal values stay together.

    `words` names a group by its smallest and largest value.
    """
    values = np.array([value(row) for row in rows])
    inner = np.arange(1, NUM_BINS) / NUM_BINS
    edges = np.unique(np.quantile(values, inner, method="inverted_cdf"))  # which needs no sums: silence is -inf
    bins = np.searchsorted(edges, values, side="left")
    groups = []
    for number in np.unique(bins):
        members = np.flatnonzero(bins == number).tolist()
        name = words(float(values[members].min()), float(values[members].max()))
        groups.append(Group(name, tuple(rows[member] for member in members)))
    return groups


def confusion(rows: Sequence[ClipRow], classes: Sequence[str]) -> Int[np.ndarray, "label prediction"]:
    places = {name: place for place, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for row in rows:
        counts[places[row.label], places[row.prediction]] += 1
    return counts


def confusions(rows: Sequence[ClipRow]) -> list[tuple[tuple[str, str], int]]:
    """((label, prediction), clips) of what was wrong, the most frequent first."""
    return Counter((row.label, row.prediction) for row in rows if not row.is_right).most_common()


class Route(NamedTuple):
    """Clips that ran the same layers with the same strides."""

    letters: str  # as in clips.csv
    strides: tuple[int, ...]
    group: Group


def routes_of(rows: Sequence[ClipRow]) -> list[Route]:
    """The most used first."""
    found: dict[tuple[str, tuple[int, ...]], list[ClipRow]] = {}
    for row in rows:
        found.setdefault((row.route, tuple(row.strides)), []).append(row)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [Route(letters, strides, Group("", tuple(members))) for (letters, strides), members in ordered]


def cells_of(rows: Sequence[ClipRow]) -> UInt8[np.ndarray, "clip depth"]:
    return np.stack([row.cells for row in rows])


def strides_of(rows: Sequence[ClipRow]) -> Int[np.ndarray, "clip depth"]:
    return np.array([row.strides for row in rows])


def kinds_of_rows(rows: Sequence[ClipRow]) -> Kinds:
    """What the clips give away: a stride above 1, a jump, a gate."""
    jumps = bool((cells_of(rows) != 0).any())
    return Kinds(
        strides=bool((strides_of(rows) > 1).any()),
        jumps=jumps,
        gates=any(not math.isnan(rate) for row in rows for rate in row.open_rate),
        decides=len(routes_of(rows)) > 1,
    )


@dataclass(frozen=True)
class Layers:
    """Shares of the clips, by layer."""

    ran: Float[np.ndarray, " depth"]
    landed: Float[np.ndarray, " depth"]
    strides: Float[np.ndarray, "depth stride"]  # column 0: did not attend
    open_rate: Float[np.ndarray, " depth"]  # mean over the clips that ran it; NaN without a gate


def layers_of(rows: Sequence[ClipRow]) -> Layers:
    cells, strides = cells_of(rows), strides_of(rows)
    rates = np.array([row.open_rate for row in rows])
    known = ~np.isnan(rates)
    with np.errstate(invalid="ignore"):  # no clip: NaN is the answer
        open_rate = np.where(known, rates, 0.0).sum(axis=0) / known.sum(axis=0)
    shares = np.stack([np.bincount(layer, minlength=strides.max() + 1) for layer in strides.T]) / len(rows)
    return Layers((cells != JUMPED_OVER).mean(axis=0), (cells == LANDED).mean(axis=0), shares, open_rate)


def by_cost(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """From the smallest share of the dense compute to the largest; of equal ones the cheaper clip first."""
    return sorted(rows, key=lambda row: (row.compute, row.macs))


def surely_wrong(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """The wrong ones, the surest first."""
    return sorted((row for row in rows if not row.is_right), key=lambda row: -row.confidence)


def route_in_words(letters: str) -> str:
    """Layers that ran, in order, with a jump marked where there was one: `0 1 ⤳ 4 5`."""
    words = {"x": "{}", ">": "⤳ {}"}
    return " ".join(words[letter].format(layer) for layer, letter in enumerate(letters) if letter in words)


def strides_in_words(strides: Sequence[int]) -> str:
    """Stride per layer, in order, a dot where the layer did not attend: `1 2 · 4`."""
    return " ".join(str(stride) if stride else "·" for stride in strides)
