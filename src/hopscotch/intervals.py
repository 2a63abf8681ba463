"""Say how sure a figure is: intervals that hold the true value 95 times of 100, on plain arrays.

They do if what they are over was drawn at random: clips or, where clips share a speaker or recording and so are right
or wrong together, whole groups of them (`Units`). Wilson's is for a share that was counted, the bootstrap for a mean;
there is one of a ratio of sums, and Student's for a mean over seeds.
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
MAX_DRAWN = 2**20  # values that are drawn at once: 16 MiB
FEW = 5  # groups: an interval over fewer says little


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval, and how many of what that is over."""

    value: float
    low: float
    high: float
    over: str = ""

    @property
    def errors(self) -> float:
        """The value in standard errors."""
        error = (self.high - self.low) / (2 * DEVIATIONS)
        return self.value / error if error > 0 else math.copysign(math.inf, self.value) if self.value else 0.0

    def __str__(self) -> str:
        """Write all three, with signs: differences are shown so."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


class Units(NamedTuple):
    """What was drawn at random: clips, or groups of them."""

    places: Int[np.ndarray, " clip"]  # the number of each clip's unit
    words: str  # how many of what, such as 24 speakers

    @classmethod
    def of(cls, groups: Sequence[str | None]) -> "Units":
        """Take for each clip what it shares with others, such as `speaker: ann`; None is a clip on its own."""
        kinds, clips = {group and group.partition(": ")[0] for group in groups}, many(len(groups), "clip")
        kind = kinds.pop() if len(kinds) == 1 else "group"
        if len({*groups}) < 2:
            return cls(np.arange(len(groups)), f"{clips} of one {kind}" if kind else clips)
        names = [f"{place}" if group is None else f": {group}" for place, group in enumerate(groups)]
        found, places = np.unique(names, return_inverse=True)
        return cls(places, many(len(found), kind or "group") + ", too few to be sure" * (len(found) < FEW))

    def totals(self, values: Sequence[float] | Float[np.ndarray, " clip"]) -> Float[np.ndarray, " unit"]:
        """Sum the values of the clips of each unit."""
        return np.bincount(self.places, np.asarray(values, dtype=np.float64))


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def share_interval(right: Sequence[bool] | Bool[np.ndarray, " clip"], units: Units) -> Interval:
    """Interval of the share of clips that are right: Wilson's over clips; over groups the bootstrap, never narrower."""
    share, count = float(np.mean(right)), len(right)
    low, high = wilson(share, count)
    if len(np.unique(units.places)) < count:
        drawn = bootstrap(np.asarray(right, dtype=np.float64), units)
        low, high = min(low, drawn.low), max(high, drawn.high)
    return Interval(share, low, high, units.words)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of a share that was counted, within [0, 1] also where all clips, or none, were right."""
    squared = DEVIATIONS**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = DEVIATIONS / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(
    parts: Sequence[float] | Float[np.ndarray, " pair"], wholes: Sequence[float] | Float[np.ndarray, " pair"]
) -> tuple[float, float]:
    """Interval of a ratio of sums, 1.96 sqrt(n var(part - ratio whole)) / sum of wholes; NaN for a single pair."""
    if len(parts) < 2:
        return math.nan, math.nan
    ratio, whole = float(np.sum(parts) / np.sum(wholes)), np.array(wholes, dtype=float)
    deviation = (np.array(parts, dtype=float) - ratio * whole).std(ddof=1)
    half = float(DEVIATIONS * math.sqrt(len(parts)) * deviation / whole.sum())
    return ratio - half, ratio + half


def student(means: Sequence[float]) -> Interval | None:
    """Mean over seeds, taken as drawn from a normal distribution; None with fewer than two."""
    if len(means) < 2:
        return None
    half = STUDENT[min(len(means) - 1, len(STUDENT)) - 1] * stdev(means) / len(means) ** 0.5
    return Interval(mean(means), mean(means) - half, mean(means) + half)


def bootstrap(values: Float[np.ndarray, " clip"], units: Units) -> Interval:
    """Mean over clips, with the interval that comes from drawing the units again and again."""
    drawn = ratio_bootstrap(values, np.ones(len(values)), units)
    return Interval(float(values.mean()), drawn.low, drawn.high, units.words)


def ratio_bootstrap(parts: Float[np.ndarray, " clip"], wholes: Float[np.ndarray, " clip"], units: Units) -> Interval:
    """Ratio of sums over clips, with the interval that comes from drawing the units; NaN where the wholes are 0."""
    generator, sums, counts = np.random.default_rng(0), units.totals(parts), units.totals(wholes)
    rows = max(1, MAX_DRAWN // len(sums))
    sizes = [(min(rows, NUM_DRAWS - done), len(sums)) for done in range(0, NUM_DRAWS, rows)]
    places = (generator.integers(len(sums), size=size) for size in sizes)
    drawn = np.concatenate([np.stack([sums[some].sum(axis=1), counts[some].sum(axis=1)]) for some in places], axis=1)
    ratios = drawn[0, drawn[1] > 0] / drawn[1, drawn[1] > 0]
    if len(ratios) == 0:
        return Interval(math.nan, math.nan, math.nan, units.words)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(float(parts.sum() / wholes.sum()), float(low), float(high), units.words)
