"""Stack transformer blocks with fixed strides: `dense` (all 1) and `skip_attention`.

stride of layer i: the list `strides`, or max(1, first - i)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hopscotch.compute import Cost
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.checks import check_stride
from hopscotch.models.encoder import Encoder
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace


class Stack(Encoder):
    """Apply `depth` blocks with the list `strides`, or with strides that fall from `first`; first = 1 is dense."""

    def __init__(self, block: BlockSpec, depth: int, *, strides: Sequence[int] | None = None, first: int = 1) -> None:
        super().__init__()
        check_stride(first, "first")
        strides = [max(1, first - layer) for layer in range(depth)] if strides is None else list(strides)
        if len(strides) != depth:
            raise ValueError(f"strides must name one stride per layer, got {strides} for depth={depth}.")
        for stride in strides:
            check_stride(stride, "every stride of strides")
        self.spec, self.strides = block, strides
        self.skips = frozenset({"strides"} if max(strides) > 1 else ())
        self.blocks = nn.ModuleList(TransformerBlock(block, stride=stride) for stride in strides)

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        for block in self.blocks:
            x = block(x, lengths)
        strides = torch.tensor(self.strides, device=x.device)
        macs, dense_macs = self._macs(lengths, strides), self._macs(lengths, torch.ones_like(strides))
        strides = strides.expand(len(x), -1)
        return x, SkipTrace.of(torch.ones_like(strides, dtype=torch.bool), macs, dense_macs, strides=strides)

    def cost(self, time: int) -> Cost:
        positions, strides = torch.tensor(time), torch.tensor(self.strides)
        macs = int(self._macs(positions, strides))
        return Cost(macs, macs, macs, int(self._macs(positions, torch.ones_like(strides))))

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def _macs(self, time: Tensor, strides: Tensor) -> Tensor:
        """Count the multiply-accumulates of all blocks, given one stride for each."""
        return self.spec.macs(time[..., None], strides).sum(dim=-1)
