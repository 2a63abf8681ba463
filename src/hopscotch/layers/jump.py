"""The jump block: layers that a clip may hop over, with a working memory and a few tokens skipped on the way.

For a clip at layer i, with x its tokens:

    1. inner layer     adapter: at the tokens that its gate opens,
                       p = norm(x),  x += sigmoid(w . p + b) hyper(adapter(p))
                       transformer: a whole pre-norm block, no gate
    2. memory          m <- g m + (1 - g) mean(x),  g = sigmoid(w . mean(x))
    3. action          0 goes on to i + 1; a > 0 jumps (layers/policy.py has the rules), mixing in the block's input x0:
                       literal  x += J_a x0 + (1 - J_a) m
                       convex   x <- (1 - c) x + c (J_a x0 + (1 - J_a) m)
                       none     x stays
    4. after the last  x += sigmoid(w . x) MLP(norm(x))     (adapter only: a transformer block has its own)

Layer 0 and the last always run. Every layer runs on the clips that visit it and on no others. Source: the sketch's
skip_layer.

    jump = SkipLayer(dim, heads, depth)
    y = jump(x)                                      # or jump(x, lengths)
    jump.update_threshold(loss=loss.item())          # after each step; without it the threshold moves by gradient
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import block_macs, feed_forward_macs
from hopscotch.layers.adapter import Adapter
from hopscotch.layers.attention import check_heads
from hopscotch.layers.gate import Gate, Rule
from hopscotch.layers.policy import (
    Heads,
    JumpPolicy,
    JumpRule,
    Route,
    RouteEstimator,
    Sees,
    check_choice,
    clips_by_column,
    shortest_route,
)
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.layers.transformer import TransformerBlock
from hopscotch.types import SkipTrace, valid_mask

Mix = Literal["literal", "convex", "none"]
Inner = Literal["adapter", "transformer"]

JUMP_WEIGHTS = (0.1, 0.05, 0.01)  # J_a of the sketch; jumps longer than three start like its third
CONVEX_START = 0.1  # c of the convex landing
GATE_SHARE = 0.1  # of a decision bias: a budget shortens routes before it closes single tokens
FINAL_RATIO = 4  # width of the closing MLP over dim, as in the sketch


class SkipLayer(nn.Module):
    """A block of `depth` layers that every clip crosses on its own route.

    Routes are planned at once from the block's input (`policy_sees="input"`, the sketch) or from the state after layer
    0 ("first"), or decided layer by layer ("state", one host synchronisation each).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int,
        *,
        inner: Inner = "adapter",
        mini_hc: bool = True,
        expansion: int = 2,
        ffn_ratio: float = 4,
        dropout: float = 0.0,
        jump_rule: JumpRule = "skip",
        jump_max: int = 3,
        jump_mix: Mix = "convex",
        policy_sees: Sees = "first",
        policy_heads: Heads = "per_layer",
        policy_estimator: RouteEstimator = "gumbel",
        gate_num_keys: int = 16,
        gate_hidden_ratio: float = 0.125,
        gate_rule: Rule = "target",
        gate_open_rate: float = 0.85,
        gate_rate_floor: float = 0.1,
        gate_rate_ceiling: float = 0.98,
        gate_detach: bool = True,
        gate_training_mode: Literal["full", "packed"] = "full",
        gate_threshold_by: Literal["gradient", "loss"] = "gradient",
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_choice("inner", inner, ("adapter", "transformer"))
        check_choice("jump.mix", jump_mix, ("literal", "convex", "none"))
        check_choice("policy.sees", policy_sees, ("input", "first", "state"))
        if policy_estimator == "gain" and policy_sees == "state":
            raise ValueError("policy.sees must be input or first under policy.estimator=gain, got state.")
        self.dim, self.depth, self.ffn_ratio, self.max_jump = dim, depth, ffn_ratio, jump_max
        self.inner, self.mix, self.sees = inner, jump_mix, policy_sees
        num_features = dim if policy_sees == "input" else 2 * dim
        self.policy = JumpPolicy(
            num_features, depth, max_jump=jump_max, rule=jump_rule, heads=policy_heads, estimator=policy_estimator
        )
        self.logs: dict[str, list[list[int]]] = {"jumps": []}
        self.layers = nn.ModuleList()
        self.gates: list[Gate] = []
        for index in range(depth):
            if inner == "transformer":
                self.layers.append(TransformerBlock(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout))
                continue
            gate = Gate(
                dim,
                num_keys=gate_num_keys,
                hidden_ratio=gate_hidden_ratio,
                threshold_by=gate_threshold_by,
                rule=gate_rule,
                open_rate=gate_open_rate,
                rate_floor=gate_rate_floor,
                rate_ceiling=gate_rate_ceiling,
                detach=gate_detach,
                training_mode=gate_training_mode,
            )
            self.gates.append(gate)
            self.layers.append(Adapter(dim, index, mini_hc=mini_hc, expansion=expansion, dropout=dropout, gate=gate))
        if jump_mix != "none":
            self.work_mem = nn.Parameter(torch.zeros(dim))
            self.memory_gate = nn.Linear(dim, 1)
            weights = [JUMP_WEIGHTS[min(a, len(JUMP_WEIGHTS)) - 1] for a in range(1, jump_max + 1)]
            self.jump_weights = nn.Parameter(torch.tensor(weights))
        if jump_mix == "convex":
            self.convex = nn.Parameter(torch.tensor(CONVEX_START).logit())
        if inner == "adapter":
            self.final_norm = nn.LayerNorm(dim)
            self.final_gate = nn.Linear(dim, 1)
            self.final = nn.Sequential(nn.Linear(dim, FINAL_RATIO * dim), nn.GELU(), nn.Linear(FINAL_RATIO * dim, dim))

    def forward(
        self, x: Float[Tensor, "batch time dim"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Cross the block; `logs["jumps"]` then holds each clip's history, as in the sketch."""
        y, trace = self.run(x, lengths)
        self.logs = {"jumps": trace.histories}
        return y

    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the gates' thresholds by the loss of the last step (layers/gate.py has the rules)."""
        for gate in self.gates:
            gate.update_threshold(loss, lr)

    def run(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"] | None = None,
        *,
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        """Cross the block and say what every clip did.

        In evaluation `bias` > 0 asks for more compute; `repeat` holds jumps to take instead of the policy's.
        """
        batch, time = x.shape[:2]
        lengths = x.new_full((batch,), time, dtype=torch.long) if lengths is None else lengths
        mask = valid_mask(lengths, time)
        route = Route(self.policy, batch, x.device, None if repeat is None else repeat.jumps.to(x.device))
        walk = _Walk(self, x, mask, lengths, bias)
        visiting = jumping = [list(range(batch))]
        if self.sees == "input":
            visiting, jumping = self._plan(route, masked_mean(x, mask), bias)
        for layer in range(self.depth):
            walk.visit(layer, visiting[layer], route)
            if layer == self.depth - 1:
                break
            if self.sees == "first" and layer == 0:
                visiting, jumping = self._plan(route, masked_mean_and_std(walk.x, mask), bias)
            elif self.sees == "state":
                route.decide(layer, self.policy(masked_mean_and_std(walk.x, mask)), bias)
                next_visiting, jumping_here = clips_by_column(
                    torch.stack([route.here(layer + 1), route.action(layer) > 0], dim=1)
                )
                visiting = [*visiting, next_visiting]
                jumping = [*jumping[:layer], jumping_here]
            walk.land(layer, jumping[layer], route)
        if self.inner == "adapter":
            walk.x = walk.x + torch.sigmoid(self.final_gate(walk.x)) * self.final(self.final_norm(walk.x))
        return walk.x, self._trace(route, walk, lengths)

    def _plan(self, route: Route, summary: Tensor, bias: Tensor | float) -> tuple[list[list[int]], list[list[int]]]:
        """Decide all layers; for each the clips that visit it, and those that jump from it: the one synchronisation."""
        if self.policy.estimator == "gain":
            route.summary = summary.detach()
        scores = self.policy(summary)
        for layer in range(self.depth - 1):
            route.decide(layer, scores, bias)
        columns = clips_by_column(torch.cat([route.visited, route.jumps > 0], dim=1))
        return columns[: self.depth], columns[self.depth :]

    def _trace(self, route: Route, walk: "_Walk", lengths: Tensor) -> SkipTrace:
        visited = route.visited
        # Layers alternate in what they cost: adapters on even layers alone.
        visit, opened = ([macs(i, lengths) for i in (0, 1)] for macs in (self.layer_macs, self.token_macs))
        visited_macs = torch.stack([visit[i % 2] for i in range(self.depth)], dim=1)  # batch depth
        open_macs = torch.stack([opened[i % 2] for i in range(self.depth)], dim=1)
        per_token = open_macs // lengths[:, None]
        constant = self.constant_macs(lengths)
        num_open = torch.stack(walk.num_open, dim=1)
        open_rate = torch.stack(walk.open_rates, dim=1)
        known = torch.where(visited, open_rate, 0.0)
        mean_rate = (known.sum(0) / visited.sum(0).clamp(min=1)).detach()
        expected_rate = torch.where(visited, open_rate, mean_rate)
        log_prob, entropy = route.log_prob_and_entropy()
        dense_macs = constant + (visited_macs + open_macs).sum(1)
        expected = constant + (route.chances * (visited_macs + expected_rate * open_macs)).sum(1)
        samples = self.training and self.policy.estimator == "reinforce"
        return SkipTrace(
            strides=visited.long() if self.inner == "transformer" else torch.zeros_like(visited, dtype=torch.long),
            visited=visited,
            jumps=route.jumps,
            landings=route.landings,
            open_rate=torch.where(visited, open_rate, torch.nan).detach()
            if self.gates
            else torch.full_like(open_rate, torch.nan),
            macs=constant + (visited * (visited_macs + num_open * per_token)).sum(1),
            dense_macs=dense_macs,
            expected_compute=expected / dense_macs,
            log_prob=log_prob if samples else torch.zeros_like(log_prob),
            entropy=entropy,
            summary=route.summary,
        )

    def layer_macs(self, layer: int, time: Tensor) -> Tensor:
        """What a visit costs before any token is open."""
        memory = 0 if self.mix == "none" else self.dim
        if self.inner == "transformer":
            return block_macs(time, self.dim, self.ffn_ratio) + memory
        return self.gates[layer].macs(time) + memory

    def token_macs(self, layer: int, time: Tensor) -> Tensor:
        """What a visit costs beside, with every token open."""
        if self.inner == "transformer":
            return torch.zeros_like(time)
        return self._adapter(layer).open_macs(time)

    def constant_macs(self, time: Tensor) -> Tensor:
        """The policy, and the closing MLP."""
        num_calls = self.depth - 1 if self.sees == "state" else 1
        macs = torch.full_like(time, num_calls * self.policy.macs())
        if self.inner == "adapter":
            macs = macs + time * self.dim + feed_forward_macs(time, self.dim, FINAL_RATIO)
        return macs

    def macs_range(self, time: int) -> tuple[int, int]:
        """Cheapest (shortest route, gates closed) and dense MACs of a clip of `time` positions."""
        positions = torch.tensor(time)
        visits = [int(self.layer_macs(i, positions)) for i in range(self.depth)]
        dense = [cost + int(self.token_macs(i, positions)) for i, cost in enumerate(visits)]
        route = shortest_route(visits, self.max_jump, self.policy.rule)
        constant = int(self.constant_macs(positions))
        return constant + sum(visits[i] for i in route), constant + sum(dense)

    def _adapter(self, layer: int) -> Adapter:
        module = self.layers[layer]
        assert isinstance(module, Adapter)
        return module


class _Walk:
    """The tokens and the memory of a batch on their way through the block."""

    def __init__(self, block: SkipLayer, x: Tensor, mask: Tensor, lengths: Tensor, bias: Tensor | float) -> None:
        self.block, self.x, self.start, self.mask, self.lengths, self.bias = block, x, x, mask, lengths, bias
        self.memory = None if block.mix == "none" else block.work_mem.expand(len(x), -1)
        self.open_rates: list[Tensor] = []  # per layer (batch,), 1 where not visited
        self.num_open: list[Tensor] = []  # per layer (batch,)

    def visit(self, layer: int, clips: list[int], route: Route) -> None:
        """Run the layer on the clips that come by, and let them remember."""
        rate = self.x.new_ones(len(self.x))
        num_open = torch.zeros_like(self.lengths)
        if clips:
            index = self._index(clips)
            x, mask = _rows(self.x, index), _rows(self.mask, index)
            weight = route.weight(layer)
            module = self.block.layers[layer]
            if isinstance(module, Adapter):
                y, decision = module(x, mask, GATE_SHARE * self.bias, None if weight is None else _rows(weight, index))
                rate = _put(rate, index, decision.open_rate.to(rate.dtype))
                num_open = _put(num_open, index, decision.is_open.detach().sum(dim=1).long())
            else:
                y = module(x, _rows(self.lengths, index))
                y = y if weight is None else x + (y - x) * _rows(weight, index)[:, None, None]
            if self.memory is not None:
                mean = masked_mean(y, mask)
                keep = torch.sigmoid(self.block.memory_gate(mean))
                self.memory = _put(self.memory, index, keep * _rows(self.memory, index) + (1 - keep) * mean)
            self.x = _put(self.x, index, y)
        self.open_rates.append(rate)
        self.num_open.append(num_open)

    def land(self, layer: int, clips: list[int], route: Route) -> None:
        """Mix the start and the memory into the clips that jump from here."""
        if self.memory is None or not clips:
            return
        block, index = self.block, self._index(clips)
        x = _rows(self.x, index)
        share = block.jump_weights[_rows(route.action(layer), index) - 1][:, None, None]
        mixed = share * _rows(self.start, index) + (1 - share) * _rows(self.memory, index)[:, None]
        if block.mix == "literal":
            y = x + mixed
        else:
            y = torch.lerp(x, mixed, torch.sigmoid(block.convex))
        self.x = _put(self.x, index, y)

    def _index(self, clips: list[int]) -> Tensor | None:
        """None where all clips are meant: no need to gather."""
        return None if len(clips) == len(self.x) else torch.tensor(clips, device=self.x.device)


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    # Not x[index]: its gradient adds element by element, that of index_select row by row.
    return x if index is None else x.index_select(0, index)


def _put(x: Tensor, index: Tensor | None, rows: Tensor) -> Tensor:
    return rows if index is None else x.index_copy(0, index, rows.to(x.dtype))
