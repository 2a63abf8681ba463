"""Intervals, ranks, groups of equal size and counts: all statistics of the reports, on plain arrays.

Intervals hold the true value 95 times of 100: Wilson's for a share that was counted and that of a ratio of sums, both
if clips were drawn independently of each other; the bootstrap for a mean over clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 0.975 quantiles, 1 to 9 degrees of freedom
DEVIATIONS = NormalDist().inv_cdf(0.975)
NUM_DRAWS = 2000  # of the bootstrap
NUM_BINS = 15  # of confidence, equally wide
MAX_DRAWN = 2**20  # values that are drawn at once: 16 MiB


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write all three, with signs: differences are shown so."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of a share that was counted, within [0, 1] also where all clips, or none, were right."""
    squared = DEVIATIONS**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = DEVIATIONS / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float]:
    """Interval of a ratio of sums, 1.96 sqrt(n var(part - ratio whole)) / sum of wholes; NaN for a single pair."""
    if len(parts) < 2:
        return math.nan, math.nan
    ratio, whole = sum(parts) / sum(wholes), np.array(wholes, dtype=float)
    deviation = (np.array(parts, dtype=float) - ratio * whole).std(ddof=1)
    half = float(DEVIATIONS * math.sqrt(len(parts)) * deviation / whole.sum())
    return ratio - half, ratio + half


def student(means: Sequence[float]) -> Interval | None:
    """Mean over seeds, taken as drawn from a normal distribution; None with fewer than two."""
    if len(means) < 2:
        return None
    half = STUDENT[min(len(means) - 1, len(STUDENT)) - 1] * stdev(means) / len(means) ** 0.5
    return Interval(mean(means), mean(means) - half, mean(means) + half)


def bootstrap(values: Float[np.ndarray, " clip"]) -> Interval:
    """Mean over clips, with the interval that comes from drawing the clips again and again."""
    generator = np.random.default_rng(0)
    rows = max(1, MAX_DRAWN // len(values))
    sizes = [(min(rows, NUM_DRAWS - done), len(values)) for done in range(0, NUM_DRAWS, rows)]
    means = [values[generator.integers(len(values), size=size)].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def quantile_groups(values: Sequence[float], num_groups: int) -> list[list[int]]:
    """Places of the values in at most so many groups, rising and of nearly equal size; equal values stay together."""
    found = np.array(values)
    inner = np.arange(1, num_groups) / num_groups
    edges = np.unique(np.quantile(found, inner, method="inverted_cdf"))  # which needs no sums: silence is -inf
    groups = np.searchsorted(edges, found, side="left")
    return [np.flatnonzero(groups == group).tolist() for group in np.unique(groups)]


def ranks(values: Float[np.ndarray, " clip"]) -> Float[np.ndarray, " clip"]:
    """Rank every value among all, from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def partial_rank_correlation(
    x: Float[np.ndarray, " clip"], y: Float[np.ndarray, " clip"], given: Float[np.ndarray, " clip"]
) -> float:
    """Spearman's correlation of x and y with what both owe to a third quantity taken out; NaN where one is constant.

    r = (r_xy - r_xg r_yg) / sqrt((1 - r_xg^2) (1 - r_yg^2)), each r a correlation of ranks. Where all clips are equally
    long the third quantity explains nothing and r = r_xy.
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    if np.ptp(given) == 0:
        return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
    (_, xy, xg), (_, _, yg), _ = np.corrcoef([ranks(x), ranks(y), ranks(given)])
    unexplained = (1 - xg**2) * (1 - yg**2)
    # Where length alone decides, 1 - r^2 is zero up to rounding and the quotient would be noise.
    return float("nan") if unexplained < 1e-9 else float((xy - xg * yg) / np.sqrt(unexplained))


def confusion(
    labels: Int[np.ndarray, " clip"], predictions: Int[np.ndarray, " clip"], num_classes: int
) -> Int[np.ndarray, "label prediction"]:
    """Count how many clips of each class were taken for each class."""
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


class Reliability(NamedTuple):
    """What became of clips by confidence, in the bins that hold any."""

    places: list[int]  # of the bins, from 0 to NUM_BINS - 1
    counts: list[int]
    accuracy: list[float]
    error: float  # expected calibration error: mean over clips of |confidence - accuracy| of their bin


def reliability(confidence: Float[np.ndarray, " clip"], is_right: Bool[np.ndarray, " clip"]) -> Reliability:
    """Compare confidence and accuracy in bins (Guo et al., 2017)."""
    place = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts, right, sure = (
        np.bincount(place, weights=weights, minlength=NUM_BINS) for weights in (None, is_right, confidence)
    )
    there = counts > 0
    error = float(np.abs(right - sure).sum() / len(confidence))
    places = np.flatnonzero(there).tolist()
    return Reliability(places, counts[there].astype(int).tolist(), (right[there] / counts[there]).tolist(), error)
