"""See which tokens of a clip the gates open: for pictures, where a share is not enough.

A trace tells shares alone, for a mask per token and layer would be most of what a batch returns. Here one clip is run
again, and what every gate returned is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hopscotch.layers.gate import Gate, GateDecision


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[int, GateDecision]]:
    """Gated layer, counted in order -> what its gate decides meanwhile; layers not visited are absent."""
    assert not model.training, "in training gates measure what they see"
    seen: dict[int, GateDecision] = {}
    hooks = [
        gate.register_forward_hook(lambda _, __, decision, layer=layer: seen.update({layer: decision}))
        for layer, gate in enumerate(gates_of(model))
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def gates_of(model: nn.Module) -> list[Gate]:
    return [module for module in model.modules() if isinstance(module, Gate)]


def open_tokens(model: nn.Module, waveform: Float[Tensor, " sample"]) -> Bool[np.ndarray, "layer time"] | None:
    """True where a token is open, by gated layer in order and by position; all False where the clip did not run it.

    None for a model without token gates. `model` must be in evaluation mode.
    """
    gates = gates_of(model)
    if not gates:
        return None
    device = next(model.parameters()).device
    with watched(model) as decided, torch.no_grad():
        model(waveform[None].to(device), torch.tensor([len(waveform)], device=device))
    closed = torch.zeros_like(next(iter(decided.values())).computed[0])
    layers = [decided[layer].computed[0] if layer in decided else closed for layer in range(len(gates))]
    return torch.stack(layers).cpu().numpy()
