"""Say how sure a mean over few seeds is."""

from collections.abc import Sequence
from statistics import mean, stdev

from hopscotch.report.statistics import Interval

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 0.975 quantiles, 1 to 9 degrees of freedom


def student(means: Sequence[float]) -> Interval | None:
    """Mean over seeds, taken as drawn from a normal distribution; None with fewer than two."""
    if len(means) < 2:
        return None
    half = STUDENT[min(len(means) - 1, len(STUDENT)) - 1] * stdev(means) / len(means) ** 0.5
    return Interval(mean(means), mean(means) - half, mean(means) + half)
