"""Let every clip choose how many keys its attention reads.

A gate reads the mean of the input and gives logits over the strides 1..max_stride. Training samples a stride by hard
Gumbel-softmax; evaluation takes the most likely one. Two ways to give the gate a gradient, and two without one:

    selected   y = w * attention_s(x),  w = 1 + p_s - stop(p_s);  runs the chosen stride alone, packed
    soft       y = sum_j a_j v_j,  a_j ~ keep_j exp(q.k_j),  keep_j = sum_k y_k [j mod k = 0];  dense and masked in
               training, so that the strides not chosen learn too; packed in evaluation, equal in value
    reinforce  y = attention_s(x);  the log-probability of the sampled stride times its advantage (Williams 1992)
    gain       random strides; before every validation their loss, less that of the dense run of the same clip, is
               regressed as the sum of the strides' costs (training/gains.py); evaluation takes the cheapest in loss

In the original formulation an arg-max cut the gate off from the loss, and masks saved no compute.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hopscotch.layers.attention import SkipAttention, key_mask
from hopscotch.layers.checks import check_choice, check_stride, refuse_tracing
from hopscotch.layers.pooling import masked_mean
from hopscotch.layers.sampling import (
    COST_UNIT,
    Decider,
    draw_floored,
    draw_gumbel,
    entropy_of,
    held,
    most_likely,
    straight_through,
)
from hopscotch.types import Hidden, Lengths, valid_mask

Estimator = Literal["selected", "soft", "reinforce", "gain"]
LOGIT_SCALE = 0.1  # of a new gate's last layer: near-uniform strides at the start
MOSTLY = 0.6  # of the draws of a gate that starts with stride 1, as of a new policy of jumps


class StrideChoice(NamedTuple):
    """Hold the stride of each clip."""

    strides: Int[Tensor, " batch"]
    weights: Float[Tensor, "batch strides"]  # one-hot of the stride; straight-through in training
    probabilities: Float[Tensor, "batch strides"]
    entropy: Float[Tensor, " batch"]  # nats


class StrideGate(Decider):
    """Compute logits over strides 1..max_stride from a summary of a clip.

    The summary is the mean of the input, or has `num_features` and is normalised. Under "gain" the logits are minus the
    cost of each stride; stride 1 costs nothing.
    """

    savings: Tensor

    def __init__(
        self, dim: int, max_stride: int = 8, *, num_features: int | None = None, estimator: Estimator = "selected"
    ) -> None:
        super().__init__()
        check_stride(max_stride, "max_stride")
        self.dim, self.max_stride, self.estimator = dim, max_stride, estimator
        self.num_drawn = max_stride
        self.num_features = dim if num_features is None else num_features
        self.temperature = 1.0  # of the Gumbel-softmax; follows the progress of training, never saved
        last = nn.Linear(dim, max_stride)
        self.norm = nn.Identity() if num_features is None else nn.LayerNorm(num_features)
        self.net = nn.Sequential(nn.Linear(self.num_features, dim), nn.ReLU(), last)
        with torch.no_grad():
            last.weight.mul_(LOGIT_SCALE)
            last.bias.zero_()
        if estimator == "gain":
            self.requires_grad_(False)  # fitted by training/gains.py
        keys = 1.0 / torch.arange(1, max_stride + 1)
        self.register_buffer("savings", (keys - keys[-1]) / (1 - keys[-1]).clamp(min=0.5), persistent=False)

    def forward(self, pooled: Float[Tensor, "batch features"], bias: Tensor | float = 0.0) -> StrideChoice:
        """Choose; `bias` > 0 favours short strides (more compute) in evaluation; training ignores it."""
        # No gradient to the trunk: it only moved features towards inputs that are cheap.
        pooled = pooled.detach()
        logits = -self.costs(pooled) / COST_UNIT if self.estimator == "gain" else self.net(self.norm(pooled)).float()
        if not self.training:
            draw = most_likely(logits + bias * self.savings)
        elif self.is_held:
            draw = held(logits)
        elif self.estimator == "reinforce":
            uniform = self.uniform(1)
            draw = draw_floored(logits, None if uniform is None else uniform[:, 0])
        else:
            draw = draw_gumbel(logits, self.temperature, self.uniform(self.max_stride))
        one_hot = nn.functional.one_hot(draw.chosen, self.max_stride).to(draw.soft.dtype)
        weights = straight_through(one_hot, draw.soft) if self.training else one_hot
        return StrideChoice(draw.chosen + 1, weights, draw.probabilities, entropy_of(draw.probabilities))

    @torch.no_grad()
    def prefer_every_key(self) -> None:
        """Let a new gate start with stride 1: always in evaluation, and in `MOSTLY` of the draws of training."""
        if self.estimator != "gain" and self.max_stride > 1:
            last = self.net[-1]
            assert isinstance(last, nn.Linear)
            last.bias[0] = math.log(MOSTLY / (1 - MOSTLY) * (self.max_stride - 1))

    def costs(self, pooled: Float[Tensor, "batch features"]) -> Float[Tensor, "batch strides"]:
        """Predict how much each stride adds to the loss of the clip, compared with stride 1."""
        logits = self.net(self.norm(pooled)).float()
        return logits[:, :1] - logits

    def macs(self) -> int:
        """Count the MACs per clip."""
        return self.num_features * self.dim + self.dim * self.max_stride


class LearnedSkip(nn.Module):
    """Attend with a stride that each clip chooses: SkipAttention with a stride gate.

    A stack that plans ahead calls `choose` and `attend` apart, with a summary of its own.

    Args:
        dim: Width of the hidden states; a multiple of `num_heads`.
        num_heads: Attention heads.
        max_stride: Longest stride, at least 1: the choices are 1..max_stride.
        estimator: How the gate learns.
        num_features: Width of the summary that the gate reads; None for the mean of the input.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        max_stride: int = 8,
        *,
        estimator: Estimator = "selected",
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("estimator", estimator, Estimator)
        self.attention = SkipAttention(dim, num_heads)
        self.gate = StrideGate(dim, max_stride, num_features=num_features, estimator=estimator)
        self.estimator = estimator

    def forward(self, x: Hidden, lengths: Lengths | None = None) -> Hidden:
        return self.attend(x, lengths, self.choose(x, lengths))

    def choose(self, x: Hidden, lengths: Lengths | None = None, bias: Tensor | float = 0.0) -> StrideChoice:
        """Choose strides from the mean of the input."""
        lengths = x.new_full(x.shape[:1], x.shape[1], dtype=torch.long) if lengths is None else lengths
        return self.gate(masked_mean(x, valid_mask(lengths, x.shape[1])), bias)

    def attend(self, x: Hidden, lengths: Lengths | None, choice: StrideChoice) -> Hidden:
        """Attend with the strides of `choice`."""
        if self.training and self.estimator == "soft":
            return self._attend_soft(x, lengths, choice.weights)
        refuse_tracing()
        y = self.attention(x, lengths, strides=choice.strides.tolist())  # the one host synchronisation
        if self.training and self.estimator == "selected":
            chosen = choice.weights.gather(1, choice.strides[:, None] - 1)
            y = y * chosen[:, :, None].to(y.dtype)
        return y

    def _attend_soft(self, x: Tensor, lengths: Tensor | None, weights: Tensor) -> Tensor:
        attention = self.attention
        query = attention.split_heads(attention.query(x))
        key, value = map(attention.split_heads, attention.key_value(x).chunk(2, dim=-1))
        scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5  # batch heads time keys
        valid = key_mask(lengths, x.shape[1])
        if valid is not None:
            scores = scores.masked_fill(~valid, -torch.inf)
        keep = weights @ stride_pattern(x.shape[1], self.gate.max_stride, x.device).float()  # batch keys
        shares = keep[:, None, None] * (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()
        shares = shares / shares.sum(dim=-1, keepdim=True).clamp(min=1e-20)
        mixed = shares.to(value.dtype) @ value
        return attention.output(mixed.transpose(1, 2).flatten(2))


def stride_pattern(time: int, max_stride: int, device: torch.device) -> Bool[Tensor, "strides time"]:
    """Return, in row k - 1, True at the positions that stride k keeps."""
    positions = torch.arange(time, device=device)
    return positions[None] % torch.arange(1, max_stride + 1, device=device)[:, None] == 0
