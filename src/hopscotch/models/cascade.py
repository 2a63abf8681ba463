"""Ask trained models one after the other, the cheapest first, until one is sure.

    waveform -> cheapest model | exit -> next model | exit -> ... -> dearest model

Each model is whole: its front end, stem, layers and head. What a front end makes of a clip is kept for the next model
if that hears with the same one. The model that was asked last answers: joined with those of narrower ones its answers
are no better in clean sound, and worse in noise (docs/results.md). Nothing is trained; validation clips choose
temperatures and thresholds (layers/exits.py).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.models.audio_model import AudioModel
from hopscotch.models.encoder import Layered
from hopscotch.models.exits import Answer, Ladder, State
from hopscotch.types import Lengths


class Cascade(Ladder):
    """Join models that decide nothing themselves; they must be given the cheapest first."""

    def __init__(self, *, name: str, stages: Sequence[AudioModel]) -> None:
        nn.Module.__init__(self)
        if len(stages) < 2:
            raise ValueError(f"stages must be two models or more, got {len(stages)}.")
        for stage in stages:
            if stage.decides or not isinstance(stage.encoder, Layered):
                raise ValueError(
                    f"stages must be models that decide nothing (dense, skip_attention), got {stage.name}."
                )
        if len({stage.frontend.sample_rate for stage in stages}) > 1:
            rates = ", ".join(str(stage.frontend.sample_rate) for stage in stages)
            raise ValueError(f"stages must hear at one sample rate, got {rates} Hz.")
        self.name, self.dim = name, stages[-1].dim
        self.stages = nn.ModuleList(stages)
        self.scheduled, self.deciders, self.spectrogram_augment = [], [], None
        self.register_buffer("decision_bias", torch.tensor(0.0))
        self._end_with([stage.head for stage in stages], rule="confidence", weight=0.0, joins=False)

    def __getattr__(self, name: str) -> Any:
        """Give the parts of the last model, which others ask for."""
        if name in ("frontend", "stem", "stem_layers", "encoder", "head"):
            return getattr(self.models[-1], name)
        return super().__getattr__(name)

    @property
    def models(self) -> list[AudioModel]:
        return [stage for stage in self.stages if isinstance(stage, AudioModel)]

    @property
    def skips(self) -> frozenset[str]:
        return frozenset({"exits"})

    def start(self, waveform: Float[Tensor, "batch sample"], lengths: Lengths, keys: Lengths | None) -> State:
        return waveform, lengths, *self.models[0].frontend(waveform, lengths)

    def rung(self, number: int, state: State) -> Answer:
        waveform, lengths, mel, frames = state
        model = self.models[number]
        if number and not self._hears_again(number):
            mel, frames = model.frontend(waveform, lengths)
        return Answer((waveform, lengths, mel, frames), *model.answer(mel, frames))

    def costs(self, lengths: Lengths) -> tuple[Int[Tensor, "batch exit"], Int[Tensor, " batch"]]:
        macs = [model.layered_macs(model.frontend.frames(lengths)) for model in self.models]
        own, dense = (torch.stack(of_models, dim=1) for of_models in zip(*macs, strict=True))
        return own.cumsum(dim=1), dense.sum(dim=1)

    def strides_at(self, exits: Int[Tensor, " batch"]) -> Int[Tensor, "batch depth"]:
        return (torch.arange(len(self.stages), device=exits.device) <= exits[:, None]).long()

    def frontend_macs(self, lengths: Lengths) -> Int[Tensor, "batch exit"]:
        own = [
            model.frontend.macs(lengths) * (number == 0 or not self._hears_again(number))
            for number, model in enumerate(self.models)
        ]
        return torch.stack(own, dim=1).cumsum(dim=1)

    def _hears_again(self, number: int) -> bool:
        """Tell whether a model's front end is that of the model before it."""
        return self.models[number].frontend.is_same(self.models[number - 1].frontend)
