"""Keep parts of a model as they were when training began, for good or for some epochs.

A frozen part has no gradient, so that no optimizer moves it and no weight decays, and runs as in evaluation: nothing is
dropped, decisions are not drawn, and thresholds stay. A plan by gains is no matter of gradients: it is fitted all the
same (training/gains.py). With `every`, the last part of the list is released after so many epochs, then the one before
it: what stands first is frozen longest.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn

from hopscotch.models.names import find_parts

KEY = "trainer.freeze"


def check_frozen(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse names that the model does not have, and such as leave nothing to train."""
    frozen = {id(parameter) for part in find_parts(model, names, KEY) for parameter in part.parameters()}
    if not any(parameter.requires_grad and id(parameter) not in frozen for parameter in model.parameters()):
        raise ValueError(f"{KEY} must leave something to train, got {', '.join(names)}.")


class Freeze(Callback):
    """Freeze the parts of the names given when training starts, also where it resumes."""

    def __init__(self, names: Sequence[str], every: int | None) -> None:
        self.names, self.every = list(names), every
        self._parts: list[tuple[nn.Module, list[nn.Parameter]]] = []  # with the parameters that would train

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        parts = find_parts(pl_module.model, self.names, KEY)
        self._parts = [(part, [one for one in part.parameters() if one.requires_grad]) for part in parts]
        self._freeze(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._freeze(trainer.current_epoch)

    def _freeze(self, epoch: int) -> None:
        num_frozen = max(0, len(self._parts) - (epoch // self.every if self.every else 0))
        for is_frozen, parts in ((False, self._parts[num_frozen:]), (True, self._parts[:num_frozen])):
            for part, parameters in parts:  # those within a frozen part come last, and stay frozen
                part.train(not is_frozen)
                for parameter in parameters:
                    parameter.requires_grad_(not is_frozen)
