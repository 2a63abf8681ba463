"""Say what a cut of a model into graphs is made of: graphs, the plan that joins them, and costs as polynomials."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hopscotch.layers.block import BlockSpec
from hopscotch.types import Mask

TIME = 37  # positions of the examples that are traced

Macs = list[int]  # fixed, a position, a key, a pair of both, an open position


class Graph(NamedTuple):
    """Hold what is traced: a module, examples of its inputs by name, and names of its outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] = ("y",)


class Cut(NamedTuple):
    """Hold the graphs of a model by name, and the plan by which a runner joins them."""

    graphs: dict[str, Graph]
    plan: dict[str, Any]


def block_macs(spec: BlockSpec) -> Macs:
    """Solve for the costs of a block: it has no fixed one."""
    one, strided, two = spec.macs(1), spec.macs(2, 2), spec.macs(2)
    key = 2 * one - strided
    pair = (two - strided - key) // 2
    return [0, strided - one - pair, key, pair, 0]


def whole(x: Tensor) -> Mask:
    """Return a mask of positions, all of which are the clip's."""
    return torch.ones_like(x[:, :, 0], dtype=torch.bool)
