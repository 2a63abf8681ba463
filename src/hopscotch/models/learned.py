"""A transformer stack in which every clip chooses the stride of every layer: `learned_skip`."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import block_macs
from hopscotch.layers.learned_skip import Estimator, LearnedSkip, StrideChoice, StrideGate
from hopscotch.layers.pooling import masked_mean
from hopscotch.layers.transformer import TransformerBlock
from hopscotch.models.encoder import Encoder, check_temperatures, interpolate
from hopscotch.types import SkipTrace, valid_mask

GATE_INPUTS = ("layer", "encoder")


class LearnedBlock(TransformerBlock):
    """A transformer block whose attention is a LearnedSkip."""

    attention: LearnedSkip  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, dim: int, num_heads: int, max_stride: int, *, ffn_ratio: float, dropout: float, estimator: Estimator
    ) -> None:
        super().__init__(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout)
        self.attention = LearnedSkip(dim, num_heads, max_stride, estimator=estimator)

    def run(
        self, x: Tensor, lengths: Tensor, choice: StrideChoice | None, bias: Tensor | float, strides: Tensor | None
    ) -> tuple[Tensor, StrideChoice]:
        """`choice`: planned ahead, if it was; `strides`: to take instead."""
        normed = self.attention_norm(x)
        if choice is None:
            choice = self.attention.choose(normed, lengths, bias)
        if strides is not None:
            choice = choice._replace(strides=strides)
        x = x + self.dropout(self.attention.attend(normed, lengths, choice))
        return self.feed_forward(x), choice


class LearnedStack(Encoder):
    """`gate_input`: "layer", each layer decides when reached; "encoder", all layers are planned from the input."""

    decides = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int,
        *,
        ffn_ratio: float = 4,
        dropout: float = 0.0,
        max_stride: int = 8,
        gate_input: Literal["layer", "encoder"] = "layer",
        estimator: Estimator = "selected",
        temperature_start: float = 2.0,
        temperature_end: float = 0.5,
    ) -> None:
        super().__init__()
        if gate_input not in GATE_INPUTS:
            raise ValueError(f"model.encoder.gate_input must be one of {', '.join(GATE_INPUTS)}, got {gate_input!r}.")
        check_temperatures(temperature_start, temperature_end)
        self.dim, self.ffn_ratio, self.max_stride = dim, ffn_ratio, max_stride
        self.plans_ahead = gate_input == "encoder"
        self.temperatures = (temperature_start, temperature_end)
        self.blocks = nn.ModuleList(
            LearnedBlock(dim, num_heads, max_stride, ffn_ratio=ffn_ratio, dropout=dropout, estimator=estimator)
            for _ in range(depth)
        )
        self.set_progress(0.0)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        plan: list[StrideChoice | None] = [None] * len(self.blocks)
        if self.plans_ahead:
            pooled = masked_mean(x, valid_mask(lengths, x.shape[1]))
            plan = [gate(pooled, bias) for gate in self._gates()]
        strides = None if repeat is None else repeat.strides.to(x.device)
        choices = []
        for layer, (block, planned) in enumerate(zip(self.blocks, plan, strict=True)):
            assert isinstance(block, LearnedBlock)
            x, choice = block.run(x, lengths, planned, bias, None if strides is None else strides[:, layer])
            choices.append(choice)
        return x, self._trace(lengths, choices)

    def _gates(self) -> list[StrideGate]:
        return [gate for gate in self.modules() if isinstance(gate, StrideGate)]

    def _trace(self, lengths: Tensor, choices: list[StrideChoice]) -> SkipTrace:
        options = torch.arange(1, self.max_stride + 1, device=lengths.device)
        by_stride = block_macs(lengths[:, None], self.dim, self.ffn_ratio, options)  # batch strides
        gates = sum(gate.macs() for gate in self._gates())
        strides = torch.stack([choice.strides for choice in choices], dim=1)
        macs = gates + by_stride.gather(1, strides - 1).sum(dim=1)
        dense_macs = gates + by_stride[:, 0] * len(choices)
        expected = gates + torch.stack([(choice.probabilities * by_stride).sum(1) for choice in choices]).sum(0)
        visited = torch.ones_like(strides, dtype=torch.bool)
        return SkipTrace(
            strides=strides,
            visited=visited,
            jumps=torch.full_like(strides, -1, dtype=torch.int8),
            landings=torch.zeros_like(visited),
            open_rate=torch.full(strides.shape, torch.nan, device=strides.device),
            macs=macs,
            dense_macs=dense_macs,
            expected_compute=expected / dense_macs,
            log_prob=torch.zeros(len(lengths), device=lengths.device),
            entropy=torch.stack([choice.entropy for choice in choices]).mean(0),
            predicted_cost=predicted_cost(choices),
        )

    def macs_range(self, time: int) -> tuple[int, int]:
        gates = sum(gate.macs() for gate in self._gates())
        cheapest, dense = (block_macs(time, self.dim, self.ffn_ratio, s) for s in (self.max_stride, 1))
        return gates + len(self.blocks) * cheapest, gates + len(self.blocks) * dense

    def set_progress(self, progress: float) -> None:
        for gate in self._gates():
            gate.temperature = interpolate(*self.temperatures, progress)


def predicted_cost(choices: list[StrideChoice]) -> Float[Tensor, " batch"] | None:
    """What the gates expect the strides drawn to lose against the dense run: the sum of their costs."""
    costs = [choice.costs for choice in choices if choice.costs is not None]
    return torch.stack(costs).sum(0) if costs else None
