"""Let a trained model teach: what it says of a batch, with nothing skipped, is what the model in training should say.

    loss of a step + weight KL(teacher || output)        other tasks: their own distance

The teacher hears what the model hears, but sees the whole spectrogram. Its weights never move, and no checkpoint has
them: a run that goes on reads them again.
"""

import math

import torch

from hopscotch.models.audio_model import AudioModel
from hopscotch.training.calibration import MAX_BIAS
from hopscotch.types import AudioBatch, ModelOutput


class Teacher:
    """Hold a trained model that is no part of the one in training; `weight` is that of the distance to it."""

    def __init__(self, model: AudioModel, weight: float) -> None:
        self.weight = weight
        self._model = model.eval().requires_grad_(False)
        self._model.decision_bias.fill_(math.sinh(MAX_BIAS))  # as dear as it gets

    @torch.no_grad()
    def __call__(self, batch: AudioBatch) -> ModelOutput:
        return self._model.to(batch.waveform.device)(batch.waveform, batch.lengths)
