"""Draw discrete decisions so that they can be trained: Gumbel noise, probability floors, straight-through gradients."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

UNIFORM_MARGIN = 1e-6  # keeps -log(-log(u)) finite
PROBABILITY_FLOOR = 0.02  # of every choice under `reinforce`, so that no log-probability explodes
MOST_FLOORS = 0.5  # what all choices have of it together: of more than 25 each has less
COST_UNIT = 0.05  # of loss, to one logit: what costs so much is e times less likely


class Scheduled(nn.Module):
    """Base of modules with a setting that follows the progress of training, such as a temperature."""

    def set_progress(self, progress: float) -> None:
        """Set what depends on the share of training done, 0 to 1."""
        raise NotImplementedError


def floored(probabilities: Float[Tensor, "... choices"]) -> Float[Tensor, "... choices"]:
    """The same, no choice below the floor, and still summing to 1."""
    choices = probabilities.shape[-1]
    floor = min(PROBABILITY_FLOOR, MOST_FLOORS / choices)
    return (1 - floor * choices) * probabilities + floor


def gumbel_noise(like: Tensor) -> Tensor:
    uniform = torch.rand_like(like).clamp(UNIFORM_MARGIN, 1 - UNIFORM_MARGIN)
    return -(-uniform.log()).log()


def straight_through(one_hot: Tensor, soft: Tensor) -> Tensor:
    """The value of `one_hot`, exactly, with the gradient of `soft`."""
    return one_hot + (soft - soft.detach())


def interpolate(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` in a straight line."""
    return start + (end - start) * progress


def check_temperatures(start: float, end: float) -> None:
    """Refuse temperatures that no softmax can have."""
    if min(start, end) <= 0:
        raise ValueError(f"temperature_start and temperature_end must be above 0, got {start} and {end}.")
