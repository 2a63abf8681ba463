"""One checkpoint, many budgets: what accuracy is left when a trained model is asked to spend less, or more."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hopscotch.models.audio_model import AudioModel
from hopscotch.tasks.budget import calibrate
from hopscotch.types import AudioBatch


class BudgetPoint(NamedTuple):
    requested: float  # fraction of the dense MACs
    calibrated: float  # fraction that the validation clips came to
    fraction: float  # of the test clips
    macs: float  # mean per test clip
    acc: float


@torch.no_grad()
def budget_curve(
    model: AudioModel,
    calibration: Sequence[AudioBatch],
    test: Sequence[AudioBatch],
    budgets: Sequence[float],
) -> list[BudgetPoint]:
    """A point for every budget, the model being calibrated on validation clips; afterwards it is as it was.

    A budget out of reach is met as nearly as it can be: `calibrated` tells.
    """
    bias, was_training = model.decision_bias.clone(), model.training
    points = []
    for budget in budgets:
        model.decision_bias.copy_(bias)  # each from there: their order changes nothing
        reached = calibrate(model, calibration, budget).achieved
        points.append(BudgetPoint(budget, reached, *_measure(model.eval(), test)))
    model.decision_bias.copy_(bias)
    model.train(was_training)
    return points


def _measure(model: AudioModel, batches: Sequence[AudioBatch]) -> tuple[float, float, float]:
    """Fraction, MACs per clip and accuracy."""
    device = model.decision_bias.device
    run = dense = correct = clips = 0
    for batch in batches:
        output = model(batch.waveform.to(device), batch.lengths.to(device))
        run, dense = run + int(output.trace.macs.sum()), dense + int(output.trace.dense_macs.sum())
        correct += int((output.logits.argmax(dim=-1).cpu() == batch.labels).sum())
        clips += len(batch.labels)
    return run / dense, run / clips, correct / clips
