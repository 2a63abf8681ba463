"""Say how sure a mean is: by drawing clips again (bootstrap), or over seeds (Student)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from jaxtyping import Float

NUM_DRAWS = 2000  # of the bootstrap
MAX_DRAWN = 2**20  # values that are drawn at once: 16 MiB
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 0.975 quantiles, 1 to 9 degrees of freedom


@dataclass(frozen=True)
class Interval:
    """Hold a mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def student(means: Sequence[float]) -> Interval | None:
    """Take the means of seeds as drawn from a normal distribution; None with fewer than two."""
    if len(means) < 2:
        return None
    half = STUDENT[min(len(means) - 1, len(STUDENT)) - 1] * stdev(means) / len(means) ** 0.5
    return Interval(mean(means), mean(means) - half, mean(means) + half)


def bootstrap(values: Float[np.ndarray, " clip"]) -> Interval:
    """Draw the values again with replacement; always with the same seed."""
    generator = np.random.default_rng(0)
    rows = max(1, MAX_DRAWN // len(values))
    sizes = [(min(rows, NUM_DRAWS - done), len(values)) for done in range(0, NUM_DRAWS, rows)]
    means = [values[generator.integers(len(values), size=size)].mean(axis=1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
