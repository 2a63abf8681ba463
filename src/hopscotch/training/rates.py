"""Give the layers of a model learning rates of their own, and weight decay to matrices alone.

    head, early exits                                      lr head_rate
    last layer of the encoder, decisions for all layers    lr
    layer i of n                                           lr decay^(n - 1 - i)
    stem                                                   lr decay^n

What lies near the input is the most general, and needs to move least where a trained model learns something else
(Howard and Ruder 2018; by a constant ratio as in ELECTRA, Clark et al. 2020). A head is new there, and learns faster.
"""

import math
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from hopscotch.models.names import layer_of

HEADS = ("head.", "early.", "exits.")  # what says an answer
SHARE = "share"  # key of a parameter group: its learning rate / that of the optimizer


def parameter_groups(model: nn.Module, decay: float, head_rate: float = 1.0) -> list[dict[str, Any]]:
    """Group the parameters that train by share of the learning rate, the largest first, matrices before others."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = list(dict.fromkeys(layer for layer in map(layer_of, trained) if layer is not None))
    if decay != 1 and not layers:
        rank_zero_warn(
            f"optimizer.layer_decay={decay} has no effect: no part of the encoder is called blocks or layers."
        )
    depths = {layer: len(layers) - 1 - place for place, layer in enumerate(layers)}
    shares = {
        name: head_rate
        if name.startswith(HEADS)
        else decay ** (len(layers) if name.startswith("stem.") else depths.get(layer_of(name) or "", 0))
        for name in trained
    }
    groups = []
    for share in sorted(set(shares.values()), reverse=True):
        here = [parameter for name, parameter in trained.items() if shares[name] == share]
        groups.append({"params": [p for p in here if p.ndim >= 2], SHARE: share})
        groups.append({"params": [p for p in here if p.ndim < 2], "weight_decay": 0.0, SHARE: share})
    return [group for group in groups if group["params"]]


def take_shares(optimizer: Optimizer) -> Optimizer:
    """Lower the learning rate of each group to its share; a schedule is made afterwards."""
    for group in optimizer.param_groups:
        group["lr"] *= group[SHARE]
    return optimizer


def refuse_one_rate(optimizer: Optimizer, scheduler: object) -> None:
    """Refuse a schedule that has set the rates of all groups to the same."""
    rates = [group["lr"] / group[SHARE] for group in optimizer.param_groups]
    if not all(math.isclose(rate, rates[0]) for rate in rates):
        raise ValueError(
            f"optimizer.layer_decay and optimizer.head_rate must be 1 under {type(scheduler).__name__}, which sets one "
            "rate for all layers."
        )
