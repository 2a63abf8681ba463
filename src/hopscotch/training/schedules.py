"""Move the learning rate over the optimizer steps of a training: up along a line, then as the class says."""

import math
from abc import abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Warmed(LambdaLR):
    """Let the rate rise along a line in a share `warmup` of `num_steps`, then follow `share`."""

    def __init__(self, optimizer: Optimizer, num_steps: int, warmup: float) -> None:
        num_warmup = max(1, round(warmup * num_steps))
        rest = max(1, num_steps - num_warmup)

        def rate(step: int) -> float:
            return (step + 1) / num_warmup if step < num_warmup else self.share(min(step - num_warmup, rest), rest)

        super().__init__(optimizer, rate)

    @abstractmethod
    def share(self, done: int, steps: int) -> float:
        """Return the rate after `done` of the `steps` that follow the warm-up, as a share of the peak."""


class Cosine(Warmed):
    """Fall to 0 as a cosine (Loshchilov and Hutter 2017)."""

    def share(self, done: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * done / steps))


class Linear(Warmed):
    """Fall to 0 along a line."""

    def share(self, done: int, steps: int) -> float:
        return 1 - done / steps


class Constant(Warmed):
    """Stay at the peak."""

    def share(self, done: int, steps: int) -> float:
        return 1.0
