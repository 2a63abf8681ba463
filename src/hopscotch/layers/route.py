"""Follow the clips of a batch through a jump block: which clip visits which layer, and how likely."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor, nn

from hopscotch.layers.policy import JumpPolicy, landing
from hopscotch.layers.sampling import Draw, draw_floored, draw_gumbel, draw_of_every_cost, entropy_of, held, most_likely


class Route:
    """Decide the routes of a batch, layer by layer or all at once.

    Probabilities stay on the device; the actions are read once per `decide`, and the host follows the clips from there:
    `visiting` and `jumping` list by layer the clips that visit it and those that jump from it. `repeat` holds jumps,
    per clip and layer, to take instead of the policy's.
    """

    def __init__(
        self, policy: JumpPolicy, batch: int, device: torch.device, repeat: Int8[Tensor, "batch _"] | None = None
    ) -> None:
        self.policy, self.depth, self.device, self.repeat = policy, policy.depth, device, repeat
        self.summary: Tensor | None = None  # features that the route was planned from, where gains are learnt
        self.visiting = [list(range(batch))]
        self.jumping: list[list[int]] = []
        self._jumps = [[-1] * self.depth for _ in range(batch)]
        self._landed = [[False] * self.depth for _ in range(batch)]
        self._next = [0] * batch  # the layer that a clip visits next
        self._last_jump = [-1] * batch  # the last layer that a clip jumps from, as decided so far
        self._probabilities: list[Tensor] = []
        self._soft: list[Tensor] = []  # probabilities with the noise of this draw
        self._drawn: Tensor | None = None

    def decide(self, scores: Float[Tensor, "batch layers actions"], bias: Tensor | float) -> None:
        """Decide after the next layers, as many as have scores; this costs one synchronisation with the device.

        In evaluation `bias` > 0 favours going on.
        """
        first = len(self.jumping)
        layers = slice(first, first + scores.shape[1])
        # Layer by layer in memory: a seed draws the same whether layers are decided together or in turn.
        logits = scores.transpose(0, 1).contiguous()  # layers batch actions
        if not self.policy.training:
            logits = logits - bias * self.policy.shares_skipped[layers, None]
        actions, probabilities, soft = self._choose(logits, first)
        if self.repeat is not None:
            actions = self.repeat[:, layers].T.clamp(min=0)  # -1 where the clip does not visit
        self._probabilities.append(probabilities)
        self._soft.append(soft)
        self._drawn = None
        for layer, column in enumerate(actions.tolist(), start=first):
            self._follow(layer, column)

    def _follow(self, layer: int, actions: list[int]) -> None:
        """Move the clips at the layer to where their actions lead."""
        here = self.visiting[layer]
        for clip in here:
            action = actions[clip]
            target = landing(layer, action, self.depth, self.policy.rule)
            self._next[clip] = target
            self._jumps[clip][layer] = action
            self._landed[clip][target] = action > 0
            if action > 0:
                self._last_jump[clip] = layer
        self.jumping.append([clip for clip in here if actions[clip] > 0])
        self.visiting.append([clip for clip, following in enumerate(self._next) if following == layer + 1])

    def to_jump(self, layer: int) -> list[int]:
        """List the clips at the layer that jump from it or later; before decisions are known, all of them."""
        here = self.visiting[layer]
        if len(self.jumping) < self.depth - 1:
            return here
        return [clip for clip in here if self._last_jump[clip] >= layer]

    def jumped(self, layer: int, clips: list[int]) -> list[int]:
        """List the actions that the clips took after the layer."""
        return [self._jumps[clip][layer] for clip in clips]

    @property
    def visited(self) -> Bool[Tensor, "batch layers"]:
        """Return True at the layers of each clip's route, which ends at the last layer."""
        return nn.functional.pad(self.jumps[:, :-1] >= 0, (0, 1), value=True)

    @property
    def landings(self) -> Bool[Tensor, "batch layers"]:
        return sent(self._landed, self.device).bool()

    @cached_property  # read when all is decided
    def jumps(self) -> Int8[Tensor, "batch layers"]:
        """Return the actions; -1 where a clip does not visit, and at the last layer, which decides nothing."""
        return sent(self._jumps, self.device).to(torch.int8)

    @property
    def chances(self) -> Float[Tensor, "batch layers"]:
        """Return the probability n_j of visiting each layer."""
        return self._visits(self._probabilities)

    def log_prob(self) -> Float[Tensor, " batch"]:
        """Return the log-probability of the sampled route, summed over its decisions."""
        logs = torch.cat(self._probabilities).clamp(min=1e-9).log()  # decisions batch actions
        actions = self.jumps.T[:-1, :, None].long()
        return (logs.gather(2, actions.clamp(min=0)) * (actions >= 0)).sum(dim=(0, 2))

    def entropy(self) -> Float[Tensor, " batch"]:
        """Return the mean entropy of the decisions that were taken, in nats."""
        here = self.jumps.T[:-1] >= 0
        return (entropy_of(torch.cat(self._probabilities)) * here).sum(dim=0) / here.sum(dim=0)

    def drawn_chance(self, layer: int) -> Float[Tensor, " batch"] | None:
        """Return n_layer under the noise of this draw, where the estimator trains by it."""
        if not self.policy.training or self.policy.estimator != "gumbel" or layer == 0 or self.repeat is not None:
            return None
        if self._drawn is None:
            self._drawn = self._visits(self._soft)
        return self._drawn[:, layer]

    def _visits(self, decisions: list[Tensor]) -> Float[Tensor, "batch layers"]:
        """Compute n_j by its recursion, for the layers that these decisions lead to."""
        probabilities = torch.cat(decisions)
        arrivals = self.policy.arrivals[: len(probabilities), None].to(probabilities.dtype)
        moves = (probabilities[..., None] * arrivals).sum(dim=2)  # decisions batch layers; no product: float32 stays
        visits = nn.functional.pad(torch.ones_like(probabilities[0, :, :1]), (0, self.depth - 1))
        for layer, move in enumerate(moves):
            visits = torch.addcmul(visits, visits[:, layer : layer + 1], move)
        return visits

    def _choose(self, logits: Tensor, first: int) -> Draw:
        if not self.policy.training:
            return most_likely(logits)
        if self.policy.is_held:
            return held(logits)
        if self.policy.estimator == "gumbel":
            return draw_gumbel(logits, self.policy.temperature, self._uniform(logits, first))
        if self.policy.estimator == "reinforce":
            uniform = self._uniform(logits[..., :1], first)
            return draw_floored(logits, None if uniform is None else uniform[..., 0])
        return most_likely(logits)._replace(chosen=self._explore(logits, first))

    def _uniform(self, logits: Float[Tensor, "layers batch some"], first: int) -> Tensor | None:
        """Draw a number for each of some logits from the layer `first` on; None where torch's generator has to."""
        layers, batch, count = logits.shape
        uniform = self.policy.uniform(layers * count, first * count)
        return None if uniform is None else uniform.view(batch, layers, count).transpose(0, 1)

    def _explore(self, logits: Tensor, first: int) -> Tensor:
        """Draw routes at random; each clip first draws how often it goes on, so that all lengths occur."""
        layers, batch, _ = logits.shape
        uniform = self.policy.uniform(1 + 2 * (self.depth - 1))
        if uniform is not None:
            actions = (batch, self.depth - 1), range(1, self.policy.num_actions), 0
            return draw_of_every_cost(*actions, uniform=uniform).T[first : first + layers]
        if not self._soft:
            self.going_on = torch.rand(batch, device=self.device)
        actions = []
        for _ in range(layers):
            jump = torch.randint(1, self.policy.num_actions, (batch,), device=self.device)
            actions.append(torch.where(torch.rand(batch, device=self.device) < self.going_on, 0, jump))
        return torch.stack(actions)


def sent(values: Sequence[Any], device: torch.device) -> Tensor:
    """Copy small values of the host to the device without waiting for it."""
    return torch.from_numpy(np.array(values)).to(device, non_blocking=True)  # a third of the time of torch.tensor
