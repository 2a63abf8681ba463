"""Weigh classes in the loss of training: those that a user gives, or such that rare ones count as common ones do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.config.errors import nearest
from hopscotch.config.schema import is_number
from hopscotch.plain import shown

ClassWeights = Literal["balanced"] | Mapping[Any, Any] | None  # names, or what YAML reads for them, to numbers
KEY = "task.class_weights"


def check_weights(given: ClassWeights, classes: Sequence[str]) -> ClassWeights:
    """Return the weights by names of classes; one that is no class, or no weight, is refused by its name."""
    if not isinstance(given, Mapping):
        return given
    weights = {str(name): weight for name, weight in given.items()}
    for name, weight in weights.items():
        if name not in classes:
            hint = nearest(name, classes) or f" They are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}."
            raise ValueError(f"{KEY} must name classes of the data, got {shown(name)}.{shown(hint)}")
        if not (is_number(weight) and 0 < weight < math.inf):
            raise ValueError(f"{KEY} must be numbers above 0, got {shown(name)}: {weight}.")
    return weights


def by_class(
    given: ClassWeights, classes: Sequence[str], balanced: Float[Tensor, " classes"]
) -> Float[Tensor, " classes"] | None:
    """Return a weight for each class, 1 where none is given; `balanced` are those that make classes count alike."""
    if isinstance(given, Mapping):
        return torch.tensor([float(given.get(name, 1.0)) for name in classes])
    return None if given is None else balanced.float()
