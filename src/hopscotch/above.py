"""Say which budgets above the trained one cost accuracy, by what a run measured on its validation clips.

Nothing here imports Lightning, which takes longer to load than a prediction takes to make.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hopscotch.training.calibration import Budget


class Dearer(NamedTuple):
    """Hold what validation clips come to at a budget above the trained one."""

    fraction: float
    acc: float
    trained_acc: float  # at the trained budget
    error: float  # standard error of the difference

    @property
    def costs_accuracy(self) -> bool:
        return self.trained_acc - self.acc > self.error * (1 + 1e-6)  # one clip more is one error, to the last bit

    def __str__(self) -> str:
        return f"{self.acc:.3f} at {self.fraction:.2f}"


def warn_of(budgets: Sequence[Dearer]) -> list[str]:
    """Name the budgets that cost accuracy."""
    costly = [budget for budget in budgets if budget.costs_accuracy]
    if not costly:
        return []
    return [
        f"budgets above the trained one cost accuracy: {', '.join(map(str, costly))} of the dense compute, "
        f"{costly[0].trained_acc:.3f} as trained (validation clips). compute.dense_weight=1 trains such budgets, too."
    ]


def warn_of_budget(summary: Mapping[str, Any], table: Sequence[Budget], bias: float, budget: float) -> list[str]:
    """Warn of a budget if the nearest that the run measured costs accuracy, and is nearer than the trained one.

    `bias` is that of the training; `table` says what fraction it comes to. What a run did not measure is not warned of.
    """
    names, found = Dearer._fields, summary.get("budgets_above")
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    known = [Dearer(*(float(row[name]) for name in names)) for row in rows if _is_whole(row)]
    biases, fractions = zip(*table, strict=True)
    trained = float(np.interp(np.arcsinh(bias), np.arcsinh(biases), fractions))
    nearest = min(known, key=lambda one: abs(one.fraction - budget), default=None)
    if nearest is None or budget <= trained or abs(budget - trained) <= abs(nearest.fraction - budget):
        return []
    return warn_of([nearest])


def _is_whole(row: Mapping[str, Any]) -> bool:
    return all(type(row.get(name)) in (int, float) for name in Dearer._fields)
