"""Choose each clip's way through a block of layers: go on, or jump over some.

At layer i (all but the last) action 0 goes on to i + 1. Action a > 0 jumps, by rule

    skip      to min(i + 1 + a, depth - 1): a layers are skipped
    literal   to min(i + a, depth - 1):     the sketch's rule, where action 1 skips nothing

With p_i the probabilities at layer i, the probability n_j of visiting layer j follows exactly from
    n_0 = 1,   n_target(i, a) += n_i p_i(a).

Estimators, how the policy learns from the task:
    reinforce   the sampled route's log-probability times its advantage (Williams 1992); bounded probabilities
    gumbel      routes drawn by Gumbel noise; every visited layer's update is multiplied by 1 + n_j - stop(n_j)
    gain        random routes; before every validation what they lose against the dense run of the same clip is
                regressed as the sum of the gains of the layers skipped (tasks/gains.py); visit where gains pay
    random      a control: random routes, in evaluation too, where each clip's are drawn from the bits of its summary
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor, nn

from hopscotch.layers.stride import COST_UNIT, floored, gumbel_noise

JumpRule = Literal["skip", "literal"]
Sees = Literal["input", "first", "state"]
Heads = Literal["per_layer", "shared"]
RouteEstimator = Literal["reinforce", "gumbel", "gain", "random"]
ESTIMATORS = ("reinforce", "gumbel", "gain", "random")

HIDDEN = 64  # units of the policy's hidden layer: cheap beside one layer of one clip
GO_ON_BIAS = 1.5  # logit of action 0 at the start: about 0.6 of the decisions go on, with three jumps to choose from
LOGIT_SCALE = 0.1  # of the fresh policy's last layer
SCATTER = 1000.0  # radians per unit of the summary: two clips alike draw routes that are not


def landing(layer: int, action: int, depth: int, rule: JumpRule) -> int:
    """The layer that follows `layer` after `action`; never past the last one, which always runs."""
    if action == 0:
        return layer + 1
    return min(layer + action + (rule == "skip"), depth - 1)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


class JumpPolicy(nn.Module):
    """Logits over actions 0..max_jump at every layer but the last, from a summary of the clip.

    `num_features`: width of that summary. `heads`: "per_layer", or "shared" (the sketch: equal logits at all layers).
    Under `gain` the net gives one gain per layer instead, and the logits follow from the gains. Under
    `random` there is no net: the sine of a large random projection scatters the summaries beyond recognition.
    """

    scatter: Tensor
    skipped: Tensor
    shares_skipped: Tensor
    arrivals: Tensor

    def __init__(
        self,
        num_features: int,
        depth: int,
        *,
        max_jump: int = 3,
        rule: JumpRule = "skip",
        heads: Heads = "per_layer",
        estimator: RouteEstimator = "gumbel",
    ) -> None:
        super().__init__()
        check_choice("jump.rule", rule, ("skip", "literal"))
        check_choice("policy.heads", heads, ("per_layer", "shared"))
        check_choice("policy.estimator", estimator, ESTIMATORS)
        if estimator == "gain" and heads == "shared":
            raise ValueError("policy.heads must be per_layer under policy.estimator=gain, got shared.")
        if max_jump < 1:
            raise ValueError(f"jump.max must be at least 1 layer, got {max_jump}.")
        if depth < 2:
            raise ValueError(f"model.depth must be at least 2 layers for jumps, got {depth}.")
        self.num_features, self.depth, self.num_actions = num_features, depth, max_jump + 1
        self.rule: JumpRule = rule
        self.shared, self.estimator = heads == "shared", estimator
        self.temperature = 1.0  # of the Gumbel-softmax; set from the training position, never saved
        self.num_outputs = self.num_actions * (1 if self.shared else depth - 1)
        self._register_tables()
        if estimator == "random":
            self.register_buffer("scatter", SCATTER * torch.randn(num_features, self.num_outputs))
            return
        self.norm = nn.LayerNorm(num_features)
        self.hidden = nn.Linear(num_features, HIDDEN)
        if estimator == "gain":
            self.num_outputs = depth  # a gain per layer
        self.output = nn.Linear(HIDDEN, self.num_outputs)
        with torch.no_grad():
            self.output.weight.mul_(LOGIT_SCALE)
            self.output.bias.zero_()
            if estimator != "gain":
                self.output.bias[:: self.num_actions] = GO_ON_BIAS
        if estimator == "gain":
            self.requires_grad_(False)  # fitted, not trained along

    def _register_tables(self) -> None:
        """What follows from the rule alone, by layer and action."""
        depth, actions = self.depth, range(self.num_actions)
        targets = torch.tensor([[landing(i, a, depth, self.rule) for a in actions] for i in range(depth - 1)])
        skipped = skipped_layers(depth, self.num_actions, self.rule)
        shares = skipped.sum(-1) / skipped.sum(-1).amax().clamp(min=1)
        self.register_buffer("arrivals", nn.functional.one_hot(targets, depth).float(), persistent=False)
        self.register_buffer("skipped", skipped, persistent=False)
        self.register_buffer("shares_skipped", shares, persistent=False)  # of the longest jump

    def forward(self, summary: Float[Tensor, "batch features"]) -> Float[Tensor, "batch decisions actions"]:
        summary = summary.detach()  # like the gates: the policy reads the trunk, it does not steer it
        if self.estimator == "random":
            return self._logits((summary.float() @ self.scatter.float()).sin())
        if self.estimator == "gain":
            return self._given_up(self.gains(summary))
        return self._logits(self._outputs(summary))

    def gains(self, summary: Float[Tensor, "batch features"]) -> Float[Tensor, "batch depth"]:
        """Under `gain`: what visiting each layer saves the clip, in loss."""
        return self._outputs(summary)

    def _outputs(self, summary: Tensor) -> Float[Tensor, "batch outputs"]:
        return self.output(nn.functional.silu(self.hidden(self.norm(summary)))).float()

    def _logits(self, outputs: Tensor) -> Float[Tensor, "batch decisions actions"]:
        return outputs.unflatten(-1, (-1, self.num_actions)).expand(-1, self.depth - 1, -1)

    def _given_up(self, outputs: Tensor) -> Float[Tensor, "batch decisions actions"]:
        """An action's logit is what it gives up: minus the gains, in loss, of the layers that it skips."""
        return -(outputs[:, None, None] * self.skipped.float()).sum(dim=-1) / COST_UNIT  # float32, under autocast too

    def macs(self) -> int:
        """Per call and clip."""
        if self.estimator == "random":
            return self.num_features * self.num_outputs
        return self.num_features * HIDDEN + HIDDEN * self.num_outputs


def skipped_layers(depth: int, num_actions: int, rule: JumpRule) -> Float[Tensor, "decisions actions depth"]:
    """1 where taking the action at the layer jumps over the third axis' layer."""
    table = torch.zeros(depth - 1, num_actions, depth)
    for i in range(depth - 1):
        for a in range(num_actions):
            table[i, a, i + 1 : landing(i, a, depth, rule)] = 1
    return table


class Route:
    """The routes of a batch, decided layer by layer or all at once: who visits what, with which probability.

    Probabilities stay on the device; the actions are read once per `decide`, and the host follows the clips from there:
    `visiting` and `jumping` list by layer the clips that come by and those that jump. `repeat` are jumps, per clip and
    layer, to take whatever the scores say.
    """

    def __init__(
        self, policy: JumpPolicy, batch: int, device: torch.device, repeat: Int8[Tensor, "batch _"] | None = None
    ) -> None:
        self.policy, self.depth, self.device, self.repeat = policy, policy.depth, device, repeat
        self.summary: Tensor | None = None  # what the whole route was planned from, where gains are learnt
        self.visiting = [list(range(batch))]
        self.jumping: list[list[int]] = []
        self._jumps = [[-1] * self.depth for _ in range(batch)]
        self._landed = [[False] * self.depth for _ in range(batch)]
        self._next = [0] * batch  # the layer that a clip visits next
        self._last_jump = [-1] * batch  # the last layer that a clip jumps from, as far as is decided
        self._probabilities: list[Tensor] = []
        self._draws: list[Tensor] = []  # probabilities with the noise of this draw: the straight-through gradient's own
        self._drawn: Tensor | None = None

    def decide(self, scores: Float[Tensor, "batch layers actions"], bias: Tensor | float) -> None:
        """Decide after the layers that come next, as many as have scores; one look at the device.

        `bias` > 0 favours going on, in evaluation only.
        """
        first = len(self.jumping)
        layers = slice(first, first + scores.shape[1])
        # Layer by layer in memory, too: a seed draws the same whether layers are decided together or in turn.
        logits = scores.transpose(0, 1).contiguous()  # layers batch actions
        if not self.policy.training:
            logits = logits - bias * self.policy.shares_skipped[layers, None]
        actions, probabilities, draw = self._choose(logits)
        if self.repeat is not None:
            actions = self.repeat[:, layers].T.clamp(min=0)  # -1 where the clip does not come by
        self._probabilities.append(probabilities)
        self._draws.append(draw)
        self._drawn = None
        for layer, column in enumerate(actions.tolist(), start=first):
            self._follow(layer, column)

    def _follow(self, layer: int, actions: list[int]) -> None:
        """Move the clips that are at the layer on to where their actions lead."""
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
        """The clips at the layer that jump from here on, as far as is known: before it is decided, all may."""
        here = self.visiting[layer]
        if len(self.jumping) < self.depth - 1:
            return here
        return [clip for clip in here if self._last_jump[clip] >= layer]

    def jumped(self, layer: int, clips: list[int]) -> list[int]:
        """The actions that the clips took after the layer."""
        return [self._jumps[clip][layer] for clip in clips]

    @property
    def visited(self) -> Bool[Tensor, "batch layers"]:
        """Every route ends at the last layer."""
        return nn.functional.pad(self.jumps[:, :-1] >= 0, (0, 1), value=True)

    @property
    def landings(self) -> Bool[Tensor, "batch layers"]:
        return sent(self._landed, self.device).bool()

    @cached_property  # read when all is decided
    def jumps(self) -> Int8[Tensor, "batch layers"]:
        """-1 where a clip does not come by, and at the last layer, which decides nothing."""
        return sent(self._jumps, self.device).to(torch.int8)

    @property
    def chances(self) -> Float[Tensor, "batch layers"]:
        """n_j of the expected route."""
        return self._visits(self._probabilities)

    def log_prob(self) -> Float[Tensor, " batch"]:
        """Of the route: the sum over the decisions that were taken."""
        logs = torch.cat(self._probabilities).clamp(min=1e-9).log()  # decisions batch actions
        actions = self.jumps.T[:-1, :, None].long()
        return (logs.gather(2, actions.clamp(min=0)) * (actions >= 0)).sum(dim=(0, 2))

    def entropy(self) -> Float[Tensor, " batch"]:
        """The mean over the decisions that were taken."""
        probabilities, here = torch.cat(self._probabilities), self.jumps.T[:-1] >= 0
        entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(dim=2)
        return (entropy * here).sum(dim=0) / here.sum(dim=0)

    def drawn_chance(self, layer: int) -> Float[Tensor, " batch"] | None:
        """n_layer of the route drawn, where the estimator trains by it."""
        if not self.policy.training or self.policy.estimator != "gumbel" or layer == 0 or self.repeat is not None:
            return None
        if self._drawn is None:
            self._drawn = self._visits(self._draws)
        return self._drawn[:, layer]

    def _visits(self, decisions: list[Tensor]) -> Float[Tensor, "batch layers"]:
        """n_j by the recursion, for the layers that these decisions lead to."""
        probabilities = torch.cat(decisions)
        arrivals = self.policy.arrivals[: len(probabilities), None].to(probabilities.dtype)
        moves = (probabilities[..., None] * arrivals).sum(dim=2)  # decisions batch layers; no product: float32 stays
        visits = nn.functional.pad(torch.ones_like(probabilities[0, :, :1]), (0, self.depth - 1))
        for layer, move in enumerate(moves):
            visits = torch.addcmul(visits, visits[:, layer : layer + 1], move)
        return visits

    def _choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Actions, probabilities of the expected route, and those of this draw."""
        probabilities = logits.softmax(dim=-1)
        if not self.policy.training:
            return logits.argmax(dim=-1), probabilities, probabilities
        if self.policy.estimator == "gumbel":
            soft = ((logits + gumbel_noise(logits)) / self.policy.temperature).softmax(dim=-1)
            return soft.argmax(dim=-1), probabilities, soft
        if self.policy.estimator in ("gain", "random"):
            return self._explore(logits), probabilities, probabilities
        probabilities = floored(probabilities)
        drawn = torch.multinomial(probabilities.detach().flatten(0, 1), 1).view(logits.shape[:2])
        return drawn, probabilities, probabilities

    def _explore(self, logits: Tensor) -> Tensor:
        """Routes at random, of every length: each clip first draws how often it goes on."""
        layers, batch, _ = logits.shape
        if not self._draws:
            self.going_on = torch.rand(batch, device=self.device)
        actions = []
        for _ in range(layers):
            jump = torch.randint(1, self.policy.num_actions, (batch,), device=self.device)
            actions.append(torch.where(torch.rand(batch, device=self.device) < self.going_on, 0, jump))
        return torch.stack(actions)


def sent(values: Sequence[Any], device: torch.device) -> Tensor:
    """Small facts of the host as a tensor on the device, which is not waited for."""
    return torch.from_numpy(np.array(values)).to(device, non_blocking=True)  # a third of the time of torch.tensor


def shortest_route(costs: list[int], max_jump: int, rule: JumpRule) -> list[int]:
    """The layers of the cheapest route through layers of these costs."""
    depth = len(costs)
    best: list[tuple[int, list[int]]] = [(costs[-1], [depth - 1])]
    for layer in range(depth - 2, -1, -1):
        targets = {landing(layer, a, depth, rule) for a in range(max_jump + 1)}
        cost, route = min(best[target - layer - 1] for target in targets)
        best.insert(0, (cost + costs[layer], [layer, *route]))
    return best[0][1]
