"""Make the two passes that every layer is timed in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FORWARD, TRAINING = "forward", "forward + backward"
DIRECTIONS = (FORWARD, TRAINING)


def one_pass(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, direction: str) -> Callable[[], None]:
    """Make a step of `call` on x as in evaluation or training; the weights of `module` get gradients."""

    def forward() -> None:
        module.eval()
        with torch.no_grad():
            call(x)

    def training() -> None:
        module.train()
        module.zero_grad(set_to_none=True)
        call(x.detach().requires_grad_()).sum().backward()

    return forward if direction == FORWARD else training


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
