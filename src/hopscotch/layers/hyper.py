"""Mix a few parallel projections of a token by weights that the token chooses itself.

    y = ReLU( sum_e softmax(W x)_e * P_e x ),   e = 1..expansion

Source: the sketch's MiniConnection, after the hyper-connections of Zhu et al. 2024 in miniature.
"""

from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Count, linear_macs


class MiniHyperConnection(nn.Module):
    """Works on tokens in any leading shape. All projections and their weights are one matrix product."""

    def __init__(self, dim: int, expansion: int = 2) -> None:
        super().__init__()
        if expansion < 1:
            raise ValueError(f"expansion must be at least 1 projection, got {expansion}.")
        self.dim, self.expansion = dim, expansion
        self.project = nn.Linear(dim, expansion * (dim + 1))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        mixed = self.project(x)
        weights = mixed[..., : self.expansion].softmax(dim=-1)
        paths = mixed[..., self.expansion :].unflatten(-1, (self.expansion, self.dim))  # ... expansion dim
        return (weights[..., None] * paths).sum(dim=-2).relu()

    def macs(self, positions: Count) -> Count:
        return linear_macs(positions, self.dim, self.expansion * (self.dim + 1))
