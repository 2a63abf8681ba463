"""Measure over the clips of all processes of a training what each one knows of its own."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class Together:
    """Add up what the processes of a group have; each of them must ask for the same, in the same order.

    The group must be no other's: gradients are exchanged meanwhile, in an order that differs from process to process.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def sum(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the sum, and send it back the gradients of all processes."""
        return Sum.apply(x, self)  # pyright: ignore[reportReturnType]

    def added(self, x: Tensor) -> Tensor:
        """Return the sum, without a gradient."""
        total = x.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def joined(self, x: Float[Tensor, " own"]) -> Float[Tensor, " all"]:
        """Concatenate numbers, of which processes may have more or fewer."""
        parts: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(parts, x.cpu(), group=self.group)
        return torch.cat(parts).to(x.device)


class Sum(torch.autograd.Function):
    """Add up over processes: what a process adds changes the losses of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, together: Together) -> Tensor:
        ctx.together = together
        return together.added(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        return ctx.together.added(grad), None
