"""Draw crops and batches as functions of keys, so that a killed run resumes exactly.

The batches of an epoch are a function of (seed, epoch). A batch is a list of (epoch, index) pairs: the epoch travels
with the index, so workers need no `set_epoch`, and the key of a clip follows from its pair.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

from hopscotch.keyed import keyed_bits
from hopscotch.types import key_bits

CROPPING = 200  # a stream of its own: where a long clip is cropped
BATCHES_PER_BUCKET = 8  # sorted by length together: little padding, yet every epoch mixes clips differently

Pair = tuple[int, int]  # epoch, index


def crop_start(key: int, num_spare: int) -> int:
    """Draw where the crop of a clip starts, of which `num_spare` samples are left out."""
    return int(keyed_bits(torch.tensor([key]), CROPPING, torch.tensor([0]))) % (num_spare + 1)


class Position(NamedTuple):
    """How far training has come."""

    epoch: int
    num_batches_done: int  # of this epoch


class Cell(NamedTuple):
    """Say how many of some clips an epoch draws: as many as they are, or more or fewer of a class that is balanced."""

    indices: Int[Tensor, " clip"]
    drawn: int


class Tier(NamedTuple):
    """Hold clips of which equally many fit into a batch."""

    cells: list[Cell]
    sizes: list[int]  # of the batches


def tiers(
    lengths: Int[Tensor, " clip"],
    batch_size: int,
    most: int | None,
    num_ranks: int,
    classes: Int[Tensor, " clip"] | None = None,
) -> list[Tier]:
    """Divide clips so that no batch of clips of one tier comes to more than `most` samples with its padding.

    A clip longer than that is a batch. Sizes follow from the lengths, so that all epochs have equally many batches.
    Their number is a multiple of the ranks: the largest ones are halved until it is. With `classes`, the one of each
    clip, an epoch has as many clips as there are, equally many of each class.
    """
    room = torch.full_like(lengths, batch_size) if most is None else (most // lengths).clamp(1, batch_size)
    kinds = room.unique().flip(0).tolist()  # short clips first
    if classes is None:
        parts = [(room == kind).nonzero().flatten() for kind in kinds]
        cells = [[Cell(part, len(part))] for part in parts]
    else:
        cells = balanced(room, kinds, classes)
    counts = [sum(cell.drawn for cell in part) for part in cells]
    if len(kinds) == 1:
        return [Tier(cells[0], batch_sizes(counts[0], kinds[0], num_ranks))]
    sizes = [batch_sizes(count, kind, 1) for count, kind in zip(counts, kinds, strict=True)]
    for _ in range(-sum(map(len, sizes)) % num_ranks):
        largest = max(sizes, key=max)
        halved = largest.pop(largest.index(max(largest)))
        largest += [max(1, halved // 2), (halved + 1) // 2]
    return [Tier(*tier) for tier in zip(cells, sizes, strict=True)]


def balanced(room: Int[Tensor, " clip"], kinds: Sequence[int], classes: Int[Tensor, " clip"]) -> list[list[Cell]]:
    """Share an epoch equally among classes, and a class among the tiers of its clips as they have them, 1 at least."""
    cells: list[list[Cell]] = [[] for _ in kinds]
    numbers = classes.unique().tolist()
    for rank, number in enumerate(numbers):
        wanted = len(room) // len(numbers) + (rank < len(room) % len(numbers))
        parts = [((room == kind) & (classes == number)).nonzero().flatten() for kind in kinds]
        total = sum(map(len, parts))
        counts = [max(1, wanted * len(part) // total) if len(part) else 0 for part in parts]
        largest = max(range(len(parts)), key=lambda place: len(parts[place]))
        counts[largest] = max(1, counts[largest] + wanted - sum(counts))
        for tier, part, count in zip(cells, parts, counts, strict=True):
            tier += [Cell(part, count)] if count else []
    return cells


class ShuffledBatches(Sampler[list[Pair]]):
    """Draw training batches: shuffled, then clips of similar length together, each clip once per epoch.

    Batch sizes differ by at most one where nothing is long. All ranks get equally many batches, and those of one step
    hold clips of similar length; if there are fewer clips than the ranks need, clips from the front of the order come
    twice. With `most`, a batch of long clips holds fewer, and with `classes` each class comes equally often, see
    `tiers`: of a class of many clips each epoch has others, and a clip that comes for the n-th time is index + n x
    clips, so that its noise is another.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        position: Callable[[], Position],
        most: int | None = None,
        classes: Sequence[int] | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Draw batches for one rank; `position` is called at the start of every iteration."""
        self.lengths = torch.tensor(lengths)
        own = None if classes is None else torch.tensor(classes)
        self.tiers = tiers(self.lengths, batch_size, most, num_ranks, own)
        self.seed = seed
        self.position = position
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return sum(len(tier.sizes) for tier in self.tiers) // self.num_ranks

    def __iter__(self) -> Iterator[list[Pair]]:
        """Start with the next batch of the current epoch."""
        epoch, num_done = self.position()  # read when iteration starts, not when the first batch is asked for
        return iter(self.batches(epoch)[num_done:])

    def batches(self, epoch: int) -> list[list[Pair]]:
        """List this rank's batches of one epoch, in order."""
        generator = torch.Generator().manual_seed(key_bits(self.seed, epoch))
        batches = [
            [(epoch, index) for index in batch.tolist()]
            for cells, sizes in self.tiers
            for batch in self._shuffled(cells, sizes, generator)
        ]
        steps = torch.randperm(len(self), generator=generator).tolist()
        return [batches[step * self.num_ranks + self.rank] for step in steps]

    def _shuffled(
        self, cells: list[Cell], sizes: list[int], generator: torch.Generator
    ) -> Sequence[Int[Tensor, " batch"]]:
        drawn = [_times(_permuted(cell.indices, generator), cell.drawn, len(self.lengths)) for cell in cells]
        order = _drawn(drawn[0] if len(drawn) == 1 else _permuted(torch.cat(drawn), generator), sizes)
        in_a_bucket = BATCHES_PER_BUCKET * self.num_ranks
        bucket_sizes = [int(bucket.sum()) for bucket in torch.tensor(sizes).split(in_a_bucket)]
        lengths = self.lengths[order % len(self.lengths)]
        parts = zip(order.split(bucket_sizes), lengths.split(bucket_sizes), strict=True)
        buckets = [bucket[length.argsort(stable=True)] for bucket, length in parts]
        return torch.cat(buckets).split(sizes)


class SortedBatches(Sampler[list[Pair]]):
    """Make validation and test batches: every clip exactly once, shortest first."""

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, most: int | None = None, rank: int = 0, num_ranks: int = 1
    ) -> None:
        """Take the `lengths` of the clips in samples, of all windows; batch i is for rank i modulo `num_ranks`."""
        samples = torch.tensor(lengths)
        batches = [
            batch.tolist()
            for ((indices, _),), sizes in tiers(samples, batch_size, most, num_ranks)
            for batch in _drawn(indices[samples[indices].argsort(stable=True)], sizes).split(sizes)
        ]
        self._batches = [[(0, index) for index in batch] for batch in batches][rank::num_ranks]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Pair]]:
        return iter(self._batches)


def _permuted(indices: Int[Tensor, " clip"], generator: torch.Generator) -> Int[Tensor, " clip"]:
    return indices[torch.randperm(len(indices), generator=generator)]


def _times(order: Int[Tensor, " clip"], count: int, num_clips: int) -> Int[Tensor, " drawn"]:
    """Take `count` clips from the front, again and again if need be, each time `num_clips` further."""
    times = torch.arange(-(-count // len(order)))[:, None] * num_clips
    return (order + times).flatten()[:count]


def _drawn(order: Int[Tensor, " clip"], sizes: list[int]) -> Int[Tensor, " drawn"]:
    """Repeat clips from the front until there are enough for all batches."""
    return order.repeat(-(-sum(sizes) // len(order)))[: sum(sizes)]


def batch_sizes(num_clips: int, batch_size: int, num_ranks: int) -> list[int]:
    """Size all batches: as few as needed, equally many per rank, and differing by at most one clip."""
    num_batches = -(-num_clips // (batch_size * num_ranks)) * num_ranks
    num_drawn = max(num_clips, num_batches)  # a batch holds at least one clip
    return [num_drawn // num_batches + (i < num_drawn % num_batches) for i in range(num_batches)]
