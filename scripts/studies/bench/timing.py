"""Time several ways of doing the same thing in turn, so that a slow minute of the machine falls on all of them.

    ratio = median(times of a) / median(times of b),   interval: the same over rounds drawn again with replacement

Source of the interval: the percentile bootstrap (Efron 1979), over rounds, so that what disturbs a round disturbs both.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

SHORTEST = 0.2  # seconds of one timing: shorter calls are repeated within it
DRAWS = 2000  # of the bootstrap
LEVEL = 0.90  # of the interval


class Ratio(NamedTuple):
    value: float
    low: float
    high: float  # 90 % interval

    def times(self, factor: float) -> "Ratio":
        return Ratio(self.value * factor, self.low * factor, self.high * factor)

    def inverse(self) -> "Ratio":
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)


class Times(NamedTuple):
    """Hold the seconds of every case in every round."""

    names: list[str]
    seconds: Tensor  # float64, rounds cases

    def median(self, name: str) -> float:
        return float(self._of(name).median())

    def ratio(self, name: str, to: str) -> Ratio:
        """Return the ratio of the medians of two cases, with its interval."""
        a, b = self._of(name), self._of(to)
        drawn = _drawn(len(a))
        low, high = _interval(a[drawn].median(dim=1).values / b[drawn].median(dim=1).values)
        return Ratio(float(a.median() / b.median()), low, high)

    def difference(self, name: str, to: str) -> Ratio:
        """Return the median of the seconds that a case takes longer than another of its round, with its interval."""
        beyond = self._of(name) - self._of(to)
        low, high = _interval(beyond[_drawn(len(beyond))].median(dim=1).values)
        return Ratio(float(beyond.median()), low, high)

    def _of(self, name: str) -> Tensor:
        return self.seconds[:, self.names.index(name)]


def _drawn(rounds: int) -> Tensor:
    return torch.randint(rounds, (DRAWS, rounds), generator=torch.Generator().manual_seed(0))


def _interval(values: Tensor) -> list[float]:
    return values.quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()


def interleave(cases: Mapping[str, Callable[[], object]], *, rounds: int, device: str = "cpu") -> Times:
    """Run the cases in turn, `rounds` times, each round starting with another case, after one round to warm up."""
    names = list(cases)
    repeats = {name: _repeats(call, device) for name, call in cases.items()}
    seconds = torch.zeros(rounds, len(names), dtype=torch.float64)
    for i in range(rounds):
        for k in range(len(names)):
            case = (i + k) % len(names)
            name = names[case]
            seconds[i, case] = _seconds(cases[name], repeats[name], device)
    return Times(names, seconds)


def _repeats(call: Callable[[], object], device: str) -> int:
    _seconds(call, 1, device)
    return max(1, round(SHORTEST / _seconds(call, 1, device)))


def _seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Return the mean seconds of a call over `repeats`."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats
