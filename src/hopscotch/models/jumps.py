"""Use the jump block as an encoder, alone or in front of a stack of skip attention.

skip_layer, skip_layer_plain, skip_transformer     the block (JumpStack)
jump_attention                                     the block, which works on tokens and decides; then a stack that
                                                   attends, with fixed strides (JumpAttention)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Cost
from hopscotch.layers.block import BlockSpec
from hopscotch.layers.checks import check_temperatures
from hopscotch.layers.jump import Inner, SkipLayer
from hopscotch.layers.sampling import Scheduled, draw_of_every_cost, interpolate
from hopscotch.models.encoder import Encoder, Planner
from hopscotch.models.stack import Stack
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace


class JumpStack(Planner, Scheduled):
    """Encode with a SkipLayer.

    `jump` and `policy` hold its arguments of that prefix (jump={"max": 2} is jump_max=2), `gate` those of its gates.
    """

    decides = True

    def __init__(
        self,
        block: BlockSpec,
        depth: int,
        *,
        inner: Inner = "adapter",
        mini_hc: bool = True,
        expansion: int = 2,
        jump: Mapping[str, Any],
        policy: Mapping[str, Any],
        gate: Mapping[str, Any],
        temperature_start: float = 1.5,
        temperature_end: float = 0.5,
    ) -> None:
        super().__init__()
        check_temperatures(temperature_start, temperature_end)
        self.temperatures = (temperature_start, temperature_end)
        self.block = SkipLayer(
            block.dim,
            block.num_heads,
            depth,
            inner=inner,
            mini_hc=mini_hc,
            expansion=expansion,
            block=block,
            gate={"threshold_by": "loss", **gate},  # the training loop calls `update_threshold`
            **{f"jump_{key}": value for key, value in jump.items()},
            **{f"policy_{key}": value for key, value in policy.items()},
        )
        self.gates = self.block.gates
        self.skips = frozenset({"layers", "tokens"} if self.gates else {"layers"})
        self.set_progress(0.0)

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        return self.block.run(x, lengths, bias=bias, repeat=repeat)

    def cost(self, time: int) -> Cost:
        return self.block.cost(time)

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.block.layers) if self.block.inner == "transformer" else ()

    @property
    def gain_net(self) -> nn.Module | None:
        return self.block.policy if self.block.policy.estimator == "gain" else None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> Decisions:
        batch, depth = like.jumps.shape
        jumps = draw_of_every_cost((batch, depth), range(1, self.block.max_jump + 1), 0, generator)
        return replace(like.decisions, jumps=jumps.to(torch.int8))

    def predicted_cost(self, summary: Tensor, trace: SkipTrace) -> Float[Tensor, " batch"]:
        skipped = ~trace.visited[:, : self.block.depth].to(summary.device)
        return (self.block.policy.gains(summary) * skipped).sum(dim=1)

    def set_progress(self, progress: float) -> None:
        self.block.policy.temperature = interpolate(*self.temperatures, progress)


class JumpAttention(Encoder):
    """Encode with `depth` jump layers, then with `attention_depth` attention layers.

    `jump_arguments` are those of JumpStack.
    """

    decides = True

    def __init__(
        self, block: BlockSpec, depth: int, *, attention_depth: int = 4, first: int = 4, **jump_arguments: Any
    ) -> None:
        super().__init__()
        self.jump = JumpStack(block, depth, **jump_arguments)
        self.attention = Stack(block, attention_depth, first=first)
        self.gates, self.skips = self.jump.gates, self.jump.skips | self.attention.skips

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        x, jumped = self.jump(x, lengths, bias, repeat)
        x, attended = self.attention(x, lengths)
        return x, joined(jumped, attended)

    def cost(self, time: int) -> Cost:
        return self.jump.cost(time) + self.attention.cost(time)


def joined(first: SkipTrace, second: SkipTrace) -> SkipTrace:
    """Join the traces of a deciding encoder and a fixed one behind it; the decision layers of `first` come first."""
    side_by_side = {
        name: torch.cat([getattr(first, name), getattr(second, name)], dim=1)
        for name in ("strides", "jumps", "visited", "landings", "open_rate")
    }
    decisions = Decisions(side_by_side.pop("strides"), side_by_side.pop("jumps"))
    dense_macs = first.dense_macs + second.dense_macs
    expected = first.expected_compute * first.dense_macs + second.expected_compute * second.dense_macs
    return replace(
        first,
        decisions=decisions,
        macs=first.macs + second.macs,
        dense_macs=dense_macs,
        expected_compute=expected / dense_macs,
        **side_by_side,
    )
