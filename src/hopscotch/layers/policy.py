"""Choose each clip's route through a block of layers: go on, or jump over some.

At layer i (all but the last) action 0 goes on to i + 1. Action a > 0 jumps, by rule

    skip      to min(i + 1 + a, depth - 1): a layers are skipped
    literal   to min(i + a, depth - 1):     the original formulation, where action 1 skips nothing

With p_i the probabilities at layer i, the probability n_j of visiting layer j follows exactly from
    n_0 = 1,   n_target(i, a) += n_i p_i(a).

Estimators, how the policy learns from the task:
    reinforce   the sampled route's log-probability times its advantage (Williams 1992); bounded probabilities
    gumbel      routes drawn by Gumbel noise; every visited layer's update is multiplied by 1 + n_j - stop(n_j)
    gain        random routes; before every validation their loss, less that of the dense run of the same clip, is
                regressed as the sum of the gains of the skipped layers (training/gains.py); evaluation skips by gain
    random      a baseline: random routes, in evaluation too, where each clip's are drawn from the bits of its summary
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.layers.checks import check_choice
from hopscotch.layers.sampling import COST_UNIT, Decider

JumpRule = Literal["skip", "literal"]
Sees = Literal["input", "first", "state"]
RouteEstimator = Literal["reinforce", "gumbel", "gain", "random"]

HIDDEN = 64  # units of the policy's hidden layer: cheap compared with one layer of one clip
GO_ON_BIAS = 1.5  # logit of action 0 at the start: about 0.6 of the decisions go on, with three jumps to choose from
LOGIT_SCALE = 0.1  # of a new policy's last layer
SCATTER = 1000.0  # radians per unit of the summary: even similar clips draw unrelated routes


def landing(layer: int, action: int, depth: int, rule: JumpRule) -> int:
    """Return the layer that follows `layer` after `action`; never past the last one, which always runs."""
    if action == 0:
        return layer + 1
    return min(layer + action + (rule == "skip"), depth - 1)


class JumpPolicy(Decider):
    """Compute logits over actions 0..max_jump at every layer but the last, from a summary of the clip.

    Under "gain" the net gives one gain per layer, and the logits follow from the gains. Under "random" there is no net:
    the sine of a large random projection scatters the summaries.

    Args:
        num_features: Width of the summary.
        depth: Layers of the block, at least 2.
        max_jump: Largest action, at least 1.
        rule: Where an action leads.
        tied: Use equal logits at all layers, as in the original formulation.
        estimator: How the policy learns.
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
        tied: bool = False,
        estimator: RouteEstimator = "gumbel",
    ) -> None:
        super().__init__()
        check_choice("rule", rule, JumpRule)
        check_choice("estimator", estimator, RouteEstimator)
        if estimator == "gain" and tied:
            raise ValueError("tied must be false under estimator=gain, got true.")
        if max_jump < 1:
            raise ValueError(f"max_jump must be at least 1 layer, got {max_jump}.")
        if depth < 2:
            raise ValueError(f"depth must be at least 2 layers for jumps, got {depth}.")
        self.num_features, self.depth, self.num_actions = num_features, depth, max_jump + 1
        self.rule: JumpRule = rule
        self.tied, self.estimator = tied, estimator
        self.temperature = 1.0  # of the Gumbel-softmax; set from the training position, never saved
        self.num_outputs = self.num_actions * (1 if self.tied else depth - 1)
        self.num_drawn = max(self.num_actions, 3) * (depth - 1)  # a number for each logit, or those of random routes
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
            self.requires_grad_(False)  # fitted by training/gains.py

    def _register_tables(self) -> None:
        """Tabulate what follows from the rule alone, by layer and action."""
        depth, actions = self.depth, range(self.num_actions)
        targets = torch.tensor([[landing(i, a, depth, self.rule) for a in actions] for i in range(depth - 1)])
        skipped = skipped_layers(depth, self.num_actions, self.rule)
        shares = skipped.sum(-1) / skipped.sum(-1).amax().clamp(min=1)
        self.register_buffer("arrivals", nn.functional.one_hot(targets, depth).float(), persistent=False)
        self.register_buffer("skipped", skipped, persistent=False)
        self.register_buffer("shares_skipped", shares, persistent=False)  # of the longest jump

    def forward(self, summary: Float[Tensor, "batch features"]) -> Float[Tensor, "batch decisions actions"]:
        summary = summary.detach()  # no gradient to the block, as in the gates
        if self.estimator == "random":
            return self._logits((summary.float() @ self.scatter.float()).sin())
        if self.estimator == "gain":
            return self._given_up(self.gains(summary))
        return self._logits(self._outputs(summary))

    def gains(self, summary: Float[Tensor, "batch features"]) -> Float[Tensor, "batch depth"]:
        """Predict, under "gain", how much loss a visit of each layer saves the clip."""
        return self._outputs(summary)

    def _outputs(self, summary: Tensor) -> Float[Tensor, "batch outputs"]:
        return self.output(nn.functional.silu(self.hidden(self.norm(summary)))).float()

    def _logits(self, outputs: Tensor) -> Float[Tensor, "batch decisions actions"]:
        return outputs.unflatten(-1, (-1, self.num_actions)).expand(-1, self.depth - 1, -1)

    def _given_up(self, outputs: Tensor) -> Float[Tensor, "batch decisions actions"]:
        """Make each action's logit minus the gains, in loss, of the layers that it skips."""
        return -(outputs[:, None, None] * self.skipped.float()).sum(dim=-1) / COST_UNIT  # float32, under autocast too

    def macs(self) -> int:
        """Count the MACs of one call, per clip."""
        if self.estimator == "random":
            return self.num_features * self.num_outputs
        return self.num_features * HIDDEN + HIDDEN * self.num_outputs


def skipped_layers(depth: int, num_actions: int, rule: JumpRule) -> Float[Tensor, "decisions actions depth"]:
    """Return 1 where the action, taken at the layer, skips the layer of the third axis."""
    table = torch.zeros(depth - 1, num_actions, depth)
    for i in range(depth - 1):
        for a in range(num_actions):
            table[i, a, i + 1 : landing(i, a, depth, rule)] = 1
    return table


def shortest_route(costs: list[int], max_jump: int, rule: JumpRule) -> list[int]:
    """Find the layers of the cheapest route through layers of these costs."""
    depth = len(costs)
    best: list[tuple[int, list[int]]] = [(costs[-1], [depth - 1])]
    for layer in range(depth - 2, -1, -1):
        targets = {landing(layer, a, depth, rule) for a in range(max_jump + 1)}
        cost, route = min(best[target - layer - 1] for target in targets)
        best.insert(0, (cost + costs[layer], [layer, *route]))
    return best[0][1]
