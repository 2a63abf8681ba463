"""Keep decoded clips end to end, in memory or in a mapped file, with the very bits that decoding gives.

A clip is held in 16 bits where they are exact, as for a file of 16 bits at the wanted rate, and in float32 elsewhere.

A file is the clips, then int64 numbers: where each ends, in bytes. It is written beside its place, and moved there when
it is whole. Its name is a hash of all that its samples depend on, so that changed data are never served old, several
runs may make it at once, and whoever has it mapped keeps it. What is larger than the budget makes room: the clips that
were used longest ago go first.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

FULL_SCALE = 32768.0  # of 16 bits
SUFFIX, UNFINISHED = ".clips", ".part"
STALE = 86_400.0  # seconds after which an unfinished file is taken for that of a killed run


def packed(waveform: Float[Tensor, " sample"]) -> NDArray[np.int16] | NDArray[np.float32]:
    """Return the samples in 16 bits if that loses nothing, not even the sign of a zero, else as they are."""
    short = (waveform * FULL_SCALE).to(torch.int16)
    is_exact = torch.equal((short * (1 / FULL_SCALE)).view(torch.int32), waveform.view(torch.int32))
    return short.numpy() if is_exact else waveform.contiguous().numpy()


def unpacked(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 samples that are nobody else's."""
    if samples.dtype == np.float32:
        return samples.copy()
    return samples.astype(np.float32) * np.float32(1 / FULL_SCALE)


class Shelf:
    """Give clips by their position; loader workers share the memory, or the file."""

    def __init__(self, place: Tensor | Path, ends: Int64[np.ndarray, " clip"]) -> None:
        """Take bytes, or the file that begins with them, and where each clip ends."""
        self.place = place
        self.ends = ends
        self._bytes: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapping, which a spawned worker makes for itself."""
        return {**self.__dict__, "_bytes": None}

    def clips(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of each clip."""
        return (self._clip(index) for index in range(len(self.ends)))

    def part(self, index: int, num_samples: int, start: int, most: int | None) -> Float[Tensor, " sample"]:
        """Return up to `most` samples from `start` on of a clip of `num_samples`."""
        content = self._clip(index)
        samples = content.view(np.int16 if len(content) == 2 * num_samples else np.float32)
        return torch.from_numpy(unpacked(samples[start:] if most is None else samples[start : start + most]))

    def _clip(self, index: int) -> NDArray[np.uint8]:
        if self._bytes is None:
            place = self.place
            mapped = np.memmap(place, np.uint8, "r") if isinstance(place, Path) else place.numpy()
            self._bytes = mapped.view(np.ndarray)
        return self._bytes[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


class InMemory:
    """Collect clips in memory."""

    def __init__(self, num_samples: int) -> None:
        """Make room for so many samples; what 16-bit clips leave of it is never touched."""
        self._bytes = torch.empty(4 * num_samples, dtype=torch.uint8)
        self._array = self._bytes.numpy()
        self._ends: list[int] = [0]

    def add(self, waveform: Float[Tensor, " sample"]) -> None:
        """Append a clip."""
        found = packed(waveform).view(np.uint8)
        begin, end = self._ends[-1], self._ends[-1] + len(found)
        self._array[begin:end] = found
        self._ends.append(end)

    def shelf(self) -> Shelf:
        """Return what was collected."""
        return Shelf(self._bytes[: self._ends[-1]], np.array(self._ends[1:], dtype=np.int64))


class Writer:
    """Collect clips in a file beside its place; without room, or the right to write there, in none."""

    def __init__(self, folder: Path) -> None:
        """Begin a file in `folder`."""
        self._folder = folder
        self._file: BinaryIO | None = None
        self._name = ""
        self._ends: list[int] = [0]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, self._name = tempfile.mkstemp(dir=folder, suffix=UNFINISHED)
            self._file = os.fdopen(handle, "wb")
        except OSError as error:
            self._give_up(error)

    def add(self, waveform: Float[Tensor, " sample"]) -> None:
        """Append a clip."""
        self.write(packed(waveform).view(np.uint8))

    def write(self, content: NDArray[np.uint8]) -> None:
        """Append the bytes of a clip."""
        if self._file is not None:
            try:
                self._file.write(content.data)
                self._ends.append(self._ends[-1] + len(content))
            except OSError as error:
                self._give_up(error)

    def shelf(self, key: str) -> Shelf | None:
        """Put the file, of which `key` says the content, in its place."""
        if self._file is None:
            return None
        ends, place = np.array(self._ends[1:], dtype=np.int64), self._folder / f"{key}{SUFFIX}"
        try:
            self._file.write(ends.tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._name, place)
        except OSError as error:
            self._give_up(error)
            return None
        self._file = None
        return Shelf(place, ends)

    def close(self) -> None:
        """Remove what is unfinished."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                os.unlink(self._name)
            self._file = None

    def _give_up(self, error: OSError) -> None:
        log.warning("Clips cannot be kept in %s (%s); data.cache_dir moves them.", self._folder, error.strerror)
        self.close()


class Disk:
    """Hold the files of a folder within a budget."""

    def __init__(self, folder: Path, gib: float) -> None:
        self.folder, self.num_bytes = folder, gib * 2**30

    def fits(self, num_samples: int) -> bool:
        """Tell whether so many samples are within the budget, and the disk has room for them."""
        place = next((parent for parent in (self.folder, *self.folder.parents) if parent.is_dir()), self.folder)
        with suppress(OSError):
            return 4 * num_samples <= min(self.num_bytes, shutil.disk_usage(place).free)
        return False

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Make room, and remove what is unfinished at the end."""
        writer = Writer(self.folder)
        try:
            yield writer
        finally:
            writer.close()
            self._make_room()

    def keep(self, key: str, shelf: Shelf) -> None:
        """Write what is in memory."""
        with self.writer() as writer:
            for clip in shelf.clips():
                writer.write(clip)
            writer.shelf(key)

    def find(self, key: str, lengths: Sequence[int]) -> Shelf | None:
        """Open the clips of a key, of so many samples each; None if they are not there, or damaged."""
        place, most = self.folder / f"{key}{SUFFIX}", 8 * len(lengths)
        try:
            with place.open("rb") as file:
                size = file.seek(0, os.SEEK_END) - most
                file.seek(size)
                ends = np.frombuffer(file.read(most), dtype=np.int64)
            os.utime(place)
        except (OSError, ValueError):
            return None
        sizes, samples = np.diff(ends, prepend=0), np.array(lengths)
        is_whole = len(ends) == len(samples) > 0 and ends[-1] == size
        is_whole = is_whole and bool(((sizes == 2 * samples) | (sizes == 4 * samples)).all())
        return Shelf(place, ends) if is_whole else None

    def _make_room(self) -> None:
        """Remove what was used longest ago until the rest is within the budget, and what killed runs left."""
        total = 0.0
        with suppress(OSError):
            for place in self.folder.glob(f"*{UNFINISHED}"):
                if time.time() - place.stat().st_mtime > STALE:
                    place.unlink()
            found = [(place.stat(), place) for place in self.folder.glob(f"*{SUFFIX}")]
            for stat, place in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
                total += stat.st_size
                if total > self.num_bytes:
                    place.unlink()
