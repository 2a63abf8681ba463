"""Encoders that plan by learned gains: what decisions cost is regressed (training/gains.py) from a clip's summary."""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.models.encoder import Encoder
from hopscotch.types import Decisions, SkipTrace


class Planner(Encoder):
    """Base of encoders that can plan by gains."""

    @property
    @abstractmethod
    def gain_net(self) -> nn.Module | None:
        """Give the net that is fitted; None where the encoder is trained another way."""

    @abstractmethod
    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> Decisions:
        """Draw decisions of every cost for the clips of `like`; clips differ in how much they skip."""

    @abstractmethod
    def predicted_cost(self, summary: Tensor, trace: SkipTrace) -> Float[Tensor, " batch"]:
        """Predict what the decisions of `trace` cost a clip of this summary, in loss, against the dense run."""
