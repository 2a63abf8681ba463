"""Hold clips, in memory if they fit and decoded on demand if not, and make batches of them.

(epoch, index) pairs become the same `AudioBatch` to the bit in the main process and in any number of workers.
"""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling

from hopscotch.data.audio import AudioFileError
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.events import Events, part_of, rows_of
from hopscotch.data.sampling import Pair, crop_start
from hopscotch.data.store import Shelf
from hopscotch.plain import shown
from hopscotch.progress import with_progress
from hopscotch.types import AudioBatch, key_bits

MAX_NAMED = 5  # in a message
MAX_THREADS = 4  # decoding is quick; more threads compete for the disk
TOGETHER = 16  # clips that a thread decodes in turn
NUM_TRIED = 32  # clips whose decoding decides whether threads pay
QUICK = 1e-3  # seconds per clip below which threads wait longer than they decode (0.5 ms instead of 0.25)
GRACE = 30  # seconds that a loader process outlives SIGTERM

Item = TypeVar("Item")


def some(names: Sequence[str]) -> str:
    """Name the first few in a message, and count the others."""
    more = len(names) - MAX_NAMED
    return shown(", ".join(names[:MAX_NAMED])) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Clip:
    """Describe one recording, or a part of one: its name, label and length."""

    name: str  # path relative to the data's root; used in reports
    label: int | tuple[int, ...] | float  # one class, several, or a number, as the task has it
    num_samples: int  # exact, at the data module's sample rate
    path: Path | None = None  # None if the source makes its clips itself
    facts: dict[str, str | float] = field(default_factory=dict, compare=False)  # such as speaker or snr_db
    start: int | None = None  # the sample of the file where the clip begins, if it is a part of it
    group: str | None = None  # a speaker or recording that has several clips
    is_cut: bool = False  # a crop or window of a longer clip, which may be silent where the whole is not
    events: Events | None = None  # of a recording that has them, whose label is -1; they may overlap

    @property
    def labels(self) -> tuple[int | float, ...]:
        """List its classes, or its number; those of events as often as there are any."""
        if self.events is not None:
            return tuple(one.label for one in self.events)
        return self.label if isinstance(self.label, tuple) else (self.label,)

    @property
    def shared(self) -> str | None:
        """Say what other clips may share with this one, such as `speaker: ann`: of that figures are a sample."""
        if self.group is None:
            return f"speaker: {self.facts['speaker']}" if "speaker" in self.facts else None
        kind = next((key for key, value in self.facts.items() if value == self.group), "group")
        return f"{kind}: {self.group}"


def load_part(
    clip: Clip, load: Callable[[Clip], Float[Tensor, " sample"]], start: int, most: int | None
) -> Float[Tensor, " sample"]:
    """Decode up to `most` samples of a clip from `start` on; of a file nothing else is read."""
    if most is None or clip.num_samples <= most:
        return load(clip)
    if clip.path is None:
        return load(clip)[start : start + most]
    return load(replace(clip, start=(clip.start or 0) + start, num_samples=most, is_cut=True))


class ClipStore:
    """Give the waveform of a clip by its position."""

    def __init__(self, clips: Sequence[Clip], load: Callable[[Clip], Tensor], shelf: Shelf | None = None) -> None:
        """Take the `shelf` that holds all clips, or None to decode each with `load` when it is needed."""
        self.clips = clips
        self.shelf = shelf
        self._load = load

    @property
    def place(self) -> str:
        """Say where the waveforms are: in memory, on disk, or nowhere."""
        return "nowhere" if self.shelf is None else "disk" if isinstance(self.shelf.place, Path) else "memory"

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Float[Tensor, " sample"]:
        return self.part(index, 0, None)

    def part(self, index: int, start: int, most: int | None) -> Float[Tensor, " sample"]:
        """Return up to `most` samples of a clip from `start` on."""
        clip = self.clips[index]
        if self.shelf is None:
            return load_part(clip, self._load, start, most)
        return self.shelf.part(index, clip.num_samples, start, most)


def decode(
    clips: Sequence[Clip],
    load: Callable[[Clip], Tensor],
    *,
    on_bad: Callable[[Clip, AudioFileError], None],
    on_good: Callable[[Clip, Tensor], None] = lambda *_: None,
) -> list[Clip]:
    """Decode every clip once, and return those that can be read.

    `on_bad` is called for a clip that cannot; `on_good` for each of the others, in order.
    """
    good: list[Clip] = []
    with one_thread(), contextlib.closing(_attempts(clips, load)) as results:
        for clip, result in zip(with_progress(clips, len(clips), "Decoding clips"), results, strict=True):
            if isinstance(result, AudioFileError):
                on_bad(clip, result)
                continue
            assert len(result) == clip.num_samples, f"{clip.name}: {len(result)} samples, not {clip.num_samples}"
            good.append(clip)
            on_good(clip, result)
    return good


def _attempts(clips: Sequence[Clip], load: Callable[[Clip], Tensor]) -> Generator[Tensor | AudioFileError]:
    """Load every clip in turn: in one thread if that is quick, else in several (long, packed or resampled clips)."""
    begun = time.perf_counter()
    for clip in clips[:NUM_TRIED]:
        yield _attempt(load, clip)
    rest = clips[NUM_TRIED:]
    if time.perf_counter() - begun < QUICK * NUM_TRIED:
        yield from (_attempt(load, clip) for clip in rest)
        return
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(num_threads), deque[Future[list[Tensor | AudioFileError]]]()
    try:
        for start in range(0, len(rest), TOGETHER):
            waiting.append(pool.submit(_attempts_of, load, rest[start : start + TOGETHER]))
            if len(waiting) > 2 * num_threads:  # no more than these are in memory
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()
    finally:  # a bad file that stops the run stops the other threads, too
        pool.shutdown(cancel_futures=True)


def _attempts_of(load: Callable[[Clip], Tensor], clips: Sequence[Clip]) -> list[Tensor | AudioFileError]:
    return [_attempt(load, clip) for clip in clips]


def _attempt(load: Callable[[Clip], Tensor], clip: Clip) -> Tensor | AudioFileError:
    try:
        return load(clip)
    except AudioFileError as error:
        return error


class Part(NamedTuple):
    """Name a row of a batch: the index of its clip, the sample where it starts there, and the key of its noise."""

    clip: int
    start: int
    key: int


class Batches(Dataset[AudioBatch]):
    """Read, pad and augment the clips of a batch; the loader uses `__getitems__` for whole batches."""

    def __init__(
        self,
        store: ClipStore,
        seed: int,
        augment: WaveformAugment | None,
        num_classes: int = 0,
        *,
        longest: int | None = None,
        starts: Callable[[int], list[int]] | None = None,
    ) -> None:
        """Augment with keys of `seed`, None augments nothing; clips of several labels need `num_classes`.

        Of a clip of more than `longest` samples a part is drawn by its key. With `starts`, which lists where windows of
        so many samples begin, all of its windows are taken: neighbouring rows with the same index.
        """
        self.longest, self.starts = longest, starts
        self.store = store
        self.num_classes = num_classes
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return len(self.store)

    def __getitems__(self, pairs: list[Pair]) -> AudioBatch:
        """Make the batch of these (epoch, index) pairs."""
        with one_thread():
            parts = [part for pair in pairs for part in self._parts(*pair)]
            clips = [self.store.part(part.clip, part.start, self.longest) for part in parts]
            waveform = pad_sequence(clips, batch_first=True)
            lengths = torch.tensor([len(clip) for clip in clips])
            keys = torch.tensor([part.key for part in parts])
            if self.augment is not None:
                waveform, lengths = self.augment(waveform, lengths, keys)
        labels = self._labels(parts, lengths, keys)
        return AudioBatch(waveform, lengths, labels, torch.tensor([part.clip for part in parts]), keys)

    def _parts(self, epoch: int, index: int) -> list[Part]:
        """List what is taken of a clip: all of it, a crop or its windows; an index beyond the clips begins anew."""
        key, index = key_bits(self.seed, epoch, index), index % len(self.store)
        num_samples = self.store.clips[index].num_samples
        if self.longest is None or num_samples <= self.longest:
            return [Part(index, 0, key)]
        if self.starts is None:
            return [Part(index, crop_start(key, num_samples - self.longest), key)]
        return [Part(index, start, key_bits(key, start)) for start in self.starts(num_samples)]

    def _labels(self, parts: Sequence[Part], lengths: Tensor, keys: Tensor) -> Tensor:
        """Make int64 class numbers, float32 numbers, for several labels rows of 0 and 1, or rows of events."""
        clips = [self.store.clips[part.clip] for part in parts]
        if clips[0].events is None:
            return _labels([clip.label for clip in clips], self.num_classes)
        most = [clip.num_samples if self.longest is None else self.longest for clip in clips]
        cut = [
            part_of(clip.events or (), part.start, size) for clip, part, size in zip(clips, parts, most, strict=True)
        ]
        if self.augment is not None:
            cut = self.augment.moved(cut, lengths, keys)
        return rows_of(cut)


def _labels(labels: Sequence[int | tuple[int, ...] | float], num_classes: int) -> Tensor:
    if not isinstance(labels[0], tuple):
        return torch.tensor(labels)
    rows = torch.zeros(len(labels), num_classes)
    for row, several in zip(rows, labels, strict=True):
        row[list(cast("tuple[int, ...]", several))] = 1.0
    return rows


class LoaderError(ValueError):
    """A loader process hangs or has died; the text says over which clips."""


class Noted(Sampler[list[Pair]]):
    """Note which batches are asked for, until they have come."""

    def __init__(self, sampler: Sampler[list[Pair]]) -> None:
        self.sampler = sampler
        self.asked: deque[list[Pair]] = deque()

    def __len__(self) -> int:
        return len(self.sampler)  # pyright: ignore[reportArgumentType]  # ours have a length

    def __iter__(self) -> Iterator[list[Pair]]:
        self.asked.clear()
        return map(self._note, iter(self.sampler))

    def _note(self, pairs: list[Pair]) -> list[Pair]:
        self.asked.append(pairs)
        return pairs


class KeyedLoader(DataLoader[AudioBatch]):
    """Load whole batches; resuming in the middle of an epoch is safe, since the sampler asks the trainer where."""

    def __init__(
        self, batches: Batches, sampler: Sampler[list[Pair]], *, num_workers: int, timeout: float = 0.0
    ) -> None:
        """Load in `num_workers` processes, none of which may take longer than `timeout` seconds; in a thread if 0."""
        self.batches, self.noted = batches, Noted(sampler)
        super().__init__(
            batches,
            batch_sampler=self.noted,
            collate_fn=_packed,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            timeout=timeout if num_workers > 0 else 0,
            worker_init_fn=leave_signals if num_workers > 0 else None,
            generator=torch.Generator(),  # its own: a loader draws a number that nobody here uses
        )

    def __iter__(self) -> Iterator[AudioBatch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Ask the sampler for the position now, not when the first batch is read, and go through the batches."""
        found = super().__iter__()
        return self._watched(found) if self.num_workers > 0 else one_ahead(map(_unpacked, found))

    def _watched(self, found: Any) -> Iterator[AudioBatch]:
        """Say over which clips a process hangs or has died.

        Raises:
            LoaderError: If one does.
        """
        while True:
            try:
                packed = next(found)
            except StopIteration:
                return
            except RuntimeError as error:
                is_late = "timed out" in str(error)
                if not is_late and "DataLoader worker" not in str(error):
                    raise
                _kill_workers(found)
                raise LoaderError(self._complaint(is_late)) from error
            self.noted.asked.popleft()
            yield _unpacked(packed)

    def _complaint(self, is_late: bool) -> str:
        clips = self.batches.store.clips
        names = [clips[index % len(clips)].name for _, index in (self.noted.asked or [[]])[0]]
        what = f"hangs: no batch for data.timeout={self.timeout:g} seconds" if is_late else "was killed, or crashed"
        hint = "" if is_late else " Where memory is short, lower data.num_workers."
        return f"data: a loader process {what}. It had to read {some(names)}.{hint}"

    def state_dict(self) -> dict[str, int]:
        """Save nothing, because order and noise are keyed; the method tells Lightning that resuming is safe."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore nothing."""
        assert not state


def leave_signals(_: int) -> None:
    """Leave it to the main process of a run to stop, after its step, where signals come to all of its processes."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))  # one that hangs ends then


def _kill_workers(found: Any) -> None:
    """End the processes of a loader's iterator without torch's own complaint, which may come at any moment."""
    signal_handling._remove_worker_pids(id(found))
    found._worker_pids_set = False
    for worker in found._workers:
        worker.kill()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, as loader workers do: the number of threads changes the last bits of a convolution."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the same items, each made by a thread while its predecessor is used; its exceptions are raised here."""
    with ThreadPoolExecutor(1, "batches") as thread:  # ends with the last item, or when nobody wants another
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


Packed = tuple[Tensor, np.ndarray, Int64[np.ndarray, "3 batch"]]


def _packed(batch: Any) -> Packed:
    """Pack a batch into one tensor and arrays: a tensor takes its own connection between processes, milliseconds."""
    return batch.waveform, batch.labels.numpy(), torch.stack([batch.lengths, batch.indices, batch.keys]).numpy()


def _unpacked(packed: Packed) -> AudioBatch:
    waveform, labels, facts = packed
    lengths, indices, keys = torch.from_numpy(facts)
    return AudioBatch(waveform, lengths, torch.from_numpy(labels), indices, keys)
