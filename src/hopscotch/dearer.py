"""Ask whether a budget above the trained one costs accuracy: more compute than a model knows need not help it.

Accuracy is that of validation clips, the same ones at each budget, so that differences are paired.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from hopscotch.above import Dearer
from hopscotch.data.windows import evaluated
from hopscotch.training.calibration import Budget
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch

MOST = 3  # budgets that a run looks at, when it ends


@torch.no_grad()
def right_ones(task: AudioTask, batches: Iterable[AudioBatch]) -> Bool[Tensor, " clip"] | None:
    """Tell of each clip whether it gets its label, with the bias that the model has; None without labels of clips."""
    device, was_training, right = task.model.decision_bias.device, task.training, []
    task.eval()
    for given in batches:
        moved = AudioBatch(*(part.to(device) for part in given))
        output, batch = evaluated(task.model, moved)
        rows = task.rows(output, batch)
        if not {"label", "prediction"} <= rows.keys():
            return None
        right.append(rows["prediction"] == rows["label"])
    task.train(was_training)
    return torch.cat(right).cpu() if right else None


def compared(
    fraction: float, there: Bool[Tensor, " clip"] | None, trained: Bool[Tensor, " clip"] | None
) -> Dearer | None:
    """Compare accuracy at a budget with that of the same clips at the trained one."""
    if there is None or trained is None:
        return None
    lost = (trained.double() - there.double()) / math.sqrt(max(1, len(there) - 1))
    error = float(lost.std(correction=0)) if len(there) > 1 else math.inf
    return Dearer(fraction, float(there.double().mean()), float(trained.double().mean()), error)


def dearer_budgets(task: AudioTask, batches: Sequence[AudioBatch], table: Sequence[Budget]) -> list[Dearer]:
    """Measure some budgets of a table above the trained one, the dearest among them; the model is then as it was."""
    bias = task.model.decision_bias.clone()
    above = [row for row in table if row.bias > bias]
    trained = right_ones(task, batches) if above else None
    if trained is None:
        return []
    found = []
    for row in above[:: -max(1, len(above) // MOST)][:MOST]:
        task.model.decision_bias.fill_(row.bias)
        found.append(compared(row.fraction, right_ones(task, batches), trained))
    task.model.decision_bias.copy_(bias)
    return sorted(one for one in found if one is not None)
