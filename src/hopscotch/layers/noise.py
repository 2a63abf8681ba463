"""Draw the random numbers of decisions by clip, so that a clip decides the same wherever it is computed.

    number = hash(key of the step, pass; key of the clip; part of the model, place)        uniform in [0, 1)

Neither the other clips of the batch, nor padding, nor the process changes a number, and there is no state but the step.
Where steps or keys are not known, as when a layer is called by itself, parts draw from torch's generator.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.keyed import as_uniform, keyed_bits
from hopscotch.types import Lengths, key_bits

PLACES = 2**32  # of a part: more than a clip has positions


class Noise:
    """Hold what the clips of a step are known by; one for all parts of a model."""

    def __init__(self) -> None:
        self._step = self._pass = self._stream = 0  # the step's key, passes of the model in it, numbers of this pass
        self._keys: Tensor | None = None
        self._few: Tensor | None = None  # numbers of all parts that draw as many for every clip, once there are some
        self._counters, self._starts = torch.zeros(0, dtype=torch.long), list[int]()

    def give_to(self, parts: Iterable["Draws"]) -> None:
        """Let parts draw by this noise; their order tells them apart."""
        parts = list(parts)
        for site, part in enumerate(parts):
            part.noise, part.site = self, site
        few = [PLACES * site + torch.arange(part.num_drawn) for site, part in enumerate(parts)]
        self._counters = torch.cat([self._counters[:0], *few])
        self._starts = list(itertools.accumulate(map(len, few), initial=0))

    def begin(self, key: int) -> None:
        """Begin the step of this key, the same in all processes."""
        self._step, self._pass = key, 0

    @contextmanager
    def of(self, keys: Lengths) -> Iterator[None]:
        """Draw for the clips of these keys in a pass of the model; no two passes of a step share a number."""
        self._pass += 1
        self._stream = key_bits(self._step, self._pass) >> 1
        with self._known_by(keys):
            yield

    @contextmanager
    def among(self, rows: Int[Tensor, " row"] | None, offsets: Int[Tensor, " row"] | int = 0) -> Iterator[None]:
        """Draw for some of the clips, or for parts of them that `offsets` tell apart; None for all of them."""
        keys = self._keys
        if keys is not None and rows is not None:
            keys = keys[rows] + offsets
        with self._known_by(keys):
            yield

    @contextmanager
    def _known_by(self, keys: Tensor | None) -> Iterator[None]:
        before = self._keys, self._few
        if keys is not self._keys:
            self._keys, self._few = keys, None
        try:
            yield
        finally:
            self._keys, self._few = before

    def uniform(self, site: int, count: int, first: int) -> Float[Tensor, "batch count"] | None:
        """Return the numbers of a part at `count` places from the first on; None where clips are not known."""
        keys = self._keys
        if keys is None:
            return None
        start = self._starts[site] + first
        if start + count > self._starts[site + 1]:
            places = torch.arange(first, first + count, device=keys.device)
            return as_uniform(keyed_bits(keys, self._stream, PLACES * site + places))
        if self._few is None:  # at once: a hash takes two dozen operations
            self._counters = self._counters.to(keys.device)
            self._few = as_uniform(keyed_bits(keys, self._stream, self._counters))
        return self._few[:, start : start + count]

    def of_all(self, site: int) -> float | None:
        """Return a number for all clips of all processes; None where clips are not known."""
        return None if self._keys is None else (key_bits(self._stream, site) >> 39) * 2.0**-24


class Draws(nn.Module):
    """Serve as base of parts that draw random numbers for clips."""

    noise: Noise | None = None  # of the model that the part is in
    site = 0  # the part's number in the noise
    num_drawn = 0  # numbers for every clip and pass; parts that draw for positions may ask for more

    def uniform(self, count: int, first: int = 0) -> Float[Tensor, "batch count"] | None:
        """Draw numbers for the clips at hand, at places from `first` on; None where torch's generator has to."""
        return None if self.noise is None else self.noise.uniform(self.site, count, first)

    def among(self, rows: Int[Tensor, " row"] | None, offsets: Int[Tensor, " row"] | int = 0) -> AbstractContextManager:
        """Draw for some of the clips, or for parts of them (`Noise.among`)."""
        return nullcontext() if self.noise is None else self.noise.among(rows, offsets)
