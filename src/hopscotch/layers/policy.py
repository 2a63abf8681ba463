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

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor, nn

from hopscotch.layers.learned_skip import COST_UNIT, PROBABILITY_FLOOR, gumbel_noise

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
    targets: Tensor
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
        self.register_buffer("targets", targets, persistent=False)  # the layer that follows
        self.register_buffer("arrivals", nn.functional.one_hot(targets, depth).float(), persistent=False)
        self.register_buffer("skipped", skipped, persistent=False)
        self.register_buffer("shares_skipped", shares, persistent=False)  # of the longest jump

    def forward(self, summary: Float[Tensor, "batch features"]) -> Float[Tensor, "batch decisions actions"]:
        summary = summary.detach()  # like the gates: the policy reads the trunk, it does not steer it
        if self.estimator == "random":
            return self._logits((summary.float() @ self.scatter).sin())
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
        return -torch.einsum("bj,iaj->bia", outputs, self.skipped) / COST_UNIT

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
    """The routes of a batch, decided layer by layer: who visits what, with which probability.

    `decide(layer, scores)` reads the logits of one layer; clips that do not visit it are left alone. `repeat` are
    jumps, per clip and layer, to take whatever the scores say. Decisions are many and small: what they add up to is
    computed from all of them at once.
    """

    def __init__(
        self, policy: JumpPolicy, batch: int, device: torch.device, repeat: Int8[Tensor, "batch _"] | None = None
    ) -> None:
        self.policy, self.depth, self.device, self.repeat = policy, policy.depth, device, repeat
        self.summary: Tensor | None = None  # what the whole route was planned from, where gains are learnt
        self._at = torch.zeros(batch, dtype=torch.long, device=device)  # the layer that a clip visits next
        self._by_jump = torch.zeros(batch, dtype=torch.bool, device=device)  # whether it gets there by jumping
        self._visited = [torch.ones_like(self._by_jump)]
        self._landed = [self._by_jump]
        self._actions: list[Tensor] = []
        self._probabilities: list[Tensor] = []
        self._draws: list[Tensor] = []  # probabilities with the noise of this draw: the straight-through weights' own
        self._sampled: list[Tensor] = []

    def decide(self, layer: int, scores: Tensor, bias: Tensor | float) -> None:
        """Decide after `layer` for the clips that visit it. `bias` > 0 favours going on, in evaluation only."""
        here, logits = self._visited[layer], scores[:, layer]
        if not self.policy.training:
            logits = logits - bias * self.policy.shares_skipped[layer]
        action, probabilities, draw = self._choose(layer, logits)
        if self.repeat is not None:
            action = self.repeat[:, layer].long().clamp(min=0)  # -1 where the clip does not come by
        self._at = torch.where(here, self.policy.targets[layer][action], self._at)
        self._by_jump = torch.where(here, action > 0, self._by_jump)
        self._visited.append(self._at == layer + 1)
        self._landed.append(self._visited[-1] & self._by_jump)
        self._actions.append(torch.where(here, action, -1))
        self._probabilities.append(probabilities)
        self._draws.append(draw)

    def here(self, layer: int) -> Bool[Tensor, " batch"]:
        """The clips that visit the layer."""
        return self._visited[layer]

    def action(self, layer: int) -> Int[Tensor, " batch"]:
        """What the clips do after the layer; -1 for those that do not come by."""
        return self._actions[layer]

    @property
    def visited(self) -> Bool[Tensor, "batch layers"]:
        """As far as it is decided."""
        return torch.stack(self._visited, dim=1)

    @property
    def landings(self) -> Bool[Tensor, "batch layers"]:
        return torch.stack(self._landed, dim=1)

    @property
    def jumps(self) -> Int8[Tensor, "batch layers"]:
        """-1 where a clip does not come by, and at the layer that is not decided."""
        undecided = torch.full_like(self._at, -1)
        return torch.stack([*self._actions, undecided], dim=1).to(torch.int8)

    @property
    def chances(self) -> Float[Tensor, "batch layers"]:
        """n_j of the expected route."""
        return torch.stack(self._visits(self._probabilities), dim=1)

    def log_prob_and_entropy(self) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Log-probability of the route, and the mean entropy of its decisions."""
        probabilities = torch.stack(self._probabilities, dim=1)  # batch decisions actions
        logs = probabilities.clamp(min=1e-9).log()
        actions, here = torch.stack(self._actions, dim=1), torch.stack(self._visited[:-1], dim=1)
        chosen = logs.gather(2, actions.clamp(min=0)[:, :, None]).squeeze(2)
        entropy = -(probabilities * logs).sum(dim=2)
        return (chosen * here).sum(dim=1), (entropy * here).sum(dim=1) / here.sum(dim=1)

    def weight(self, layer: int) -> Tensor | None:
        """1 with the gradient of the chance of coming here, where the estimator trains that way."""
        if not self.policy.training or self.policy.estimator != "gumbel" or layer == 0:
            return None
        if len(self._sampled) <= layer:
            self._sampled = self._visits(self._draws)
        return 1 + (self._sampled[layer] - self._sampled[layer].detach())

    def _visits(self, decisions: list[Tensor]) -> list[Tensor]:
        """n_j by the recursion, for the layers that these decisions lead to."""
        moves = torch.einsum("bia,iaj->bij", torch.stack(decisions, dim=1), self.policy.arrivals[: len(decisions)])
        visits = [torch.ones_like(moves[:, 0, 0])]
        for layer in range(1, len(decisions) + 1):
            visits.append((torch.stack(visits, dim=1) * moves[:, :layer, layer]).sum(dim=1))
        return visits

    def _choose(self, layer: int, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Action, probabilities of the expected route, and those of this draw."""
        probabilities = logits.softmax(dim=-1)
        if not self.policy.training:
            return logits.argmax(dim=-1), probabilities, probabilities
        if self.policy.estimator == "gumbel":
            soft = ((logits + gumbel_noise(logits)) / self.policy.temperature).softmax(dim=-1)
            return soft.argmax(dim=-1), probabilities, soft
        if self.policy.estimator in ("gain", "random"):
            return self._explore(layer, logits), probabilities, probabilities
        actions = self.policy.num_actions
        probabilities = (1 - PROBABILITY_FLOOR * actions) * probabilities + PROBABILITY_FLOOR
        return torch.multinomial(probabilities.detach(), 1).squeeze(1), probabilities, probabilities

    def _explore(self, layer: int, logits: Tensor) -> Tensor:
        """Routes at random, of every length: each clip first draws how often it goes on."""
        if layer == 0:
            self.going_on = torch.rand(len(logits), device=self.device)
        jump = torch.randint(1, self.policy.num_actions, (len(logits),), device=self.device)
        return torch.where(torch.rand(len(logits), device=self.device) < self.going_on, 0, jump)


def clips_by_column(columns: Bool[Tensor, "batch columns"]) -> list[list[int]]:
    """For every column the clips where it is True, on the host: one synchronisation."""
    return [[clip for clip, here in enumerate(row) if here] for row in columns.T.tolist()]


def shortest_route(costs: list[int], max_jump: int, rule: JumpRule) -> list[int]:
    """The layers of the cheapest route through layers of these costs."""
    depth = len(costs)
    best: list[tuple[int, list[int]]] = [(costs[-1], [depth - 1])]
    for layer in range(depth - 2, -1, -1):
        targets = {landing(layer, a, depth, rule) for a in range(max_jump + 1)}
        cost, route = min(best[target - layer - 1] for target in targets)
        best.insert(0, (cost + costs[layer], [layer, *route]))
    return best[0][1]
