"""A jump block upstream of a stack of skip attention: `jump_attention`.

The block works on the tokens and decides; the stack behind it attends, with strides fixed beforehand.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.models.encoder import Encoder
from hopscotch.models.jump import JumpStack
from hopscotch.models.stack import Stack
from hopscotch.types import SkipTrace


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
