"""Stack transformer blocks in which every clip chooses the stride of every layer: `learned_skip`."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import Cost
from hopscotch.layers.block import BlockSpec, TransformerBlock, shrink
from hopscotch.layers.checks import check_choice, check_temperatures
from hopscotch.layers.noise import Draws
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.layers.sampling import Scheduled, draw_of_every_cost, interpolate
from hopscotch.layers.stride import Estimator, LearnedSkip, StrideChoice, StrideGate
from hopscotch.models.encoder import Planner
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace, valid_mask

GateInput = Literal["layer", "encoder", "first"]


class LearnedBlock(TransformerBlock):
    """Compute a transformer block whose attention is a LearnedSkip; its gate reads the input, or a plan's summary."""

    attention: LearnedSkip  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, spec: BlockSpec, max_stride: int, *, estimator: Estimator, num_features: int | None) -> None:
        super().__init__(spec)
        self.attention = LearnedSkip(
            spec.dim, spec.num_heads, max_stride, estimator=estimator, num_features=num_features
        )
        shrink(self.attention.attention.output, spec.residual_init_scale)

    @property
    def gate(self) -> StrideGate:
        return self.attention.gate

    def run(
        self, x: Tensor, lengths: Tensor, choice: StrideChoice | None, bias: Tensor | float, strides: Tensor | None
    ) -> tuple[Tensor, StrideChoice]:
        """Run the block with a choice that was planned, if any; `strides` are taken instead of it."""
        x = self.look_around(x, lengths)
        normed = self.attention_norm(x)
        if choice is None:
            choice = self.attention.choose(normed, lengths, bias)
        if strides is not None:
            chosen = nn.functional.one_hot(strides.long() - 1, choice.weights.shape[1]).to(choice.weights.dtype)
            choice = choice._replace(strides=strides, weights=chosen)
        x = x + self.dropout(self.attention.attend(normed, lengths, choice))
        return self.feed_forward(x), choice


class LearnedStack(Planner, Scheduled, Draws):
    """Let clips choose strides, layer by layer or by a plan.

    Args:
        block: Options of the transformer blocks.
        depth: Layers; at least 2 under gate_input "first".
        max_stride: Longest stride: the choices are 1..max_stride.
        gate_input: "layer": each layer decides when reached, from the mean of its input. "encoder": all layers are
            planned from the mean of the encoder's input. "first": layer 0 reads every key, and all others are planned
            from the mean and deviation of its output.
        tied: Use one stride for all layers of a plan.
        estimator: How the gates learn (layers/stride.py).
        temperature_start: Temperature of the Gumbel-softmax at the first training step, above 0.
        temperature_end: Temperature at the last training step, above 0.
    """

    decides = True
    skips = frozenset({"strides"})

    def __init__(
        self,
        block: BlockSpec,
        depth: int,
        *,
        max_stride: int = 4,
        gate_input: GateInput = "layer",
        tied: bool = False,
        estimator: Estimator = "selected",
        temperature_start: float = 2.0,
        temperature_end: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice("gate_input", gate_input, GateInput)
        if tied and gate_input == "layer":
            raise ValueError("gate_input must be first or encoder under tied=true, got layer.")
        if estimator == "gain" and gate_input == "layer":
            raise ValueError("gate_input must be first or encoder under estimator=gain, got layer.")
        if gate_input == "first" and depth < 2:
            raise ValueError(f"depth must be at least 2 layers for gate_input=first, got {depth}.")
        check_temperatures(temperature_start, temperature_end)
        self.spec, self.max_stride = block, max_stride
        self.gate_input, self.estimator, self.tied = gate_input, estimator, tied
        self.temperatures = (temperature_start, temperature_end)
        self.num_fixed = 1 if gate_input == "first" else 0  # layers before the plan
        self.blocks = nn.ModuleList(TransformerBlock(block) for _ in range(self.num_fixed))
        num_features = 2 * block.dim if gate_input == "first" else None
        self.blocks.extend(
            LearnedBlock(block, max_stride, estimator=estimator, num_features=num_features)
            for _ in range(depth - self.num_fixed)
        )
        if self.tied:
            for learned in self._learned_blocks():
                learned.attention.gate = self._learned_blocks()[0].gate
        self.stride_gates = [gate for gate in self.modules() if isinstance(gate, StrideGate)]
        self.set_progress(0.0)

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        choices, strides = [], None if repeat is None else repeat.strides.to(x.device)
        plan: list[StrideChoice | None] = [None] * len(self.blocks)
        summary = None
        for layer, part in enumerate(self.blocks):
            if layer == self.num_fixed and self.gate_input != "layer":
                mask = valid_mask(lengths, x.shape[1])
                summary = (masked_mean_and_std if self.gate_input == "first" else masked_mean)(x, mask)
                plan[layer:] = self._plan(summary, bias)
            if not isinstance(part, LearnedBlock):
                x = part(x, lengths)
                continue
            x, choice = part.run(x, lengths, plan[layer], bias, None if strides is None else strides[:, layer])
            choices.append(choice)
        return x, self._trace(lengths, choices, summary)

    def _plan(self, summary: Tensor, bias: Tensor | float) -> list[StrideChoice]:
        num_layers = len(self.blocks) - self.num_fixed
        choices = [gate(summary, bias) for gate in self.stride_gates]
        choices = choices * num_layers if self.tied else choices
        if not (self.estimator == "gain" and self.training) or self.stride_gates[0].is_held:
            return choices
        strides = self._random_strides(len(summary), None, self.uniform(1 + 2 * num_layers)).to(summary.device)
        return [choice._replace(strides=strides[:, i]) for i, choice in enumerate(choices)]

    def _random_strides(
        self, batch: int, generator: torch.Generator | None, uniform: Tensor | None = None
    ) -> Int[Tensor, "batch layers"]:
        """Draw strides of every cost for the layers of a plan."""
        num_layers = len(self.blocks) - self.num_fixed
        shape = (batch, 1 if self.tied else num_layers)
        strides = draw_of_every_cost(shape, range(1, self.max_stride + 1), 1, generator, uniform)
        return strides.expand(batch, num_layers)

    def _learned_blocks(self) -> list[LearnedBlock]:
        return [block for block in self.blocks if isinstance(block, LearnedBlock)]

    @property
    def gain_net(self) -> nn.Module | None:
        return nn.ModuleList(self.stride_gates) if self.estimator == "gain" else None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> Decisions:
        batch, depth = like.strides.shape
        strides = torch.ones(batch, depth, dtype=torch.long)
        strides[:, self.num_fixed :] = self._random_strides(batch, generator)
        return replace(like.decisions, strides=strides)

    def predicted_cost(self, summary: Tensor, trace: SkipTrace) -> Float[Tensor, " batch"]:
        strides = trace.strides[:, self.num_fixed :].to(summary.device)
        if self.tied:
            strides = strides[:, :1]
        costs = torch.stack([gate.costs(summary) for gate in self.stride_gates], dim=1)  # batch layers strides
        chosen = costs.gather(2, (strides[:, :, None] - 1).clamp(min=0)).squeeze(2)
        return (chosen * (strides > 0)).sum(dim=1)  # a clip that a token gate kept out has strides 0

    def _trace(self, lengths: Tensor, choices: list[StrideChoice], summary: Tensor | None) -> SkipTrace:
        options = torch.arange(1, self.max_stride + 1, device=lengths.device)
        by_stride = self.spec.macs(lengths[:, None], options)  # batch strides
        fixed = sum(gate.macs() for gate in self.stride_gates) + self.num_fixed * by_stride[:, 0]
        strides = torch.stack([choice.strides for choice in choices], dim=1)
        macs = fixed + by_stride.gather(1, strides - 1).sum(dim=1)
        dense_macs = fixed + by_stride[:, 0] * len(choices)
        expected = fixed + torch.stack([(choice.probabilities * by_stride).sum(1) for choice in choices]).sum(0)
        strides = nn.functional.pad(strides, (self.num_fixed, 0), value=1)
        visited = torch.ones_like(strides, dtype=torch.bool)
        return SkipTrace.of(
            visited,
            macs,
            dense_macs,
            strides=strides,
            expected_compute=expected / dense_macs,
            log_prob=self._log_prob(choices),
            entropy=torch.stack([choice.entropy for choice in choices]).mean(0),
            summary=summary.detach() if self.estimator == "gain" and summary is not None else None,
        )

    def _log_prob(self, choices: list[StrideChoice]) -> Float[Tensor, " batch"]:
        if not (self.estimator == "reinforce" and self.training):
            return torch.zeros(len(choices[0].strides), device=choices[0].strides.device)
        decided = choices[:1] if self.tied else choices
        chances = [choice.probabilities.gather(1, choice.strides[:, None] - 1) for choice in decided]
        return torch.cat(chances, dim=1).log().sum(dim=1)

    def cost(self, time: int) -> Cost:
        gates = sum(gate.macs() for gate in self.stride_gates)
        cheapest, dense = (self.spec.macs(time, stride) for stride in (self.max_stride, 1))
        depth = len(self.blocks)
        everything = gates + depth * dense
        shortest = gates + self.num_fixed * dense + (depth - self.num_fixed) * cheapest
        return Cost(shortest, everything, everything, everything)

    def set_progress(self, progress: float) -> None:
        for gate in self.stride_gates:
            gate.temperature = interpolate(*self.temperatures, progress)
