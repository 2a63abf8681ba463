"""Run one set of weights at several widths: the narrowest answers first, and the next one where that is not sure.

A narrow model has the first channels of every layer of the full one, and normalisations of its own, as what they
measure differs by width (slimmable networks, Yu et al. 2019). Heads of attention are as wide as in the full model as
far as that comes out even. In training every step runs the narrowest, the full and one width between them, drawn at
random (the sandwich rule, Yu and Huang 2019); what the full one says teaches the others (training/exits.py).
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hopscotch.layers.exits import Rule
from hopscotch.models.audio_model import Head, Parts
from hopscotch.models.encoder import Layered
from hopscotch.models.exits import Answer, Ladder, State
from hopscotch.models.stem import Conv2dStem
from hopscotch.types import Lengths

NORMS = (nn.LayerNorm, nn.BatchNorm2d)


class Borrowed(NamedTuple):
    """Name a weight that a narrow model has of the full one."""

    path: str  # in the full model
    full: nn.Module
    narrow: nn.Module
    name: str  # in both
    shape: tuple[int, ...]  # in the narrow one


class Slimmable(Ladder):
    """Answer at several widths.

    Args:
        shares: Of the full width, rising; the last is 1.
        rule: When a clip has its answer: "confidence", or "learned" (layers/exits.py).
        weight: Of the losses of each narrow width (training/exits.py).
        make_parts: Makes the parts of a model of a share of the width.
        parts: Of the full model.
    """

    def __init__(
        self,
        *,
        shares: Sequence[float],
        rule: Rule,
        weight: float,
        make_parts: Callable[[float], Parts],
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        if not isinstance(self.encoder, Layered):
            raise ValueError(
                "widths need a stack of blocks (model=dense, skip_attention) and no gate of tokens (open_rate=null), "
                f"got {type(self.encoder).__name__}."
            )
        rises = all(low < high for low, high in itertools.pairwise(shares))
        if len(shares) < 2 or not rises or shares[0] <= 0 or shares[-1] != 1:
            raise ValueError(f"widths.shares must rise, from above 0 to 1, got {list(shares)}.")
        self.narrow = nn.ModuleList(make_parts(share) for share in shares[:-1])
        self._borrowed = [list(borrow(part, self)) for part in self._narrow()]
        self._kept = dict[int, tuple[list[tuple[int, int]], list[Tensor]]]()  # by width: state of the full weights, cut
        self._end_with([*(part.head for part in self._narrow()), self.head], rule=rule, weight=weight)

    @property
    def skips(self) -> frozenset[str]:
        return frozenset({"exits", "widths"})

    def drawn(self) -> list[int]:
        last = self.exits.number - 1
        if not self.training or last < 3:
            return list(range(last + 1))
        uniform = None if self.noise is None else self.noise.of_all(self.site)
        return [0, int(torch.randint(1, last, ())) if uniform is None else 1 + int(uniform * (last - 1)), last]

    def rung(self, number: int, state: State) -> Answer:
        if number == self.exits.number - 1:
            return Answer(state, *self.answer(*state))
        with self._lent(number):
            return Answer(state, *self._narrow()[number].answer(*state))

    @contextmanager
    def _lent(self, number: int) -> Iterator[None]:
        """Lend a narrow model its share of the weights."""
        for one, share in zip(self._borrowed[number], self._shares(number), strict=True):
            one.narrow._parameters[one.name] = share  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            for one in self._borrowed[number]:
                one.narrow._parameters[one.name] = None

    def _shares(self, number: int) -> list[Tensor]:
        """Cut what a narrow model borrows; where nothing is learned it is kept until a weight changes."""
        borrowed = self._borrowed[number]
        weights = [one.full.get_parameter(one.name) for one in borrowed]
        state = None
        if not (torch.is_grad_enabled() or any(weight.is_inference() for weight in weights)):
            state = [(weight.data_ptr(), weight._version) for weight in weights]
            if number in self._kept and self._kept[number][0] == state:
                return self._kept[number][1]
        shares = [
            first(weight, one.shape, self._groups(one.path)) for one, weight in zip(borrowed, weights, strict=True)
        ]
        if state is not None:
            self._kept[number] = state, shares
        return shares

    def train(self, mode: bool = True) -> "Slimmable":
        self._kept.clear()
        return super().train(mode)

    @torch.no_grad()
    def alone(self, number: int) -> Parts:
        """Return the parts of a width with weights of their own."""
        if number == self.exits.number - 1:
            return copy.deepcopy(self)
        with self._lent(number):
            part = copy.deepcopy(self._narrow()[number])
        for module in part.modules():
            for name, weight in module._parameters.items():
                module._parameters[name] = None if weight is None else nn.Parameter(weight.detach().clone())
        return part

    def _groups(self, path: str) -> tuple[int, int]:
        """Return how many groups of channels a weight has along its first two axes, one after the other."""
        if ".key_value." in path:
            return 2, 1
        if path == "head.linear.weight" and isinstance(self.head, Head):
            return 1, self.head.linear.in_features // self.dim
        return 1, self.stem.bins[-1] if path == "stem.linear.weight" and isinstance(self.stem, Conv2dStem) else 1

    def _narrow(self) -> list[Parts]:
        return [part for part in self.narrow if isinstance(part, Parts)]

    def costs(self, lengths: Lengths) -> tuple[Int[Tensor, "batch exit"], Int[Tensor, " batch"]]:
        frames, parts = self.frontend.frames(lengths), [*self._narrow(), self]
        rules = torch.tensor([self.exits.macs(number) for number in range(len(parts))], device=lengths.device)
        macs = [part.layered_macs(frames) for part in parts]
        own, dense = (torch.stack(of_parts, dim=1) + rules for of_parts in zip(*macs, strict=True))
        return own.cumsum(dim=1), dense.sum(dim=1)

    def strides_at(self, exits: Int[Tensor, " batch"]) -> Int[Tensor, "batch depth"]:
        return (torch.arange(self.exits.number, device=exits.device) <= exits[:, None]).long()


def borrow(part: Parts, full: nn.Module) -> Iterator[Borrowed]:
    """Take the weights out of a narrow model, its normalisations apart."""
    for prefix, module in part.named_modules():
        if not isinstance(module, NORMS):
            for name, weight in list(module.named_parameters(recurse=False)):
                yield Borrowed(f"{prefix}.{name}", full.get_submodule(prefix), module, name, tuple(weight.shape))
                module.register_parameter(name, None)


def first(weight: Tensor, shape: Sequence[int], groups: tuple[int, int]) -> Tensor:
    """Return the first channels along each axis, `shape` of them, in equal parts from all groups along the axis."""
    for axis, (size, number) in enumerate(zip(shape, (*groups, 1, 1), strict=False)):
        if weight.shape[axis] != size:
            weight = weight.unflatten(axis, (number, -1)).narrow(axis + 1, 0, size // number).flatten(axis, axis + 1)
    return weight
