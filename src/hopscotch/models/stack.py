"""Stack transformer blocks with fixed strides: `dense` (all 1) and `skip_attention`.

stride of layer i: the list `strides`, or max(1, first - i)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hopscotch.compute import Cost
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.checks import check_stride
from hopscotch.layers.noise import Draws
from hopscotch.layers.sampling import drop_layer
from hopscotch.models.encoder import Layered
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace


class Stack(Layered, Draws):
    """Apply `depth` blocks with the list `strides`, or with strides that fall from `first`; first = 1 is dense.

    In training the last layer drops a share `drop` of the clips, layers before it fewer (stochastic depth).
    """

    def __init__(
        self,
        block: BlockSpec,
        depth: int,
        *,
        strides: Sequence[int] | None = None,
        first: int = 1,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_stride(first, "first")
        strides = [max(1, first - layer) for layer in range(depth)] if strides is None else list(strides)
        if len(strides) != depth:
            raise ValueError(f"strides must name one stride per layer, got {strides} for depth={depth}.")
        for stride in strides:
            check_stride(stride, "every stride of strides")
        if not 0 <= drop < 1:
            raise ValueError(f"drop must be a share, at least 0 and below 1, got {drop}.")
        self.spec, self.strides, self.drop = block, strides, drop
        self.num_drawn = depth if drop else 0
        self.skips = frozenset({"strides"} if max(strides, default=1) > 1 else ())
        self.blocks = nn.ModuleList(TransformerBlock(block, stride=stride) for stride in strides)

    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        return self.layers(x, lengths), self.trace(lengths)

    def cost(self, time: int) -> Cost:
        macs, dense = (int(layers.sum()) for layers in self.macs(torch.tensor([time])))
        return Cost(macs, macs, macs, dense)

    def layer(self, number: int, x: Hidden, lengths: Lengths) -> Hidden:
        y = self.blocks[number](x, lengths)
        return drop_layer(self, x, y, self.drop, number, len(self.blocks)) if self.training else y

    def layer_macs(self, lengths: Lengths, *, dense: bool = False) -> Int[Tensor, "batch depth"]:
        strides = torch.tensor(self.strides, dtype=torch.long, device=lengths.device)
        return self.spec.macs(lengths[:, None], torch.ones_like(strides) if dense else strides)

    def static_parts(self) -> Sequence[nn.Module]:
        return list(self.blocks)
