"""Train policies by what they lose, in addition to the gradient that reaches them through the model.

    reinforce   mean( log p(route) * (loss - baseline) ),  baseline: the loss of a second draw, without gradient
    all         - entropy weight * mean entropy, fading out over training: it prevents an early collapse

The trace says which applies: only `reinforce` leaves a gradient in `log_prob`. `gain` learns apart (training/gains.py).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.types import SkipTrace


class PolicyLoss:
    """Compute the policy terms of a step's loss."""

    def __init__(self, entropy_weight: float) -> None:
        self.entropy_weight = entropy_weight

    def __call__(
        self,
        trace: SkipTrace,
        losses: Float[Tensor, " batch"],
        second_opinion: Callable[[], Float[Tensor, " batch"]],
        progress: float,
    ) -> Tensor | float:
        """Sum the terms of the task losses of clips; `second_opinion` gives these losses for other sampled routes."""
        loss: Tensor | float = 0.0
        if trace.log_prob.requires_grad:
            with torch.no_grad():
                advantage = losses - second_opinion()
            loss = loss + (trace.log_prob * advantage).mean()
        if trace.entropy.requires_grad:
            loss = loss - self.entropy_weight * (1 - progress) * trace.entropy.mean()
        return loss
