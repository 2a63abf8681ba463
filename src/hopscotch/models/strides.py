"""A transformer stack in which every clip chooses the stride of every layer: `learned_skip`."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import Count, block_macs
from hopscotch.layers.block import TransformerBlock
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.layers.stride import Estimator, LearnedSkip, StrideChoice, StrideGate
from hopscotch.models.encoder import Encoder, check_temperatures, interpolate
from hopscotch.types import SkipTrace, valid_mask

GateInput = Literal["layer", "encoder", "first"]
Heads = Literal["per_layer", "shared"]
GATE_INPUTS, HEADS = ("layer", "encoder", "first"), ("per_layer", "shared")


class LearnedBlock(TransformerBlock):
    """A transformer block whose attention is a LearnedSkip; its gate reads the input, or a plan's summary."""

    attention: LearnedSkip  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        max_stride: int,
        *,
        ffn_ratio: float,
        dropout: float,
        convolution_width: int,
        estimator: Estimator,
        num_features: int | None,
    ) -> None:
        super().__init__(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout, convolution_width=convolution_width)
        self.attention = LearnedSkip(dim, num_heads, max_stride, estimator=estimator, num_features=num_features)

    @property
    def gate(self) -> StrideGate:
        return self.attention.gate

    @property
    def _attention_output(self) -> nn.Linear:
        return self.attention.attention.output

    def run(
        self, x: Tensor, lengths: Tensor, choice: StrideChoice | None, bias: Tensor | float, strides: Tensor | None
    ) -> tuple[Tensor, StrideChoice]:
        """`choice`: planned ahead, if it was; `strides`: to take instead."""
        x = self.look_around(x, lengths)
        normed = self.attention_norm(x)
        if choice is None:
            choice = self.attention.choose(normed, lengths, bias)
        if strides is not None:
            chosen = nn.functional.one_hot(strides.long() - 1, choice.weights.shape[1]).to(choice.weights.dtype)
            choice = choice._replace(strides=strides, weights=chosen)
        x = x + self.dropout(self.attention.attend(normed, lengths, choice))
        return self.feed_forward(x), choice


class LearnedStack(Encoder):
    """`gate_input`: "layer", each layer decides when reached, from the mean of its input; "encoder", all layers are
    planned from the mean of the first one's; "first", all but layer 0, which reads every key, are planned from the mean
    and deviation of what it leaves. `heads`: "per_layer", or "shared", one stride for all layers of a plan.
    """

    decides = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int,
        *,
        ffn_ratio: float = 4,
        dropout: float = 0.0,
        convolution_width: int = 0,
        max_stride: int = 8,
        gate_input: GateInput = "layer",
        heads: Heads = "per_layer",
        estimator: Estimator = "selected",
        temperature_start: float = 2.0,
        temperature_end: float = 0.5,
    ) -> None:
        super().__init__()
        if gate_input not in GATE_INPUTS:
            raise ValueError(f"model.encoder.gate_input must be one of {', '.join(GATE_INPUTS)}, got {gate_input!r}.")
        if heads not in HEADS:
            raise ValueError(f"model.encoder.heads must be one of {', '.join(HEADS)}, got {heads!r}.")
        if heads == "shared" and gate_input == "layer":
            raise ValueError("model.encoder.gate_input must be first or encoder under heads=shared, got layer.")
        if estimator == "gain" and gate_input == "layer":
            raise ValueError("model.encoder.gate_input must be first or encoder under estimator=gain, got layer.")
        if gate_input == "first" and depth < 2:
            raise ValueError(f"model.depth must be at least 2 layers for gate_input=first, got {depth}.")
        check_temperatures(temperature_start, temperature_end)
        self.dim, self.ffn_ratio, self.convolution_width, self.max_stride = (
            dim,
            ffn_ratio,
            convolution_width,
            max_stride,
        )
        self.gate_input, self.estimator, self.shared = gate_input, estimator, heads == "shared"
        self.temperatures = (temperature_start, temperature_end)
        self.num_fixed = 1 if gate_input == "first" else 0  # layers before the plan
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout, convolution_width=convolution_width)
            for _ in range(self.num_fixed)
        )
        self.blocks.extend(
            LearnedBlock(
                dim,
                num_heads,
                max_stride,
                ffn_ratio=ffn_ratio,
                dropout=dropout,
                convolution_width=convolution_width,
                estimator=estimator,
                num_features=2 * dim if gate_input == "first" else None,
            )
            for _ in range(depth - self.num_fixed)
        )
        if self.shared:
            for block in self._learned_blocks():
                block.attention.gate = self._learned_blocks()[0].gate
        self.set_progress(0.0)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        choices, strides = [], None if repeat is None else repeat.strides.to(x.device)
        plan: list[StrideChoice | None] = [None] * len(self.blocks)
        summary = None
        for layer, block in enumerate(self.blocks):
            if layer == self.num_fixed and self.gate_input != "layer":
                mask = valid_mask(lengths, x.shape[1])
                summary = (masked_mean_and_std if self.gate_input == "first" else masked_mean)(x, mask)
                plan[layer:] = self._plan(summary, bias)
            if not isinstance(block, LearnedBlock):
                x = block(x, lengths)
                continue
            x, choice = block.run(x, lengths, plan[layer], bias, None if strides is None else strides[:, layer])
            choices.append(choice)
        return x, self._trace(lengths, choices, summary)

    def _plan(self, summary: Tensor, bias: Tensor | float) -> list[StrideChoice]:
        num_layers = len(self.blocks) - self.num_fixed
        choices = [gate(summary, bias) for gate in self._gates()]
        choices = choices * num_layers if self.shared else choices
        if not (self.estimator == "gain" and self.training):
            return choices
        strides = self._random_strides(len(summary), None).to(summary.device)
        return [choice._replace(strides=strides[:, i]) for i, choice in enumerate(choices)]

    def _random_strides(self, batch: int, generator: torch.Generator | None) -> Int[Tensor, "batch layers"]:
        """Of every cost, for the layers of a plan: each clip first draws how often it reads every key."""
        num_layers = len(self.blocks) - self.num_fixed
        shape = (batch, 1 if self.shared else num_layers)
        every = torch.rand(batch, 1, generator=generator)
        strides = torch.randint(1, self.max_stride + 1, shape, generator=generator)
        return torch.where(torch.rand(shape, generator=generator) < every, 1, strides).expand(batch, num_layers)

    def _learned_blocks(self) -> list[LearnedBlock]:
        return [block for block in self.blocks if isinstance(block, LearnedBlock)]

    def _gates(self) -> list[StrideGate]:
        return [gate for gate in self.modules() if isinstance(gate, StrideGate)]

    @property
    def gain_net(self) -> nn.Module | None:
        return nn.ModuleList(self._gates()) if self.estimator == "gain" else None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> SkipTrace:
        batch, depth = like.strides.shape
        strides = torch.ones(batch, depth, dtype=torch.long)
        strides[:, self.num_fixed :] = self._random_strides(batch, generator)
        return replace(like, strides=strides)

    def predicted_cost(self, summary: Tensor, decisions: SkipTrace) -> Float[Tensor, " batch"]:
        strides = decisions.strides[:, self.num_fixed :].to(summary.device)
        if self.shared:
            strides = strides[:, :1]
        costs = torch.stack([gate.costs(summary) for gate in self._gates()], dim=1)  # batch layers strides
        return costs.gather(2, strides[:, :, None] - 1).squeeze(2).sum(dim=1)

    def _trace(self, lengths: Tensor, choices: list[StrideChoice], summary: Tensor | None) -> SkipTrace:
        options = torch.arange(1, self.max_stride + 1, device=lengths.device)
        by_stride = self._block_macs(lengths[:, None], options)  # batch strides
        fixed = sum(gate.macs() for gate in self._gates()) + self.num_fixed * by_stride[:, 0]
        strides = torch.stack([choice.strides for choice in choices], dim=1)
        macs = fixed + by_stride.gather(1, strides - 1).sum(dim=1)
        dense_macs = fixed + by_stride[:, 0] * len(choices)
        expected = fixed + torch.stack([(choice.probabilities * by_stride).sum(1) for choice in choices]).sum(0)
        strides = nn.functional.pad(strides, (self.num_fixed, 0), value=1)
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
            log_prob=self._log_prob(choices),
            entropy=torch.stack([choice.entropy for choice in choices]).mean(0),
            summary=summary.detach() if self.estimator == "gain" and summary is not None else None,
        )

    def _log_prob(self, choices: list[StrideChoice]) -> Float[Tensor, " batch"]:
        if not (self.estimator == "reinforce" and self.training):
            return torch.zeros(len(choices[0].strides), device=choices[0].strides.device)
        decided = choices[:1] if self.shared else choices
        chances = [choice.probabilities.gather(1, choice.strides[:, None] - 1) for choice in decided]
        return torch.cat(chances, dim=1).log().sum(dim=1)

    def macs_range(self, time: int) -> tuple[int, int]:
        gates = sum(gate.macs() for gate in self._gates())
        cheapest, dense = (self._block_macs(time, stride) for stride in (self.max_stride, 1))
        depth = len(self.blocks)
        return gates + self.num_fixed * dense + (depth - self.num_fixed) * cheapest, gates + depth * dense

    def _block_macs(self, time: Count, stride: int | Tensor) -> Count:
        return block_macs(time, self.dim, self.ffn_ratio, stride, convolution_width=self.convolution_width)

    def set_progress(self, progress: float) -> None:
        for gate in self._gates():
            gate.temperature = interpolate(*self.temperatures, progress)
