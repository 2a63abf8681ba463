"""Move the learning rate over the optimizer steps of a training: up along a line, then as the class says."""

import math
from abc import abstractmethod
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

CLOCK_STEPS = 1000  # parts of a training that a clock ends


class Warmed(LambdaLR):
    """Let the rate rise along a line in a share `warmup` of `num_steps`, then follow `share`.

    Where the number of steps is infinite a clock ends the training, and `follow` says how much of it has passed.
    """

    def __init__(self, optimizer: Optimizer, num_steps: float, warmup: float) -> None:
        self.is_clocked = math.isinf(num_steps)
        num_steps = CLOCK_STEPS if self.is_clocked else int(num_steps)
        num_warmup = max(1, round(warmup * num_steps))
        rest = max(1, num_steps - num_warmup)

        def rate(step: int) -> float:
            return (step + 1) / num_warmup if step < num_warmup else self.share(min(step - num_warmup, rest), rest)

        super().__init__(optimizer, rate)

    def follow(self, progress: Callable[[], float]) -> None:
        """Take the share of the training that is done for the number of steps."""
        self.lr_lambdas = [
            lambda _, rate=rate: rate(round(CLOCK_STEPS * progress())) for rate in self.lr_lambdas
        ]  # which no checkpoint has

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
