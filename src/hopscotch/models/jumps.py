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

from hopscotch.layers.jump import Inner, SkipLayer
from hopscotch.models.encoder import Encoder, check_temperatures, interpolate
from hopscotch.models.stack import Stack
from hopscotch.types import SkipTrace


class JumpStack(Encoder):
    """`jump`, `policy` and `gate` hold the SkipLayer's arguments of that prefix: jump={"max": 2} is jump_max=2."""

    decides = True

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
        convolution_width: int = 0,
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
        self.thresholds_follow_the_loss = arguments["gate_threshold_by"] == "loss"
        self.block = SkipLayer(
            dim,
            num_heads,
            depth,
            inner=inner,
            mini_hc=mini_hc,
            expansion=expansion,
            ffn_ratio=ffn_ratio,
            dropout=dropout,
            convolution_width=convolution_width,
            **arguments,
        )
        self.set_progress(0.0)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        return self.block.run(x, lengths, bias=bias, repeat=repeat)

    def macs_range(self, time: int) -> tuple[int, int]:
        return self.block.macs_range(time)

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.block.layers) if self.block.inner == "transformer" else ()

    @property
    def gain_net(self) -> nn.Module | None:
        return self.block.policy if self.block.policy.estimator == "gain" else None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> SkipTrace:
        going_on = torch.rand(len(like.macs), 1, generator=generator)
        jumps = torch.randint(1, self.block.max_jump + 1, like.jumps.shape, generator=generator)
        jumps = torch.where(torch.rand(like.jumps.shape, generator=generator) < going_on, 0, jumps)
        return replace(like, jumps=jumps.to(torch.int8))

    def predicted_cost(self, summary: Tensor, decisions: SkipTrace) -> Float[Tensor, " batch"]:
        skipped = ~decisions.visited[:, : self.block.depth].to(summary.device)
        return (self.block.policy.gains(summary) * skipped).sum(dim=1)

    def update_threshold(self, loss: float | Tensor, lr: float) -> None:
        """Nothing under gate.threshold_by=gradient: there the optimizer alone moves the thresholds."""
        if self.thresholds_follow_the_loss:
            self.block.update_threshold(loss, lr)

    def set_progress(self, progress: float) -> None:
        self.block.policy.temperature = interpolate(*self.temperatures, progress)

    def thresholds(self) -> dict[int, Tensor]:
        return {layer: gate.threshold.detach() for layer, gate in enumerate(self.block.gates)}


class JumpAttention(Encoder):
    """`depth` jump layers, then `attention_depth` attention layers; `jump_arguments` are those of JumpStack."""

    decides = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int,
        *,
        attention_depth: int = 4,
        first: int = 4,
        ffn_ratio: float = 4,
        dropout: float = 0.0,
        convolution_width: int = 0,
        **jump_arguments: Any,
    ) -> None:
        super().__init__()
        blocks: dict[str, Any] = {"ffn_ratio": ffn_ratio, "dropout": dropout, "convolution_width": convolution_width}
        self.jump = JumpStack(dim, num_heads, depth, **blocks, **jump_arguments)
        self.attention = Stack(dim, num_heads, attention_depth, **blocks, first=first)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        x, jumped = self.jump(x, lengths, bias, repeat)
        x, attended = self.attention(x, lengths)
        return x, joined(jumped, attended)

    def macs_range(self, time: int) -> tuple[int, int]:
        (cheap, dense), (fixed, fixed_dense) = self.jump.macs_range(time), self.attention.macs_range(time)
        return cheap + fixed, dense + fixed_dense

    def most_macs(self, time: int) -> int:
        return self.jump.most_macs(time) + self.attention.most_macs(time)

    def static_parts(self) -> Sequence[nn.Module]:
        return [*self.jump.static_parts(), *self.attention.static_parts()]

    @property
    def gain_net(self) -> nn.Module | None:
        return self.jump.gain_net

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> SkipTrace:
        return self.jump.random_decisions(like, generator)

    def predicted_cost(self, summary: Tensor, decisions: SkipTrace) -> Float[Tensor, " batch"]:
        return self.jump.predicted_cost(summary, decisions)

    def update_threshold(self, loss: float | Tensor, lr: float) -> None:
        self.jump.update_threshold(loss, lr)

    def set_progress(self, progress: float) -> None:
        self.jump.set_progress(progress)

    def thresholds(self) -> dict[int, Tensor]:
        return self.jump.thresholds()


def joined(first: SkipTrace, second: SkipTrace) -> SkipTrace:
    """One trace of a deciding encoder and a fixed one behind it; the decision layers of `first` come first."""

    def beside(name: str) -> Tensor:
        return torch.cat([getattr(first, name), getattr(second, name)], dim=1)

    dense_macs = first.dense_macs + second.dense_macs
    expected = first.expected_compute * first.dense_macs + second.expected_compute * second.dense_macs
    return SkipTrace(
        strides=beside("strides"),
        visited=beside("visited"),
        jumps=beside("jumps"),
        landings=beside("landings"),
        open_rate=beside("open_rate"),
        macs=first.macs + second.macs,
        dense_macs=dense_macs,
        expected_compute=expected / dense_macs,
        log_prob=first.log_prob,
        entropy=first.entropy,
        summary=first.summary,
    )
