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

from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import feed_forward_macs
from hopscotch.layers.adapter import Adapter
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.gate import Gate, Rule
from hopscotch.layers.policy import (
    JumpPolicy,
    JumpRule,
    RouteEstimator,
    Sees,
    check_choice,
    shortest_route,
)
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.layers.route import Route, sent
from hopscotch.types import Decisions, SkipTrace, valid_mask

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
        block: BlockSpec | None = None,
        jump_rule: JumpRule = "skip",
        jump_max: int = 3,
        jump_mix: Mix = "convex",
        policy_sees: Sees = "first",
        policy_tied: bool = False,
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
        spec = BlockSpec(dim, num_heads) if block is None else block
        check_choice("inner", inner, ("adapter", "transformer"))
        check_choice("jump_mix", jump_mix, ("literal", "convex", "none"))
        check_choice("policy_sees", policy_sees, ("input", "first", "state"))
        if policy_estimator == "gain" and policy_sees == "state":
            raise ValueError("policy_sees must be input or first under policy_estimator=gain, got state.")
        self.dim, self.depth, self.max_jump = dim, depth, jump_max
        self.spec = spec
        self.inner, self.mix, self.sees = inner, jump_mix, policy_sees
        num_features = dim if policy_sees == "input" else 2 * dim
        self.policy = JumpPolicy(
            num_features, depth, max_jump=jump_max, rule=jump_rule, tied=policy_tied, estimator=policy_estimator
        )
        self.logs: dict[str, list[list[int]]] = {"jumps": []}
        self.layers = nn.ModuleList()
        self.gates: list[Gate] = []
        for index in range(depth):
            if inner == "transformer":
                self.layers.append(TransformerBlock(spec))
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
                layer=index,
            )
            self.gates.append(gate)
            self.layers.append(
                Adapter(dim, index, mini_hc=mini_hc, expansion=expansion, dropout=spec.dropout, gate=gate)
            )
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
        repeat: Decisions | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        """Cross the block and say what every clip did.

        In evaluation `bias` > 0 asks for more compute; `repeat` holds jumps to take instead of the policy's.
        """
        batch, time = x.shape[:2]
        x = x.to(next(self.parameters()).dtype)  # the residual stream stays in full precision under autocast
        lengths = x.new_full((batch,), time, dtype=torch.long) if lengths is None else lengths
        mask = valid_mask(lengths, time)
        route = Route(self.policy, batch, x.device, None if repeat is None else repeat.jumps.to(x.device))
        walk = _Walk(self, x, mask, lengths, route, bias)
        if self.sees == "input":
            self._plan(route, masked_mean(x, mask), bias)
        for layer in range(self.depth - 1):
            walk.visit(layer)
            if self.sees == "first" and layer == 0:
                self._plan(route, masked_mean_and_std(walk.everyone(), mask), bias)
            elif self.sees == "state":
                scores = self.policy(masked_mean_and_std(walk.everyone(), mask))
                route.decide(scores[:, layer : layer + 1], bias)
            walk.land(layer)
        walk.visit(self.depth - 1)
        y = walk.everyone()
        if self.inner == "adapter":
            y = y + torch.sigmoid(self.final_gate(y)) * self.final(self.final_norm(y))
        return y, self._trace(route, walk, lengths)

    def _plan(self, route: Route, summary: Tensor, bias: Tensor | float) -> None:
        """Decide after all layers at once."""
        if self.policy.estimator == "gain":
            route.summary = summary.detach()
        route.decide(self.policy(summary), bias)

    def _trace(self, route: Route, walk: "_Walk", lengths: Tensor) -> SkipTrace:
        visited, chances = route.visited, route.chances
        constant = self.constant_macs(lengths)
        visit_macs = self.layer_macs(0, lengths)[:, None].expand(-1, self.depth)  # the gate's, where tokens have one
        macs, dense_macs, expected = visited * visit_macs, visit_macs, chances * visit_macs
        open_rate = torch.full(visited.shape, torch.nan, device=visited.device)
        if self.gates:
            # Adapters alternate in what they cost.
            open_macs = torch.stack([self.token_macs(i % 2, lengths) for i in range(self.depth)], dim=1)  # batch depth
            rates = torch.stack(walk.open_rates, dim=1)
            mean_rate = (torch.where(visited, rates, 0.0).sum(0) / visited.sum(0).clamp(min=1)).detach()
            macs = macs + torch.stack(walk.num_open, dim=1) * (open_macs // lengths[:, None])
            dense_macs = dense_macs + open_macs
            expected = expected + chances * torch.where(visited, rates, mean_rate) * open_macs
            open_rate = torch.where(visited, rates, torch.nan).detach()
        dense_macs = constant + dense_macs.sum(dim=1)
        samples = self.training and self.policy.estimator == "reinforce"
        return SkipTrace.of(
            visited,
            constant + macs.sum(dim=1),
            dense_macs,
            strides=visited.long() if self.inner == "transformer" else None,
            jumps=route.jumps,
            landings=route.landings,
            open_rate=open_rate,
            expected_compute=(constant + expected.sum(dim=1)) / dense_macs,
            log_prob=route.log_prob() if samples else torch.zeros_like(chances[:, 0]),
            entropy=route.entropy(),
            summary=route.summary,
        )

    def layer_macs(self, layer: int, time: Tensor) -> Tensor:
        """What a visit costs before any token is open; the memory's gate is in it, jump or no jump."""
        memory = 0 if self.mix == "none" else self.dim
        if self.inner == "transformer":
            return self.spec.macs(time) + memory
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

    def __init__(
        self, block: SkipLayer, x: Tensor, mask: Tensor, lengths: Tensor, route: Route, bias: Tensor | float
    ) -> None:
        self.block, self.mask, self.lengths, self.route, self.bias = block, mask, lengths, route, bias
        self.clips = list(range(len(x)))
        self.tokens, self.start = _Rows(x), _Rows(x)
        self.memory = None if block.mix == "none" else block.work_mem.expand(len(x), -1)
        self.shares = (mask / lengths[:, None]).to(x.dtype)  # of each position in its clip's mean
        self.open_rates: list[Tensor] = []  # per layer (batch,), 1 where not visited
        self.num_open: list[Tensor] = []  # per layer (batch,)

    def _index(self, clips: list[int]) -> Tensor | None:
        """None where all clips of the batch are meant."""
        return None if clips == self.clips else sent(clips, self.lengths.device)

    def everyone(self) -> Tensor:
        """The tokens of all clips, wherever they are."""
        return self.tokens.take(self.clips)

    def visit(self, layer: int) -> None:
        """Run the layer on the clips that come by, and let them remember."""
        clips, module = self.route.visiting[layer], self.block.layers[layer]
        if isinstance(module, Adapter):
            self.open_rates.append(self.shares.new_ones(len(self.shares)))
            self.num_open.append(torch.zeros_like(self.lengths))
        if not clips:
            return
        index, x = self._index(clips), self.tokens.take(clips)
        if isinstance(module, Adapter):
            y, decision = module(x, _picked(self.mask, index), GATE_SHARE * self.bias)
            self.open_rates[-1] = _put(self.open_rates[-1], index, decision.open_rate)
            self.num_open[-1] = _put(self.num_open[-1], index, decision.is_open.detach().sum(dim=1).long())
        else:
            y = module(x, _picked(self.lengths, index))
        chance = self.route.drawn_chance(layer)
        if chance is not None:
            y = Credit.apply(x, y, _picked(chance, index))
        self.tokens.put(clips, y)
        self._remember(layer, index)

    def _remember(self, layer: int, index: Tensor | None) -> None:
        """Only the clips that jump from here on: nobody else's memory is ever read. `index`: all who come by."""
        clips = self.route.to_jump(layer)
        if self.memory is None or not clips:
            return
        if clips != self.route.visiting[layer]:
            index = self._index(clips)
        mean = (self.tokens.take(clips) * _picked(self.shares, index)[:, :, None]).sum(dim=1)
        keep = torch.sigmoid(self.block.memory_gate(mean))
        remembered = torch.lerp(mean, _picked(self.memory, index), keep.to(mean.dtype))
        self.memory = _put(self.memory, index, remembered)

    def land(self, layer: int) -> None:
        """Mix the start and the memory into the clips that jump from here."""
        clips = self.route.jumping[layer]
        if self.memory is None or not clips:
            return
        block, x = self.block, self.tokens.take(clips)
        actions = sent(self.route.jumped(layer, clips), x.device)
        share = block.jump_weights.index_select(0, actions - 1)[:, None, None]
        memory = _picked(self.memory, self._index(clips))
        mixed = torch.lerp(memory[:, None], self.start.take(clips), share)
        y = x + mixed if block.mix == "literal" else torch.lerp(x, mixed, torch.sigmoid(block.convex))
        self.tokens.put(clips, y)


class _Rows:
    """What every clip carries along, taken as a batch of any clips and put back.

    A clip's row stays in the batch that it was last part of: clips left out are neither copied nor written, and their
    gradient needs no scatter.
    """

    def __init__(self, batch: Tensor) -> None:
        self.where: dict[int, tuple[_Batch, int]] = {}  # by clip
        self.put(list(range(len(batch))), batch)

    def take(self, clips: list[int]) -> Tensor:
        if clips == self.last.clips:
            return self.last.batch
        return torch.stack([batch.rows[row] for batch, row in (self.where[clip] for clip in clips)])

    def put(self, clips: list[int], batch: Tensor) -> None:
        self.last = _Batch(clips, batch)
        for row, clip in enumerate(clips):
            self.where[clip] = (self.last, row)


class _Batch:
    """A batch of some clips, cut into rows when they are first asked for."""

    def __init__(self, clips: list[int], batch: Tensor) -> None:
        self.clips, self.batch = clips, batch

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        return self.batch.unbind()


class Credit(torch.autograd.Function):
    """The layer's output y for its input x, as it is; the chance of coming by learns what the visit is worth.

    d chance = sum of (y - x) dy: the gradient of a weight of 1 on what the layer adds.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, chance: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor]:
        (grad,), (x, y) = grad_outputs, ctx.saved_tensors
        return None, grad, ((y - x) * grad).flatten(1).sum(dim=1)


def _picked(x: Tensor, index: Tensor | None) -> Tensor:
    """None where all clips are meant: no need to gather."""
    return x if index is None else x.index_select(0, index)  # x[index]: a slow gradient


def _put(x: Tensor, index: Tensor | None, rows: Tensor) -> Tensor:
    return rows if index is None else x.index_copy(0, index, rows.to(x.dtype))
