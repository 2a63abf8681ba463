"""Draw random numbers and batches as functions of keys, so that a killed run resumes exactly.

A clip's random numbers are a function of its key, without generator or state: the finaliser of splitmix64 (Steele, Lea,
Flood 2014) hashes (key, stream, counter) on the device of the keys. Every use has a stream of its own, so that no two
decisions share a number.

The batches of an epoch are a function of (seed, epoch). A batch is a list of (epoch, index) pairs: the epoch travels
with the index, so workers need no `set_epoch`, and the key of a clip follows from its pair.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from hopscotch.types import key_bits

CROPPING = 200  # a stream of its own: where a long clip is cropped
STEP = -0x61C8864680B583EB  # 2^64 / golden ratio, as the signed number that int64 holds; products wrap


def keyed_bits(keys: Int[Tensor, " batch"], stream: int, counters: Int[Tensor, " count"]) -> Int[Tensor, "batch count"]:
    """Draw 64 random bits per key and counter."""
    return _mix(_mix(keys.long() + (stream + 1))[:, None] + counters * STEP)


def keyed_uniform(keys: Int[Tensor, " batch"], stream: int, count: int) -> Float[Tensor, "batch count"]:
    """Draw numbers in [0, 1), with 24 bits each."""
    bits = keyed_bits(keys, stream, torch.arange(count, device=keys.device))
    return (bits >> 40 & 0xFFFFFF).float() * 2.0**-24


def crop_start(key: int, num_spare: int) -> int:
    """Draw where the crop of a clip starts, of which `num_spare` samples are left out."""
    return int(keyed_bits(torch.tensor([key]), CROPPING, torch.tensor([0]))) % (num_spare + 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9; the masks make shifts logical
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ (x >> 31 & 0x1FFFFFFFF)


BATCHES_PER_BUCKET = 8  # sorted by length together: little padding, yet every epoch mixes clips differently

Pair = tuple[int, int]  # epoch, index


class Position(NamedTuple):
    """How far training has come."""

    epoch: int
    num_batches_done: int  # of this epoch


class ShuffledBatches(Sampler[list[Pair]]):
    """Draw training batches: shuffled, then clips of similar length together, each clip once per epoch.

    Batch sizes differ by at most one. All ranks get equally many batches, and those of one step hold clips of similar
    length; if there are fewer clips than the ranks need, clips from the front of the order come twice.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        position: Callable[[], Position],
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Draw batches for one rank; `position` is called at the start of every iteration."""
        self.lengths = torch.tensor(lengths)
        self.sizes = batch_sizes(len(lengths), batch_size, num_ranks)
        self.seed = seed
        self.position = position
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return len(self.sizes) // self.num_ranks

    def __iter__(self) -> Iterator[list[Pair]]:
        """Start with the next batch of the current epoch."""
        epoch, num_done = self.position()  # read when iteration starts, not when the first batch is asked for
        return iter(self.batches(epoch)[num_done:])

    def batches(self, epoch: int) -> list[list[Pair]]:
        """List this rank's batches of one epoch, in order."""
        generator = torch.Generator().manual_seed(key_bits(self.seed, epoch))
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order.repeat(-(-sum(self.sizes) // len(order)))[: sum(self.sizes)]
        in_a_bucket = BATCHES_PER_BUCKET * self.num_ranks
        bucket_sizes = [int(bucket.sum()) for bucket in torch.tensor(self.sizes).split(in_a_bucket)]
        buckets = [bucket[self.lengths[bucket].argsort(stable=True)] for bucket in order.split(bucket_sizes)]
        batches = [[(epoch, index) for index in batch.tolist()] for batch in torch.cat(buckets).split(self.sizes)]
        steps = torch.randperm(len(self), generator=generator).tolist()
        return [batches[step * self.num_ranks + self.rank] for step in steps]


class SortedBatches(Sampler[list[Pair]]):
    """Make validation and test batches: every clip exactly once, shortest first."""

    def __init__(self, lengths: Sequence[int], batch_size: int, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Take the `lengths` of the clips in samples; batch i is for rank i modulo `num_ranks`."""
        sizes = batch_sizes(len(lengths), batch_size, num_ranks)
        order = torch.tensor(lengths).argsort(stable=True)
        order = order.repeat(-(-sum(sizes) // len(order)))[: sum(sizes)]
        self._batches = [[(0, index) for index in batch.tolist()] for batch in order.split(sizes)][rank::num_ranks]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Pair]]:
        return iter(self._batches)


def batch_sizes(num_clips: int, batch_size: int, num_ranks: int) -> list[int]:
    """Size all batches: as few as needed, equally many per rank, and differing by at most one clip."""
    num_batches = -(-num_clips // (batch_size * num_ranks)) * num_ranks
    num_drawn = max(num_clips, num_batches)  # a batch holds at least one clip
    return [num_drawn // num_batches + (i < num_drawn % num_batches) for i in range(num_batches)]
