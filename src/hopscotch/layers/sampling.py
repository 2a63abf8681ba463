"""Draw discrete decisions so that they can be trained: Gumbel noise, probability floors, straight-through gradients.

Functions that draw take the uniform numbers to draw by, or None to draw from torch's generator (layers/noise.py).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.layers.noise import Draws
from hopscotch.layers.together import Together

UNIFORM_MARGIN = 1e-6  # keeps -log(-log(u)) finite
PROBABILITY_FLOOR = 0.02  # of every choice under `reinforce`, so that no log-probability explodes
MOST_FLOORS = 0.5  # upper limit on the sum of all floors: above 25 choices each floor is smaller
COST_UNIT = 0.05  # loss per logit: a choice that costs this much is e times less likely


class Scheduled(nn.Module):
    """Serve as base of modules with a setting that follows the progress of training, such as a temperature."""

    def set_progress(self, progress: float) -> None:
        """Set what depends on the share of training done, 0 to 1."""
        raise NotImplementedError


class Decider(Draws):
    """Serve as base of what decides what to skip; while `is_held`, training skips nothing and teaches it nothing."""

    is_held = False  # follows the progress of training, never saved
    together: Together | None = None  # in a training of several processes


class Draw(NamedTuple):
    """Hold one choice per row of logits."""

    chosen: Int[Tensor, "*batch"]
    probabilities: Float[Tensor, "*batch choices"]  # before noise; floored under `reinforce`
    soft: Float[Tensor, "*batch choices"]  # with the noise of this draw: the straight-through gradient is theirs


def most_likely(logits: Float[Tensor, "*batch choices"]) -> Draw:
    probabilities = logits.softmax(dim=-1)
    return Draw(logits.argmax(dim=-1), probabilities, probabilities)


def held(logits: Float[Tensor, "*batch choices"]) -> Draw:
    """Choose what skips nothing, the first choice, for sure and without a gradient."""
    chosen = torch.zeros_like(logits[..., 0], dtype=torch.long)
    sure = nn.functional.one_hot(chosen, logits.shape[-1]).to(logits.dtype)
    return Draw(chosen, sure, sure)


def draw_gumbel(logits: Float[Tensor, "*batch choices"], temperature: float, uniform: Tensor | None = None) -> Draw:
    """Draw by Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017), by a number for each logit."""
    noise = gumbel_noise(logits) if uniform is None else gumbel_of(uniform)
    soft = ((logits + noise) / temperature).softmax(dim=-1)
    return Draw(soft.argmax(dim=-1), logits.softmax(dim=-1), soft)


def draw_floored(logits: Float[Tensor, "*batch choices"], uniform: Float[Tensor, "*batch"] | None = None) -> Draw:
    """Draw from the probabilities themselves, none of them below the floor, by a number for each row."""
    probabilities = floored(logits.softmax(dim=-1))
    if uniform is None:
        chosen = torch.multinomial(probabilities.detach().flatten(0, -2), 1).view(logits.shape[:-1])
    else:
        reached = probabilities.detach().cumsum(dim=-1)[..., :-1] <= uniform[..., None]
        chosen = reached.sum(dim=-1)
    return Draw(chosen, probabilities, probabilities)


def draw_of_every_cost(
    shape: tuple[int, int],
    choices: range,
    default: int,
    generator: torch.Generator | None = None,
    uniform: Float[Tensor, "batch numbers"] | None = None,
) -> Int[Tensor, "batch decisions"]:
    """Draw decisions at random; each clip first draws how often it takes the default, so that costs spread out.

    Of the numbers that are given a clip needs one, and two for each decision.
    """
    if uniform is not None:
        share, others, choice = uniform[:, : 1 + 2 * shape[1]].split([1, shape[1], shape[1]], dim=1)
        return torch.where(others < share, default, choices.start + (choice * len(choices)).long())
    share = torch.rand(shape[0], 1, generator=generator)
    drawn = torch.randint(choices.start, choices.stop, shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < share, default, drawn)


def drop_layer(by: Draws, x: Tensor, y: Tensor, drop: float, layer: int, depth: int) -> Tensor:
    """Drop what a layer makes of `x`, `y`, for clips at random (stochastic depth, Huang et al. 2016).

    The last layer drops it for a share `drop` of the clips, the first for none, those between for shares between. `by`
    draws.
    """
    chance = drop * layer / max(1, depth - 1)
    if chance == 0:
        return y
    uniform = by.uniform(1, first=layer)
    uniform = torch.rand(len(x), 1, device=x.device) if uniform is None else uniform
    kept = (uniform >= chance).view(-1, *[1] * (x.ndim - 1)).to(x.dtype) / (1 - chance)
    return x + kept * (y - x)


def entropy_of(probabilities: Float[Tensor, "*batch choices"]) -> Float[Tensor, "*batch"]:
    """Return the entropy, in nats."""
    return -(probabilities * probabilities.clamp(min=1e-9).log()).sum(dim=-1)


def floored(probabilities: Float[Tensor, "*batch choices"]) -> Float[Tensor, "*batch choices"]:
    """Mix with the uniform distribution, so that no probability is below the floor."""
    choices = probabilities.shape[-1]
    floor = min(PROBABILITY_FLOOR, MOST_FLOORS / choices)
    return (1 - floor * choices) * probabilities + floor


def gumbel_noise(like: Tensor) -> Tensor:
    return gumbel_of(torch.rand_like(like))


def gumbel_of(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(UNIFORM_MARGIN, 1 - UNIFORM_MARGIN).log()).log()


def straight_through(one_hot: Tensor, soft: Tensor) -> Tensor:
    """Return the value of `one_hot`, exactly, with the gradient of `soft`."""
    return one_hot + (soft - soft.detach())


def interpolate(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` in a straight line."""
    return start + (end - start) * progress
