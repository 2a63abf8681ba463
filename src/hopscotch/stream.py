"""Hear a recording without end chunk by chunk, and say which events were in it.

    stream = load(run).stream()
    for event in stream.feed(samples): ...      any number of samples, at the model's rate
    for event in stream.end(): ...              what was not over yet

What is carried from chunk to chunk, and when a piece is computed, is in ship/runner.py, which a model that was exported
has, too. Here are the parts that it asks for, in torch. Events and scores are those of the whole recording computed at
once, however it is cut into chunks, and memory is the same after a day.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.heads import DetectionHead
from hopscotch.models.stage0 import THINNED
from hopscotch.ship import runner
from hopscotch.ship.graphs import spans_of
from hopscotch.types import valid_mask

TWO_AN_HOUR = -1  # row of the head's thresholds: those for 2 false alarms an hour


class Parts:
    """Compute what a stream asks for, by the parts of a model that is always on."""

    def __init__(self, model: AlwaysOn, head: DetectionHead) -> None:
        frontend = model.frontend
        self.model, self.device = model, model.decision_bias.device
        self.hop, self.fft, self.sample_rate = frontend.hop, frontend.fft, frontend.sample_rate
        self.num_bands, self.step, self.spans = frontend.num_mels, head.step, spans_of(model)
        self.thresholds = head.thresholds[TWO_AN_HOUR].double().cpu().numpy()

    def bands(self, samples: Float[np.ndarray, " sample"]) -> tuple[Float[np.ndarray, "1 time mel"], float]:
        """Compute the bands of every second frame, whose level is that of full scale."""
        power = self.model.frontend.power(self._here(samples[None]), every=THINNED)
        return power.cpu().numpy(), 1.0

    def hear(self, bands: Float[np.ndarray, "1 time mel"], level: float) -> Float[np.ndarray, " step"]:
        """Score how surely the full model is needed, every second frame of those."""
        mel, frames = self._mel(bands)
        return self.model.stage(mel, frames)[0][0].cpu().numpy()

    def compute(
        self, bands: Float[np.ndarray, "1 time mel"], level: float, bias: float
    ) -> tuple[Float[np.ndarray, "row outputs"], runner.Trace]:
        """Compute the rows of a span by the full model; what it skipped is not told."""
        x, positions, _ = self.model.encoded(*self._mel(bands))
        rows = self.model.head(x, valid_mask(positions, x.shape[1]))
        return rows[0].float().cpu().numpy(), runner.Trace()

    def _mel(self, bands: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        power = self._here(bands)
        frames = torch.tensor([bands.shape[1]], device=self.device)
        return self.model.frontend.scaled(power, power.new_ones(1)), frames

    def _here(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


class Stream(runner.Stream):
    """Hear as the runner of an exported model does, by a model in torch. Scores go to `on_scores`, if it is given.

    Raises:
        ValueError: If a result of the model could depend on samples that are arbitrarily far away.
    """

    def __init__(self, model: AudioModel, classes: list[str], on_scores: Any = None) -> None:
        if not isinstance(model, AlwaysOn) or not isinstance(model.head, DetectionHead):
            raise ValueError(
                f"a stream needs model=always_on with task=detect, got model={model.name} with a "
                f"{type(model.head).__name__}."
            )
        if model.frontend.level != "none":
            raise ValueError(
                f"a stream needs frontend.level=none (frontend=log_mel_stream), got {model.frontend.level}."
            )
        parts = Parts(model.eval(), model.head)
        super().__init__(parts, classes, model.decision_bias.item(), on_scores)

    @torch.inference_mode()
    def feed(self, samples: Any) -> list[runner.StreamEvent]:
        """Hear more samples, full scale being 1, and return the events that are over."""
        return super().feed(samples)

    @torch.inference_mode()
    def end(self) -> list[runner.StreamEvent]:
        """Say that nothing more comes, and return the events that are left."""
        return super().end()
