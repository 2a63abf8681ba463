"""The contract of an encoder: hidden states with a trace, what decisions cost, what it can skip, and its gates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.layers.gate import Gate
from hopscotch.types import Decisions, SkipTrace

KINDS = frozenset({"strides", "layers", "tokens", "exits", "widths"})


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one clip, by how its decisions fall."""

    cheapest: int  # every decision at its cheapest
    trained: int  # the dearest decisions that training ends with
    dearest: int  # the dearest decisions that evaluation can take
    dense: int  # nothing skipped: what fractions are shares of

    def __post_init__(self) -> None:
        assert self.cheapest <= min(self.trained, self.dearest), self
        assert max(self.trained, self.dearest) <= self.dense, self

    @property
    def floor(self) -> float:
        """The smallest fraction of the dense run that decisions can bring a clip to."""
        return self.cheapest / self.dense

    @property
    def ceiling(self) -> float:
        """The largest fraction: strides fixed beforehand keep some models below 1 whatever they decide."""
        return self.dearest / self.dense

    def __add__(self, other: "Cost | int") -> "Cost":
        more = astuple(other) if isinstance(other, Cost) else (other,) * 4
        return Cost(*(own + added for own, added in zip(astuple(self), more, strict=True)))


class Encoder(nn.Module, ABC):
    """Base of the encoders.

    A new encoder is a subclass with `forward`, `cost` and `skips`, and a YAML file in conf/model. `skips` names what it
    can leave out, of `KINDS`: reports show these, whether a clip made use of them or not. An encoder that decides sets
    `decides`; one with token gates lists them in `gates`, and the model moves their thresholds.
    """

    skips: frozenset[str]
    decides: bool = False
    gates: Sequence[Gate] = ()

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        lengths: Int[Tensor, " batch"],
        bias: Tensor | float = 0.0,
        repeat: Decisions | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], SkipTrace]:
        """Encode the first `lengths` positions of each clip.

        `bias` > 0 favours more compute in the decisions of an evaluation; `repeat` holds decisions to take instead.
        """

    @abstractmethod
    def cost(self, time: int) -> Cost:
        """Count the multiply-accumulates of a clip of `time` positions."""

    def static_parts(self) -> Sequence[nn.Module]:
        """List the parts that do the same for every clip they run on, whatever was decided: worth compiling."""
        return [part for child in self.children() if isinstance(child, Encoder) for part in child.static_parts()]
