"""What the policies learn by, beside the gradient that reaches them through the model.

    reinforce   mean( log p(route) * (loss - baseline) ),  baseline: the loss of a second draw, without gradient
    gain        mean( huber(predicted cost of the decisions, loss - loss of the dense run, without gradient) )
    all         - entropy weight * mean entropy, fading out over training: a guard against early collapse

The trace says which applies: only `reinforce` leaves a gradient in `log_prob`, only `gain` predicts a cost. Its second
run is the same clip's: what clips differ in otherwise is far more than what decisions cost, and drops out.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hopscotch.types import SkipTrace, all_dense


class PolicyLoss:
    def __init__(self, entropy_weight: float) -> None:
        self.entropy_weight = entropy_weight

    def __call__(
        self,
        trace: SkipTrace,
        losses: Float[Tensor, " batch"],
        second_opinion: Callable[[SkipTrace | None], Float[Tensor, " batch"]],
        progress: float,
    ) -> Tensor | float:
        """`losses` are the clips' task losses; `second_opinion` gives them for other decisions, drawn anew or given."""
        loss: Tensor | float = 0.0
        if trace.predicted_cost is not None:
            with torch.no_grad():
                cost = losses - second_opinion(all_dense(trace))
            loss = loss + F.smooth_l1_loss(trace.predicted_cost, cost)
        if trace.log_prob.requires_grad:
            with torch.no_grad():
                advantage = losses - second_opinion(None)
            loss = loss + (trace.log_prob * advantage).mean()
        if trace.entropy.requires_grad:
            loss = loss - self.entropy_weight * (1 - progress) * trace.entropy.mean()
        return loss
