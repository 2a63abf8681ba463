"""Count multiply-accumulates of the code that runs, by torch's own counter."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of scaled_dot_product_attention, whose CPU form torch counts as 0; shapes come as tuples."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def counted_macs(module: Callable[..., Any], *inputs: Any) -> int:
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2
