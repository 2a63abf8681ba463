"""The jump block as an encoder: `skip_layer`, `skip_layer_plain`, `skip_transformer`.

A jump block upstream of a stack of skip attention: `jump_attention`.

The block works on the tokens and decides; the stack behind it attends, with strides fixed beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.layers.block import BlockSpec
from hopscotch.layers.jump import Inner, SkipLayer
from hopscotch.layers.sampling import Scheduled, check_temperatures, interpolate
from hopscotch.models.encoder import Cost, Encoder
from hopscotch.models.planned import Planner
from hopscotch.models.stack import Stack
from hopscotch.types import Decisions, SkipTrace


class JumpStack(Planner, Scheduled):
    """`jump`, `policy` and `gate` hold the SkipLayer's arguments of that prefix: jump={"max": 2} is jump_max=2."""

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
        groups = {"jump": jump, "policy": policy, "gate": gate}
        # The training loop tells the loss; a block used by itself may never hear it.
        arguments: dict[str, Any] = {"gate_threshold_by": "loss"}
        arguments |= {f"{group}_{key}": value for group, values in groups.items() for key, value in values.items()}
        check_temperatures(temperature_start, temperature_end)
        self.temperatures = (temperature_start, temperature_end)
        self.block = SkipLayer(
            block.dim,
            block.num_heads,
            depth,
            block=block,
            inner=inner,
            mini_hc=mini_hc,
            expansion=expansion,
            **arguments,
        )
        self.gates = self.block.gates
        self.skips = frozenset({"layers", "tokens"} if self.gates else {"layers"})
        self.set_progress(0.0)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: Decisions | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        return self.block.run(x, lengths, bias=bias, repeat=repeat)

    def cost(self, time: int) -> Cost:
        cheapest, dense = self.block.macs_range(time)
        return Cost(cheapest, dense, dense, dense)

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.block.layers) if self.block.inner == "transformer" else ()

    @property
    def gain_net(self) -> nn.Module | None:
        return self.block.policy if self.block.policy.estimator == "gain" else None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> Decisions:
        going_on = torch.rand(len(like.macs), 1, generator=generator)
        jumps = torch.randint(1, self.block.max_jump + 1, like.jumps.shape, generator=generator)
        jumps = torch.where(torch.rand(like.jumps.shape, generator=generator) < going_on, 0, jumps)
        return replace(like.decisions, jumps=jumps.to(torch.int8))

    def predicted_cost(self, summary: Tensor, trace: SkipTrace) -> Float[Tensor, " batch"]:
        skipped = ~trace.visited[:, : self.block.depth].to(summary.device)
        return (self.block.policy.gains(summary) * skipped).sum(dim=1)

    def set_progress(self, progress: float) -> None:
        self.block.policy.temperature = interpolate(*self.temperatures, progress)


class JumpAttention(Encoder):
    """`depth` jump layers, then `attention_depth` attention layers; `jump_arguments` are those of JumpStack."""

    decides = True

    def __init__(
        self,
        block: BlockSpec,
        depth: int,
        *,
        attention_depth: int = 4,
        first: int = 4,
        **jump_arguments: Any,
    ) -> None:
        super().__init__()
        self.jump = JumpStack(block, depth, **jump_arguments)
        self.attention = Stack(block, attention_depth, first=first)
        self.gates, self.skips = self.jump.gates, self.jump.skips | self.attention.skips

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: Decisions | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        x, jumped = self.jump(x, lengths, bias, repeat)
        x, attended = self.attention(x, lengths)
        return x, joined(jumped, attended)

    def cost(self, time: int) -> Cost:
        return self.jump.cost(time) + self.attention.cost(time)


def joined(first: SkipTrace, second: SkipTrace) -> SkipTrace:
    """One trace of a deciding encoder and a fixed one behind it; the decision layers of `first` come first."""

    def beside(name: str) -> Tensor:
        return torch.cat([getattr(first, name), getattr(second, name)], dim=1)

    dense_macs = first.dense_macs + second.dense_macs
    expected = first.expected_compute * first.dense_macs + second.expected_compute * second.dense_macs
    return SkipTrace(
        decisions=Decisions(strides=beside("strides"), jumps=beside("jumps")),
        visited=beside("visited"),
        landings=beside("landings"),
        open_rate=beside("open_rate"),
        macs=first.macs + second.macs,
        dense_macs=dense_macs,
        expected_compute=expected / dense_macs,
        log_prob=first.log_prob,
        entropy=first.entropy,
        summary=first.summary,
    )
