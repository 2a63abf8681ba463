"""What every encoder offers: hidden states with a SkipTrace, and the price of its cheapest and its dense run."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.types import SkipTrace


class Encoder(nn.Module):
    """Base of the encoders; as it stands, one that decides nothing.

    A new encoder is a subclass with `forward` and `macs_range`, and a YAML in conf/model; the rest is for encoders that
    decide.
    """

    decides = False

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: SkipTrace | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        """`bias` > 0 asks the decisions of an evaluation for more compute; `repeat` holds decisions to take instead."""
        raise NotImplementedError

    def macs_range(self, time: int) -> tuple[int, int]:
        """MACs of a clip of `time` positions: every decision at its cheapest, and nothing skipped."""
        raise NotImplementedError

    def most_macs(self, time: int) -> int:
        """MACs with every decision at its dearest: the dense run, unless something is left out whatever is decided."""
        return self.macs_range(time)[1]

    def most_macs_in_training(self, time: int) -> int:
        """MACs of the dearest decisions that training knows: `most_macs`, unless it holds some of them back."""
        return self.most_macs(time)

    def static_parts(self) -> Sequence[nn.Module]:
        """Parts that do the same for every clip that comes by, whatever was decided: worth compiling."""
        return ()

    # For encoders that learn gains: what decisions cost is regressed (tasks/gains.py) from what they are planned from.

    @property
    def gain_net(self) -> nn.Module | None:
        """What is fitted; None where nothing is."""
        return None

    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> SkipTrace:
        """Decisions of every cost, to be repeated; clips differ in how much they skip."""
        raise NotImplementedError

    def predicted_cost(self, summary: Tensor, decisions: SkipTrace) -> Float[Tensor, " batch"]:
        """What these decisions cost a clip of this `trace.summary`, in loss, against the dense run."""
        raise NotImplementedError

    def update_threshold(self, loss: float | Tensor, lr: float) -> None:
        """Move the thresholds of the gates by the loss of the last step."""

    def set_progress(self, progress: float) -> None:
        """Where training stands, 0 to 1: temperatures follow it."""

    def thresholds(self) -> dict[int, Tensor]:
        """Decision layer -> threshold of its gate."""
        return {}


def fixed_trace(strides: Int[Tensor, "batch depth"], macs: Tensor, dense_macs: Tensor) -> SkipTrace:
    """The trace of an encoder that visits every layer and decides nothing by itself."""
    visited = torch.ones_like(strides, dtype=torch.bool)
    nothing = torch.zeros(len(strides), device=strides.device)
    return SkipTrace(
        strides=strides,
        visited=visited,
        jumps=torch.full_like(strides, -1, dtype=torch.int8),
        landings=torch.zeros_like(visited),
        open_rate=torch.full(strides.shape, torch.nan, device=strides.device),
        macs=macs,
        dense_macs=dense_macs,
        expected_compute=(macs / dense_macs).float(),
        log_prob=nothing,
        entropy=nothing,
    )


def check_temperatures(start: float, end: float) -> None:
    if min(start, end) <= 0:
        raise ValueError(f"model.encoder.temperature_start and temperature_end must be above 0, got {start} and {end}.")


def interpolate(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
