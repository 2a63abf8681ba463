"""Define the contract of an encoder: hidden states with a trace, what decisions cost, what it can skip, its gates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import Cost as Cost  # here for those who write an encoder
from hopscotch.layers.gate import Gate
from hopscotch.types import Decisions, Hidden, Lengths, SkipTrace

KINDS = frozenset({"strides", "layers", "tokens", "exits", "widths"})


class Encoder(nn.Module, ABC):
    """Serve as base of the encoders.

    A new encoder is a subclass with `forward`, `cost` and `skips`, and a YAML file in conf/model. `skips` names what it
    can leave out, of `KINDS`: reports show these even if no clip made use of them. An encoder that decides sets
    `decides`; one with token gates lists them in `gates`, and the model moves their thresholds. A part that follows the
    progress of training is a `layers.sampling.Scheduled`; the model finds it wherever it is.
    """

    skips: frozenset[str]
    decides: bool = False
    gates: Sequence[Gate] = ()

    @abstractmethod
    def forward(
        self, x: Hidden, lengths: Lengths, bias: Tensor | float = 0.0, repeat: Decisions | None = None
    ) -> tuple[Hidden, SkipTrace]:
        """Encode the first `lengths` positions of each clip.

        `bias` > 0 favours more compute in the decisions of an evaluation; `repeat` holds decisions to take instead.
        """

    @abstractmethod
    def cost(self, time: int) -> Cost:
        """Count the multiply-accumulates of a clip of `time` positions."""

    def static_parts(self) -> Sequence[nn.Module]:
        """List the parts that compute the same for every clip, whatever was decided: worth compiling."""
        return [part for child in self.children() if isinstance(child, Encoder) for part in child.static_parts()]


class Layered(Encoder):
    """Serve as base of encoders whose layers run one by one, so that a clip can stop after any of them."""

    strides: Sequence[int]  # of each layer; 0 where it has no attention

    @abstractmethod
    def layer(self, number: int, x: Hidden, lengths: Lengths) -> Hidden:
        """Run one layer."""

    @abstractmethod
    def layer_macs(self, lengths: Lengths, *, dense: bool = False) -> Int[Tensor, "batch depth"]:
        """Count the multiply-accumulates of each layer, with every key read if `dense`."""

    def layers(self, x: Hidden, lengths: Lengths) -> Hidden:
        """Run all layers."""
        for number in range(len(self.strides)):
            x = self.layer(number, x, lengths)
        return x

    def macs(self, lengths: Lengths) -> tuple[Int[Tensor, "batch depth"], Int[Tensor, "batch depth"]]:
        """Count the multiply-accumulates of each layer, as it is and with every key read."""
        own = self.layer_macs(lengths)
        return own, own if max(self.strides, default=1) <= 1 else self.layer_macs(lengths, dense=True)

    def trace(self, lengths: Lengths) -> SkipTrace:
        """Say what all layers are for clips of so many positions, without running any."""
        macs, dense_macs = (layers.sum(dim=-1) for layers in self.macs(lengths))
        strides = torch.tensor(self.strides, dtype=torch.long, device=lengths.device).expand(len(lengths), -1)
        return SkipTrace.of(torch.ones_like(strides, dtype=torch.bool), macs, dense_macs, strides=strides)


class Planner(Encoder):
    """Serve as base of encoders that can plan by gains: the cost of decisions, in loss, is regressed from a summary.

    training/gains.py fits the regression.
    """

    @property
    @abstractmethod
    def gain_net(self) -> nn.Module | None:
        """Return the net that is fitted; None where the encoder is trained another way."""

    @abstractmethod
    def random_decisions(self, like: SkipTrace, generator: torch.Generator) -> Decisions:
        """Draw decisions of every cost for the clips of `like`; clips differ in how much they skip."""

    @abstractmethod
    def predicted_cost(self, summary: Tensor, trace: SkipTrace) -> Float[Tensor, " batch"]:
        """Predict what the decisions of `trace` cost a clip of this summary, in loss, compared with the dense run."""
