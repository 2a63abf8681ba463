"""See which tokens of a clip the gates open: for pictures, where a share is not enough.

A trace tells shares alone, for a mask per token and layer would be most of what a batch returns. Here one clip is run
again, and what every gate returned is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hopscotch.layers.gate import Gate, GateDecision
from hopscotch.models.token_gate import GatedEncoder
from hopscotch.types import SkipTrace


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[int, GateDecision]]:
    """Gated layer, counted in order -> what its gate decides meanwhile; layers not visited are absent.

    Positions are those of the tokens that were let into the encoder (`let_in`).
    """
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
    """Those of layers, in order; not the one before the encoder."""
    before = [module.gate for module in model.modules() if isinstance(module, GatedEncoder)]
    return [module for module in model.modules() if isinstance(module, Gate) and module not in before]


def let_in(trace: SkipTrace, num_positions: int) -> Int[np.ndarray, " token"]:
    """The positions of the first clip that went through the encoder: all of them, where no gate stands before it."""
    if trace.tokens is None:
        return np.arange(num_positions)
    tokens = trace.tokens[0].cpu().numpy().copy()
    tokens[0] = True  # an encoder needs one
    return tokens.nonzero()[0]


def open_tokens(model: nn.Module, waveform: Float[Tensor, " sample"]) -> Bool[np.ndarray, "layer time"] | None:
    """True where a token is open, by gated layer in order and by position; all False where the clip did not run it.

    A gate before the encoder comes first. None for a model without token gates. `model` must be in evaluation mode.
    """
    gates = gates_of(model)
    if not gates and not any(isinstance(module, GatedEncoder) for module in model.modules()):
        return None
    device = next(model.parameters()).device
    with watched(model) as decided, torch.no_grad():
        trace = model(waveform[None].to(device), torch.tensor([len(waveform)], device=device)).trace
    rows = [] if trace.tokens is None else [trace.tokens[0].cpu().numpy()]
    size = len(rows[0]) if rows else next(iter(decided.values())).computed.shape[1]
    places = let_in(trace, size)
    for layer in range(len(gates)):
        row = np.zeros(size, dtype=bool)
        if layer in decided:
            row[places] = decided[layer].computed[0].cpu().numpy()
        rows.append(row)
    return np.stack(rows)
