"""From hidden states to the scores of a clip's classes: linear(what is pooled over the clip's positions).

statistics    mean and deviation (Snyder et al. 2018, x-vectors)
maxima        mean and maximum (Kong et al. 2020, PANNs, add them up): finds a short event that a mean drowns
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hopscotch.compute import linear_macs
from hopscotch.layers.pooling import masked_mean_and_max, masked_mean_and_std

Pooling = Literal["statistics", "maxima"]


class Head(nn.Module):
    """Norm, pooling and the last linear layer."""

    def __init__(self, dim: int, num_classes: int, *, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.pooling = pooling
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * dim, num_classes)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch classes"]:
        pool = masked_mean_and_std if self.pooling == "statistics" else masked_mean_and_max
        return self.linear(self.dropout(pool(self.norm(x), mask)))

    def macs(self, time: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        return linear_macs(torch.ones_like(time), self.linear.in_features, self.linear.out_features)
