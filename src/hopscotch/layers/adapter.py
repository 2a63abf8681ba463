"""Update a clip token by token, and only at the tokens that a gate opens.

    p = norm(x);   x += sigmoid(w . p + b) * hyper(adapter(p))     at open tokens;   closed tokens pass unchanged

The adapter is a linear layer on even layers and the identity on odd ones. `hyper` is the identity, or a
MiniHyperConnection, which mixes a few parallel projections of a token by weights that the token chooses itself:

    y = ReLU( sum_e softmax(W x)_e * P_e x ),   e = 1..expansion

Source: MiniConnection of the original formulation, after the hyper-connections of Zhu et al. 2024.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import Count, linear_macs
from hopscotch.layers.gate import Gate, GateDecision
from hopscotch.types import Hidden, Mask


class Adapter(nn.Module):
    """Update each token by itself, at open tokens only."""

    def __init__(self, dim: int, index: int, *, mini_hc: bool, expansion: int, dropout: float, gate: Gate) -> None:
        super().__init__()
        self.dim = dim
        self.gate = gate
        self.norm = nn.LayerNorm(dim)
        self.adapter = nn.Linear(dim, dim) if index % 2 == 0 else None
        self.hyper = MiniHyperConnection(dim, expansion) if mini_hc else None
        self.dropout = nn.Dropout(dropout)
        self.strength = nn.Linear(dim, 1)

    def update(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Compute the residual of each token."""
        normed = self.norm(tokens)
        h = normed if self.adapter is None else self.adapter(normed)
        h = h if self.hyper is None else self.hyper(h)
        return torch.sigmoid(self.strength(normed)) * self.dropout(h)

    def forward(self, x: Hidden, mask: Mask, bias: Tensor | float) -> tuple[Hidden, GateDecision]:
        decision = self.gate(x, mask, bias)
        if self.training and self.gate.training_mode == "full":
            return x + self.update(x) * decision.is_open[:, :, None].to(x.dtype), decision
        rows = decision.computed.flatten().nonzero().squeeze(1)  # (tokens,), as positions in batch * time
        tokens = x.flatten(0, 1)
        update = self.update(tokens.index_select(0, rows))  # tokens dim
        if self.training:
            update = update * decision.is_open.flatten()[rows][:, None].to(update.dtype)
        return tokens.index_add(0, rows, update.to(x.dtype)).view_as(x), decision

    def open_macs(self, positions: Count) -> Count:
        """Count the MACs of so many open tokens, without the gate's."""
        macs = linear_macs(positions, self.dim, 1)
        if self.adapter is not None:
            macs = macs + linear_macs(positions, self.dim, self.dim)
        return macs if self.hyper is None else macs + self.hyper.macs(positions)


class MiniHyperConnection(nn.Module):
    """Mix `expansion` parallel projections of each token; one matrix product computes all of them and their weights."""

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
