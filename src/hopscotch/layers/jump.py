"""Run a block of layers that a clip may jump over, with a working memory and token gates.

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

Layer 0 and the last layer always run. Every layer runs only on the clips that visit it. Source: skip_layer of the
original formulation.

    jump = SkipLayer(dim, heads, depth)
    y = jump(x)                                      # or jump(x, lengths)
    jump.update_threshold(loss=loss.item())          # after each step; without it the threshold moves by gradient
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import Cost, feed_forward_macs
from hopscotch.layers.adapter import Adapter
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.checks import check_choice, refuse_tracing
from hopscotch.layers.gate import Gate
from hopscotch.layers.policy import JumpPolicy, JumpRule, RouteEstimator, Sees, shortest_route
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.layers.route import Route, sent
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace, valid_mask

Mix = Literal["literal", "convex", "none"]
Inner = Literal["adapter", "transformer"]

JUMP_WEIGHTS = (0.1, 0.05, 0.01)  # J_a of the original formulation; longer jumps start like its third
CONVEX_START = 0.1  # c of the convex landing
GATE_SHARE = 0.1  # of a decision bias: a budget shortens routes before it closes single tokens
FINAL_RATIO = 4  # width of the closing MLP / dim, as in the original formulation


class SkipLayer(nn.Module):
    """Send every clip of a batch on its own route through `depth` layers.

    Args:
        dim: Width of the hidden states; a multiple of `num_heads`.
        num_heads: Attention heads of inner transformer blocks.
        depth: Layers, at least 2.
        inner: What a layer is: "adapter" works token by token behind a gate, "transformer" is a whole block.
        mini_hc: Add mini hyper-connections to adapters, at `expansion` times their cost.
        expansion: Pathways of a mini hyper-connection, at least 1.
        block: Options of inner transformer blocks; its dropout is that of adapters, too.
        jump_rule: Where an action leads: "skip" or "literal".
        jump_max: Largest action, at least 1.
        jump_mix: What a landing adds: "literal", "convex" or "none".
        policy_sees: "input" and "first" plan the whole route at once, from the block's input (as the original
            formulation does) or from the state after layer 0. "state" decides layer by layer, at the price of one host
            synchronisation for each.
        policy_tied: Use equal logits at all layers, as in the original formulation.
        policy_estimator: How the policy learns (layers/policy.py).
        gate: Arguments of the adapters' gates (`Gate`); by default a threshold moves by gradient until
            `update_threshold` is first called.
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
        gate: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("inner", inner, Inner)
        check_choice("jump_mix", jump_mix, Mix)
        check_choice("policy_sees", policy_sees, Sees)
        if policy_estimator == "gain" and policy_sees == "state":
            raise ValueError("policy_sees must be input or first under policy_estimator=gain, got state.")
        self.spec = BlockSpec(dim, num_heads) if block is None else block
        self.dim, self.depth, self.max_jump = dim, depth, jump_max
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
                self.layers.append(TransformerBlock(self.spec))
                continue
            own_gate = Gate(dim, layer=index, **(gate or {}))
            self.gates.append(own_gate)
            self.layers.append(
                Adapter(dim, index, mini_hc=mini_hc, expansion=expansion, dropout=self.spec.dropout, gate=own_gate)
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

    def extra_repr(self) -> str:
        return f"{self.dim}, depth={self.depth}, inner={self.inner}, sees={self.sees}, mix={self.mix}"

    def forward(self, x: Hidden, lengths: Lengths | None = None) -> Hidden:
        """Run the block; `logs["jumps"]` then holds each clip's history, as in the original formulation."""
        y, trace = self.run(x, lengths)
        self.logs = {"jumps": trace.histories}
        return y

    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the thresholds of all gates by the loss of the last step (layers/gate.py has the rules)."""
        for gate in self.gates:
            gate.update_threshold(loss, lr)

    def run(
        self, x: Hidden, lengths: Lengths | None = None, *, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        """Run the block and record what every clip did.

        In evaluation `bias` > 0 favours more compute; `repeat` holds jumps to take instead of the policy's.
        """
        refuse_tracing()
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
        y = walk.everyone() if walk.idle is None else walk.everyone() + walk.idle
        return self.closed(y), self._trace(route, walk, lengths)

    def remembered(
        self, mean: Float[Tensor, "batch dim"], memory: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """Mix the mean of the tokens into the memory."""
        keep = torch.sigmoid(self.memory_gate(mean))
        return torch.lerp(mean, memory, keep.to(mean.dtype))

    def landed(
        self, x: Hidden, start: Hidden, memory: Float[Tensor, "batch dim"], actions: Int[Tensor, " batch"]
    ) -> Hidden:
        """Mix the block's input and the memory into tokens that jump, by actions above 0."""
        share = self.jump_weights.index_select(0, actions - 1)[:, None, None]
        mixed = torch.lerp(memory[:, None], start, share)
        return x + mixed if self.mix == "literal" else torch.lerp(x, mixed, torch.sigmoid(self.convex))

    def closed(self, x: Hidden) -> Hidden:
        """Add what follows the last layer: the MLP of adapters."""
        if self.inner == "transformer":
            return x
        return x + torch.sigmoid(self.final_gate(x)) * self.final(self.final_norm(x))

    def _plan(self, route: Route, summary: Tensor, bias: Tensor | float) -> None:
        """Decide the whole route at once."""
        if self.policy.estimator == "gain":
            route.summary = summary.detach()
        route.decide(self.policy(summary), bias)

    def _trace(self, route: Route, walk: "_Walk", lengths: Tensor) -> SkipTrace:
        visited, chances = route.visited, route.chances
        constant = self.constant_macs(lengths)
        visit_macs = self.layer_macs(0, lengths)[:, None].expand(-1, self.depth)  # of adapters: the gate alone
        macs, dense_macs, expected = visited * visit_macs, visit_macs, chances * visit_macs
        open_rate = torch.full(visited.shape, torch.nan, device=visited.device)
        if self.gates:
            # Adapters alternate in what they cost.
            open_macs = torch.stack([self.token_macs(i % 2, lengths) for i in range(self.depth)], dim=1)  # batch depth
            rates = torch.stack(walk.open_rates, dim=1)
            totals = torch.stack([torch.where(visited, rates, 0.0).sum(0), visited.sum(0).to(rates.dtype)]).detach()
            if self.training and self.policy.together is not None:
                totals = self.policy.together.added(totals)
            mean_rate = totals[0] / totals[1].clamp(min=1)
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
        """Count the MACs of a visit without open tokens, including the memory's gate, with or without a jump."""
        memory = 0 if self.mix == "none" else self.dim
        if self.inner == "transformer":
            return self.spec.macs(time) + memory
        return self.gates[layer].macs(time) + memory

    def token_macs(self, layer: int, time: Tensor) -> Tensor:
        """Count the additional MACs of a visit with every token open."""
        if self.inner == "transformer":
            return torch.zeros_like(time)
        module = self.layers[layer]
        assert isinstance(module, Adapter)
        return module.open_macs(time)

    def constant_macs(self, time: Tensor) -> Tensor:
        """Count the MACs of the policy and of the closing MLP."""
        num_calls = self.depth - 1 if self.sees == "state" else 1
        macs = torch.full_like(time, num_calls * self.policy.macs())
        if self.inner == "adapter":
            macs = macs + time * self.dim + feed_forward_macs(time, self.dim, FINAL_RATIO)
        return macs

    def cost(self, time: int) -> Cost:
        """Count the MACs of a clip of `time` positions; the cheapest has the shortest route and closed gates."""
        positions = torch.tensor(time)
        visits = [int(self.layer_macs(i, positions)) for i in range(self.depth)]
        constant = int(self.constant_macs(positions))
        route = shortest_route(visits, self.max_jump, self.policy.rule)
        dense = constant + sum(visits) + sum(int(self.token_macs(i, positions)) for i in range(self.depth))
        return Cost(constant + sum(visits[i] for i in route), dense, dense, dense)


class _Walk:
    """Carry the tokens and the memory of a batch through the block."""

    def __init__(
        self, block: SkipLayer, x: Tensor, mask: Tensor, lengths: Tensor, route: Route, bias: Tensor | float
    ) -> None:
        self.block, self.mask, self.lengths, self.route, self.bias = block, mask, lengths, route, bias
        self.clips = list(range(len(x)))
        self.tokens, self.start = _Rows(x), _Rows(x)
        self.memory = None if block.mix == "none" else block.work_mem.expand(len(x), -1)
        self.shares = (mask / lengths[:, None]).to(x.dtype)  # weight of each position in its clip's mean
        self.open_rates: list[Tensor] = []  # per layer (batch,), 1 where not visited
        self.num_open: list[Tensor] = []  # per layer (batch,)
        self.idle: Tensor | None = None  # a 0 by which gates that no clip visits take part in those of other processes

    def _index(self, clips: list[int]) -> Tensor | None:
        """Return the clips as an index; None for all clips of the batch."""
        return None if clips == self.clips else sent(clips, self.lengths.device)

    def everyone(self) -> Tensor:
        """Return the tokens of all clips."""
        return self.tokens.take(self.clips)

    def visit(self, layer: int) -> None:
        """Run the layer on the clips that visit it, and update their memories."""
        clips, module = self.route.visiting[layer], self.block.layers[layer]
        if isinstance(module, Adapter):
            self.open_rates.append(self.shares.new_ones(len(self.shares)))
            self.num_open.append(torch.zeros_like(self.lengths))
        if not clips:
            idle = module.gate.absent(self.tokens.last.batch) if isinstance(module, Adapter) else None
            if idle is not None:
                self.idle = idle if self.idle is None else self.idle + idle
            return
        index, x = self._index(clips), self.tokens.take(clips)
        if isinstance(module, Adapter):
            with self.block.policy.among(index):
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
        """Update the memory of the clips that still jump, as no other is read; `index` is that of all visitors."""
        clips = self.route.to_jump(layer)
        if self.memory is None or not clips:
            return
        if clips != self.route.visiting[layer]:
            index = self._index(clips)
        mean = (self.tokens.take(clips) * _picked(self.shares, index)[:, :, None]).sum(dim=1)
        self.memory = _put(self.memory, index, self.block.remembered(mean, _picked(self.memory, index)))

    def land(self, layer: int) -> None:
        """Mix the block's input and the memory into the clips that jump from the layer."""
        clips = self.route.jumping[layer]
        if self.memory is None or not clips:
            return
        actions = sent(self.route.jumped(layer, clips), self.lengths.device)
        memory = _picked(self.memory, self._index(clips))
        self.tokens.put(clips, self.block.landed(self.tokens.take(clips), self.start.take(clips), memory, actions))


class _Rows:
    """Hold a tensor per clip, read as a batch of any clips and written back.

    A clip's row stays in the batch that it was last written with: other clips are neither copied nor written, and their
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
    """Hold a batch of some clips, split into rows when these are first read."""

    def __init__(self, clips: list[int], batch: Tensor) -> None:
        self.clips, self.batch = clips, batch

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        return self.batch.unbind()


class Credit(torch.autograd.Function):
    """Pass the layer's output y on unchanged, and let the chance of a visit learn what the visit is worth.

    d chance = sum of (y - x) dy: the gradient of a weight of 1 on what the layer adds to its input x.
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
    """Select clips; None selects all of them, without a copy."""
    return x if index is None else x.index_select(0, index)  # x[index]: a slow gradient


def _put(x: Tensor, index: Tensor | None, rows: Tensor) -> Tensor:
    return rows if index is None else x.index_copy(0, index, rows.to(x.dtype))
