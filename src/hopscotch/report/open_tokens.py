"""See which tokens of a clip the gates open: for pictures, where a share is not enough.

A trace tells shares alone, for a mask per token and layer would be most of what a batch returns. Here one clip is run
again, and what every gate returned is kept.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hopscotch.layers.gate import Gate


def open_tokens(model: nn.Module, waveform: Float[Tensor, " sample"]) -> Bool[np.ndarray, "layer time"] | None:
    """True where a token is open, by gated layer in order and by position; all False where the clip did not run it.

    None for a model without token gates. `model` must be in evaluation mode.
    """
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    if not gates:
        return None
    assert not model.training, "in training gates measure what they see"
    device = next(model.parameters()).device
    decided: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda gate, inputs, decision: decided.update({layer: decision.computed[0]})

    hooks = [gate.register_forward_hook(keep(layer)) for layer, gate in enumerate(gates)]
    try:
        with torch.no_grad():
            model(waveform[None].to(device), torch.tensor([len(waveform)], device=device))
    finally:
        for hook in hooks:
            hook.remove()
    closed = torch.zeros_like(next(iter(decided.values())))
    return np.stack([decided.get(layer, closed).cpu().numpy() for layer in range(len(gates))])
