"""Ranks, groups of equal size and counts: statistics of the reports, on plain arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NUM_BINS = 15  # of confidence, equally wide


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
