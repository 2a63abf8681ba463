"""Turn (epoch, index) pairs into an AudioBatch: the same bits in the main process and in any number of workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import ClipStore
from hopscotch.data.sampling import Pair
from hopscotch.types import AudioBatch, key_bits

Item = TypeVar("Item")


class Batches(Dataset[AudioBatch]):
    """Reads, pads and augments the clips of a batch. Only `__getitems__` is used: the loader asks for whole batches."""

    def __init__(self, store: ClipStore, seed: int, augment: WaveformAugment | None) -> None:
        self.store = store
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, pairs: list[Pair]) -> AudioBatch:
        with one_thread():
            clips = [self.store[index] for _, index in pairs]
            waveform = pad_sequence(clips, batch_first=True)
            lengths = torch.tensor([len(clip) for clip in clips])
            keys = torch.tensor([key_bits(self.seed, epoch, index) for epoch, index in pairs])
            if self.augment is not None:
                waveform, lengths = self.augment(waveform, lengths, keys)
        labels = torch.tensor([self.store.clips[index].label for _, index in pairs])
        return AudioBatch(waveform, lengths, labels, torch.tensor([index for _, index in pairs]), keys)


class KeyedLoader(DataLoader[AudioBatch]):
    """A DataLoader of whole batches, which Lightning may resume in mid-epoch: its sampler asks the trainer where."""

    def __init__(self, batches: Batches, sampler: Sampler[list[Pair]], *, num_workers: int) -> None:
        super().__init__(
            batches,
            batch_sampler=sampler,
            collate_fn=_packed,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: a loader draws a number that nobody here uses
        )

    def __iter__(self) -> Iterator[AudioBatch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        batches = map(_unpacked, super().__iter__())  # asks the sampler where training stands now, not when it is read
        return batches if self.num_workers > 0 else one_ahead(batches)

    def state_dict(self) -> dict[str, int]:
        """Nothing to save: order and noise are keyed. Having the method tells Lightning that resuming is safe."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        assert not state


@contextmanager
def one_thread() -> Iterator[None]:
    """What loader workers have: the number of threads changes the last bits of a convolution."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made by a thread while its predecessor is used. What it raises is raised here."""
    with ThreadPoolExecutor(1, "batches") as thread:  # ends with the last item, or when nobody wants another
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


Packed = tuple[Tensor, Int64[np.ndarray, "4 batch"]]


def _packed(batch: Any) -> Packed:
    """As it comes from a worker: a tensor takes a connection of its own between processes, some milliseconds each."""
    return batch.waveform, torch.stack(batch[1:]).numpy()


def _unpacked(packed: Packed) -> AudioBatch:
    waveform, facts = packed
    return AudioBatch(waveform, *torch.from_numpy(facts))
