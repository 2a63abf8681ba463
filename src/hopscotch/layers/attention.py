"""Attend to every s-th position only: fewer keys and values to project, fewer scores to compute.

    queries at every position t;  keys and values at positions 0, s, 2s, ...
    y_t = W_o sum_j softmax_j(q_t . k_j / sqrt(head_dim)) v_j

Positions stay physical: the key kept third sits at 2 s. With s = 1 this is plain multi-head attention.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hopscotch.layers.checks import check_heads, check_stride
from hopscotch.types import Hidden, Lengths

SHORT = 64  # positions: up to here one call on padded keys takes less time than one call per stride


class SkipAttention(nn.Module):
    """Read only every `stride`-th key in multi-head attention.

    A stride per clip runs packed: keys and values of all clips are projected in one product over the kept positions
    alone. Then clips of equal stride share a call of SDPA; short clips all share one, with their keys padded to the
    longest. A padding mask is strided with the keys; position 0 is valid in every clip, so one key remains.

    Args:
        dim: Width of the hidden states; a multiple of `num_heads`.
        num_heads: Attention heads.
        stride: Positions from one key to the next, at least 1. At 1 this is plain attention; a larger stride saves
            up to half of the projections and all but 1 / stride of the scores.
    """

    def __init__(self, dim: int, num_heads: int, *, stride: int = 1) -> None:
        super().__init__()
        check_heads(dim, num_heads)
        check_stride(stride)
        self.dim, self.num_heads, self.stride = dim, num_heads, stride
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, x: Hidden, lengths: Lengths | None = None, *, strides: int | Sequence[int] | None = None
    ) -> Hidden:
        """Attend; `strides` replaces the layer's own, with one for all clips or one for each."""
        strides = self.stride if strides is None else strides
        if isinstance(strides, int):
            return self.read(x, x[:, ::strides], key_mask(lengths, x.shape[1], strides))
        return self._merged(self._attend_packed(self.split_heads(self.query(x)), x, lengths, strides))

    def read(
        self, x: Hidden, kept: Float[Tensor, "batch keys dim"], mask: Bool[Tensor, "batch 1 1 keys"] | None = None
    ) -> Hidden:
        """Attend from every position of `x` to the positions in `kept`."""
        return self._merged(self._attend(self.split_heads(self.query(x)), self.key_value(kept), mask))

    def extra_repr(self) -> str:
        return f"{self.dim}, num_heads={self.num_heads}, stride={self.stride}"

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # batch heads time head_dim

    def _merged(self, mixed: Float[Tensor, "batch heads time head_dim"]) -> Hidden:
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _attend(self, query: Tensor, key_value: Tensor, mask: Tensor | None) -> Tensor:
        key, value = key_value.chunk(2, dim=-1)
        return F.scaled_dot_product_attention(query, self.split_heads(key), self.split_heads(value), attn_mask=mask)

    def _attend_packed(
        self, query: Tensor, x: Tensor, lengths: Tensor | None, strides: Sequence[int]
    ) -> Float[Tensor, "batch heads time head_dim"]:
        if len(set(strides)) == 1:
            return self._attend(query, self.key_value(x[:, :: strides[0]]), key_mask(lengths, x.shape[1], strides[0]))
        if x.shape[1] <= SHORT:
            return self._attend_padded(query, x, lengths, strides)
        return self._attend_grouped(query, x, lengths, strides)

    def _attend_padded(
        self, query: Tensor, x: Tensor, lengths: Tensor | None, strides: Sequence[int]
    ) -> Float[Tensor, "batch heads time head_dim"]:
        """Project the kept positions alone, then pad them to the most that a clip keeps."""
        batch, time, _ = x.shape
        every = torch.tensor(strides)[:, None]
        positions = torch.arange(time)
        num_keys = -(-time // min(strides))
        kept = (positions % every == 0).flatten().nonzero().squeeze(1)
        places = (torch.arange(batch)[:, None] * num_keys + positions // every).flatten()[kept]
        kept, places = torch.stack([kept, places]).to(x.device)  # one transfer
        rows = self.key_value(x.flatten(0, 1).index_select(0, kept))
        padded = rows.new_zeros(batch * num_keys, rows.shape[1]).index_copy(0, places, rows)
        sizes = time if lengths is None else lengths[:, None]
        mask = (torch.arange(num_keys, device=x.device) * every.to(x.device) < sizes)[:, None, None]
        return self._attend(query, padded.unflatten(0, (batch, num_keys)), mask)

    def _attend_grouped(
        self, query: Tensor, x: Tensor, lengths: Tensor | None, strides: Sequence[int]
    ) -> Float[Tensor, "batch heads time head_dim"]:
        """Sort clips by stride, so that each group is a slice; the last gather restores the order."""
        order = sorted(range(len(strides)), key=strides.__getitem__)
        groups = [(s, strides.count(s)) for s in sorted(set(strides))]
        index = torch.tensor(order, device=x.device)
        queries = query.index_select(0, index).split([count for _, count in groups])  # query[index]: a slow gradient
        inputs = x.index_select(0, index).split([count for _, count in groups])
        kept = [part[:, ::stride] for part, (stride, _) in zip(inputs, groups, strict=True)]
        rows = self.key_value(torch.cat([part.flatten(0, 1) for part in kept]))  # all kept positions, one product
        rows = rows.split([part.shape[0] * part.shape[1] for part in kept])
        sizes = [None] * len(groups) if lengths is None else lengths[index].split([count for _, count in groups])
        mixed = [
            self._attend(query_part, row.unflatten(0, (count, -1)), key_mask(size, x.shape[1], stride))
            for query_part, row, size, (stride, count) in zip(queries, rows, sizes, groups, strict=True)
        ]
        return torch.cat(mixed).index_select(0, index.argsort())


def key_mask(lengths: Lengths | None, time: int, stride: int = 1) -> Bool[Tensor, "batch 1 1 keys"] | None:
    """Return True at the kept positions that belong to a clip; None without padding."""
    if lengths is None:
        return None
    return (torch.arange(0, time, stride, device=lengths.device) < lengths[:, None])[:, None, None]
