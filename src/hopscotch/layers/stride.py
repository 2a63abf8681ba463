"""Let every clip choose how many keys its attention reads.

A gate reads the mean of the input and gives logits over the strides 1..max_stride. Training samples a stride by hard
Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017); evaluation takes the most likely one. Two ways to give the gate
a gradient, and two that learn apart from it:

    selected   y = w * attention_s(x),  w = 1 + p_s - stop(p_s);  runs the chosen stride alone, packed
    soft       y = sum_j a_j v_j,  a_j ~ keep_j exp(q.k_j),  keep_j = sum_k y_k [j mod k = 0];  dense and masked in
               training, so that the strides not chosen learn too; packed in evaluation, equal in value
    reinforce  y = attention_s(x);  the log-probability of the stride drawn times its advantage (Williams 1992)
    gain       strides at random; before every validation what they lose against the dense run of the same clip is
               regressed as the sum of what each costs (tasks/gains.py); in evaluation the stride that costs least

The sketch's arg-max cut the gate off from the loss, and its masks saved nothing.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hopscotch.layers.attention import SkipAttention, check_stride, key_mask
from hopscotch.layers.pooling import masked_mean
from hopscotch.layers.sampling import COST_UNIT, floored, gumbel_noise, straight_through
from hopscotch.types import valid_mask

Estimator = Literal["selected", "soft", "reinforce", "gain"]
ESTIMATORS = ("selected", "soft", "reinforce", "gain")
LOGIT_SCALE = 0.1  # of the fresh gate's last layer: near-uniform strides at the start


class StrideChoice(NamedTuple):
    strides: Int[Tensor, " batch"]
    weights: Float[Tensor, "batch strides"]  # one-hot of the stride; straight-through in training
    probabilities: Float[Tensor, "batch strides"]
    entropy: Float[Tensor, " batch"]  # nats


class StrideGate(nn.Module):
    """Logits over strides 1..max_stride from a summary of a clip: its mean, or more (`num_features`), normalised.

    Under `gain` they are minus what each stride costs; stride 1 costs nothing.
    """

    savings: Tensor

    def __init__(
        self, dim: int, max_stride: int = 8, *, num_features: int | None = None, estimator: Estimator = "selected"
    ) -> None:
        super().__init__()
        check_stride(max_stride, "max_stride")
        self.dim, self.max_stride, self.estimator = dim, max_stride, estimator
        self.num_features = dim if num_features is None else num_features
        self.temperature = 1.0  # of the Gumbel-softmax; set from the training position, never saved
        last = nn.Linear(dim, max_stride)
        self.norm = nn.Identity() if num_features is None else nn.LayerNorm(num_features)
        self.net = nn.Sequential(nn.Linear(self.num_features, dim), nn.ReLU(), last)
        with torch.no_grad():
            last.weight.mul_(LOGIT_SCALE)
            last.bias.zero_()
        if estimator == "gain":
            self.requires_grad_(False)  # fitted, not trained along
        keys = 1.0 / torch.arange(1, max_stride + 1)
        self.register_buffer("savings", (keys - keys[-1]) / (1 - keys[-1]).clamp(min=0.5), persistent=False)

    def forward(self, pooled: Float[Tensor, "batch features"], bias: Tensor | float = 0.0) -> StrideChoice:
        """`bias` > 0 favours short strides (more compute) in evaluation; training samples without it."""
        # The gate reads, it does not steer: pulling the trunk towards cheap inputs only moved the features.
        pooled = pooled.detach()
        logits = -self.costs(pooled) / COST_UNIT if self.estimator == "gain" else self.net(self.norm(pooled)).float()
        if not self.training:
            logits = logits + bias * self.savings
        probabilities = logits.softmax(dim=-1)
        soft = probabilities
        if self.training and self.estimator == "reinforce":
            probabilities = floored(probabilities)
            chosen = torch.multinomial(probabilities.detach(), 1).squeeze(1)
        else:
            if self.training:
                soft = ((logits + gumbel_noise(logits)) / self.temperature).softmax(dim=-1)
            chosen = soft.argmax(dim=-1)
        one_hot = nn.functional.one_hot(chosen, self.max_stride).to(soft.dtype)
        entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(dim=-1)
        weights = straight_through(one_hot, soft) if self.training else one_hot
        return StrideChoice(chosen + 1, weights, probabilities, entropy)

    def costs(self, pooled: Float[Tensor, "batch features"]) -> Float[Tensor, "batch strides"]:
        """What each stride costs the clip, in loss, against stride 1."""
        logits = self.net(self.norm(pooled)).float()
        return logits[:, :1] - logits

    def macs(self) -> int:
        """Per clip."""
        return self.num_features * self.dim + self.dim * self.max_stride


class LearnedSkip(nn.Module):
    """SkipAttention with a stride gate: `forward(x, lengths)` chooses and attends.

    A stack that plans ahead calls `choose` and `attend` apart, with a summary of its own (`num_features`).
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
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")
        self.attention = SkipAttention(dim, num_heads)
        self.gate = StrideGate(dim, max_stride, num_features=num_features, estimator=estimator)
        self.estimator = estimator

    def forward(
        self, x: Float[Tensor, "batch time dim"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        return self.attend(x, lengths, self.choose(x, lengths))

    def choose(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"] | None = None,
        bias: Tensor | float = 0.0,
    ) -> StrideChoice:
        lengths = x.new_full(x.shape[:1], x.shape[1], dtype=torch.long) if lengths is None else lengths
        return self.gate(masked_mean(x, valid_mask(lengths, x.shape[1])), bias)

    def attend(
        self, x: Float[Tensor, "batch time dim"], lengths: Int[Tensor, " batch"] | None, choice: StrideChoice
    ) -> Float[Tensor, "batch time dim"]:
        if self.training and self.estimator == "soft":
            return self._attend_soft(x, lengths, choice.weights)
        y = self.attention(x, lengths, strides=choice.strides.tolist())  # the one host synchronisation
        if self.training and self.estimator == "selected":
            chosen = choice.weights.gather(1, choice.strides[:, None] - 1)
            y = y * chosen[:, :, None].to(y.dtype)
        return y

    def _attend_soft(self, x: Tensor, lengths: Tensor | None, weights: Tensor) -> Tensor:
        attention = self.attention
        query = attention._heads(attention.query(x))
        key, value = map(attention._heads, attention.key_value(x).chunk(2, dim=-1))
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
    """Row k - 1 is True at the positions that stride k keeps."""
    positions = torch.arange(time, device=device)
    return positions[None] % torch.arange(1, max_stride + 1, device=device)[:, None] == 0
