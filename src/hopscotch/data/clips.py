"""Clips, and where their samples come from: memory if they fit, else decoded when asked."""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.data.audio import AudioFileError
from hopscotch.data.progress import with_progress

MAX_THREADS = 4  # decoding is quick; more threads only fight for the disk
NUM_TRIED = 32  # clips by which it is judged whether threads pay
QUICK = 1e-3  # seconds a clip: below it threads wait for each other longer than they decode (0.5 ms instead of 0.25)


@dataclass(frozen=True)
class Clip:
    """One recording: what it is called, which class it shows, how long it is."""

    name: str  # path relative to the data's root; used in reports
    label: int
    num_samples: int  # exact, at the data module's sample rate
    path: Path | None = None  # None where the source makes its clips itself
    facts: dict[str, str | float] = field(default_factory=dict, compare=False)  # such as speaker or snr_db


class ClipStore:
    """The waveforms of some clips, by position. `kept` stores hold them in one tensor that loader workers share."""

    def __init__(self, clips: Sequence[Clip], load: Callable[[Clip], Tensor], waveforms: Tensor | None = None) -> None:
        self.clips = clips
        self._load = load
        self._waveforms = waveforms
        self._offsets = [0]
        for clip in clips:
            self._offsets.append(self._offsets[-1] + clip.num_samples)

    @property
    def is_kept(self) -> bool:
        return self._waveforms is not None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Float[Tensor, " sample"]:
        if self._waveforms is None:
            return self._load(self.clips[index])
        return self._waveforms[self._offsets[index] : self._offsets[index + 1]]


def decode(
    clips: Sequence[Clip], load: Callable[[Clip], Tensor], *, keep: bool, on_bad: Callable[[Clip, AudioFileError], None]
) -> ClipStore:
    """Decode every clip once, leave out those that `on_bad` does not raise for, and keep the rest if asked to."""
    waveforms = torch.empty(sum(clip.num_samples for clip in clips)) if keep else None
    good: list[Clip] = []
    filled = 0
    with contextlib.closing(_attempts(clips, load)) as results:
        for clip, result in zip(with_progress(clips, len(clips), "Decoding clips"), results, strict=True):
            if isinstance(result, AudioFileError):
                on_bad(clip, result)
                continue
            assert len(result) == clip.num_samples, f"{clip.name}: {len(result)} samples, not {clip.num_samples}"
            good.append(clip)
            if waveforms is not None:
                waveforms[filled : filled + clip.num_samples] = result
                filled += clip.num_samples
    return ClipStore(good, load, waveforms)


def _attempts(clips: Sequence[Clip], load: Callable[[Clip], Tensor]) -> Generator[Tensor | AudioFileError]:
    """Every clip in turn: by one thread where that is quick, by several where clips are long, packed or resampled."""
    begun = time.perf_counter()
    for clip in clips[:NUM_TRIED]:
        yield _attempt(load, clip)
    rest = clips[NUM_TRIED:]
    if time.perf_counter() - begun < QUICK * NUM_TRIED:
        yield from (_attempt(load, clip) for clip in rest)
        return
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda clip: _attempt(load, clip), rest)
    finally:  # when a bad file stops the run, it stops now and not after the last clip
        pool.shutdown(cancel_futures=True)


def _attempt(load: Callable[[Clip], Tensor], clip: Clip) -> Tensor | AudioFileError:
    try:
        return load(clip)
    except AudioFileError as error:
        return error
