"""A transformer stack with strides fixed beforehand: `dense` (all 1) and `skip_attention`.

stride of layer i: the list `strides`, or max(1, first - i)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import block_macs
from hopscotch.layers.attention import check_stride
from hopscotch.layers.block import TransformerBlock
from hopscotch.models.encoder import Encoder, fixed_trace
from hopscotch.types import SkipTrace


class Stack(Encoder):
    """`strides` (one per layer) goes before `first`; first = 1 is the dense stack."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        depth: int,
        *,
        ffn_ratio: float = 4,
        dropout: float = 0.0,
        convolution_width: int = 0,
        strides: Sequence[int] | None = None,
        first: int = 1,
    ) -> None:
        super().__init__()
        check_stride(first, "model.encoder.first")
        strides = [max(1, first - layer) for layer in range(depth)] if strides is None else list(strides)
        if len(strides) != depth:
            raise ValueError(f"model.encoder.strides must name one stride per layer, got {strides} for depth={depth}.")
        for stride in strides:
            check_stride(stride, "every stride of model.encoder.strides")
        self.dim, self.ffn_ratio, self.convolution_width, self.strides = dim, ffn_ratio, convolution_width, strides
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim,
                num_heads,
                ffn_ratio=ffn_ratio,
                dropout=dropout,
                convolution_width=convolution_width,
                stride=stride,
            )
            for stride in strides
        )

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        for block in self.blocks:
            x = block(x, lengths)
        strides = torch.tensor(self.strides, device=x.device)
        macs, dense_macs = self._macs(lengths, strides), self._macs(lengths, torch.ones_like(strides))
        return x, fixed_trace(strides.expand(len(x), -1), macs, dense_macs)

    def macs_range(self, time: int) -> tuple[int, int]:
        positions, strides = torch.tensor(time), torch.tensor(self.strides)
        return int(self._macs(positions, strides)), int(self._macs(positions, torch.ones_like(strides)))

    def most_macs(self, time: int) -> int:
        return self.macs_range(time)[0]

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def _macs(self, time: Tensor, strides: Tensor) -> Tensor:
        """Of all blocks; one stride for each."""
        macs = block_macs(time[..., None], self.dim, self.ffn_ratio, strides, convolution_width=self.convolution_width)
        assert isinstance(macs, Tensor)
        return macs.sum(dim=-1)
