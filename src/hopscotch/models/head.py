"""From hidden states to the scores of a clip's classes: what is pooled over time, and how.

statistics    linear([mean ; deviation])                   over the clip's positions
peaks         log mean exp(linear(x_t))                    a class is there if it is anywhere: long clips, short events
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hopscotch.compute import linear_macs
from hopscotch.layers.pooling import masked_mean_and_std

Pooling = Literal["statistics", "peaks"]


class Head(nn.Module):
    """Norm, pooling and the last linear layer."""

    def __init__(self, dim: int, num_classes: int, *, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.pooling = pooling
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * dim if pooling == "statistics" else dim, num_classes)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch classes"]:
        x = self.norm(x)
        if self.pooling == "statistics":
            return self.linear(self.dropout(masked_mean_and_std(x, mask)))
        scores = self.linear(self.dropout(x)).masked_fill(~mask[:, :, None], -torch.inf)
        return scores.logsumexp(dim=1) - mask.sum(dim=1, keepdim=True).log()

    def macs(self, time: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        positions = torch.ones_like(time) if self.pooling == "statistics" else time
        return linear_macs(positions, self.linear.in_features, self.linear.out_features)
