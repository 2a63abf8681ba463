"""Cut recordings into the pieces that a model labels: short files are one clip, long recordings become windows.

Files are opened one after the other, and few pieces are in memory at a time. A recording's windows start every `hop`
samples, and the last one ends with the recording, so that all windows are equally long.

Of a clip in validation or a test that is longer than `data.max_seconds`, the windows are rows of one batch: `evaluated`
makes one row of their outputs.

Many files are shared out among processes with one core each, because small models gain little from threads.
"""

import gc
import glob
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from hopscotch.data.audio import AudioFileError, count_samples, printable, read_blocks, read_up_to
from hopscotch.data.clips import one_thread
from hopscotch.data.files import audio_files
from hopscotch.plain import shown
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace

MAX_SAMPLES = 2**22  # of the pieces in memory together: 16 MiB
LEAST = 1e-6  # probability, and distance from 1, of a label that all windows agree on
GLOB_SIGNS = "*?["
PIPE = "-"  # standard input, as many commands have it
PIPES = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")  # how a system and a shell's <(...) name one
MOST = 1024  # files of a share, enough to choose batches of similar length from
LEAST_WINDOW, UNKNOWN_WINDOW = 1.0, 2.0  # seconds; the second if the lengths of the training clips are unknown
WINDOW_RATIO = 4  # of a window to the mean training clip
MAX_BYTES = 2**24  # of a share of more than one file, so that long recordings show progress

Result = TypeVar("Result")


class Windowing(NamedTuple):
    """Say how recordings are cut, in samples."""

    longest: int  # a file up to this length is a clip, and stays whole
    window: int
    hop: int

    def starts(self, num_samples: int) -> list[int]:
        """List where the windows of a recording start; a clip has one."""
        if num_samples <= self.longest:
            return [0]
        last = num_samples - self.window
        return [*range(0, last, self.hop), last]


def usual_window(mean_seconds: float | None) -> float:
    """Return the seconds of a window by those of the mean training clip, which may be unknown."""
    return UNKNOWN_WINDOW if mean_seconds is None else max(LEAST_WINDOW, WINDOW_RATIO * mean_seconds)


def evaluated(model: Callable[[Tensor, Tensor], ModelOutput], batch: AudioBatch) -> tuple[ModelOutput, AudioBatch]:
    """Run a model on a batch, and make one row of the windows of a clip, which are neighbours with the same index.

    Outputs are averaged: numbers as they are, labels as probabilities. Costs are sums. Decisions, like the waveforms of
    the batch that is returned, are those of the first window.
    """
    is_first = torch.ones_like(batch.indices, dtype=torch.bool)
    is_first[1:] = batch.indices[1:] != batch.indices[:-1]
    if bool(is_first.all()):
        return model(batch.waveform, batch.lengths), batch
    together = max(1, MAX_SAMPLES // batch.waveform.shape[1])
    parts = zip(batch.waveform.split(together), batch.lengths.split(together), strict=True)
    outputs = [model(waveform, lengths) for waveform, lengths in parts]
    clip, first = is_first.cumsum(0) - 1, is_first.nonzero().flatten()

    def total(rows: Tensor) -> Tensor:
        return rows.new_zeros(len(first), *rows.shape[1:]).index_add_(0, clip, rows)

    def mean(rows: Tensor) -> Tensor:
        return total(rows) / total(torch.ones_like(rows))

    logits = torch.cat([output.logits for output in outputs]).float()
    if not batch.labels.is_floating_point():
        logits = mean(logits.softmax(dim=-1)).clamp(min=torch.finfo(torch.float32).tiny).log()
    elif batch.labels.dim() > 1:
        logits = mean(logits.sigmoid()).logit(eps=LEAST)
    else:
        logits = mean(logits)
    trace = SkipTrace.cat([output.trace for output in outputs])
    costs = {name: total(getattr(trace, name)) for name in ("macs", "dense_macs")}
    output = ModelOutput(
        logits=logits,
        trace=replace(trace[first], **costs, expected_compute=mean(trace.expected_compute)),
        thresholds=outputs[0].thresholds,
        frontend_macs=total(torch.cat([output.frontend_macs for output in outputs])),
        positions=total(torch.cat([output.positions for output in outputs])),
    )
    return output, AudioBatch(*(column[first] for column in batch))


class Piece(NamedTuple):
    """Hold samples that get their own label. The last piece of a file says so; a file that failed ends with `error`."""

    waveform: Float[Tensor, " sample"] | None  # None if the file failed
    path: Path
    start: int  # samples from the beginning of the file
    share: float  # of its file
    is_window: bool
    is_last: bool
    error: str | None = None


def find_files(words: Iterable[str]) -> list[Path]:
    """List the named files; a folder stands for every file in it that may be audio, a pattern for what it matches.

    A file that is named twice, as by `**`, comes once.
    """
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = audio_files(path)
            if not inside:
                raise ValueError(f"A folder must hold at least one audio file, got none in {word}.")
            found += inside
        elif path.exists() or not any(sign in word for sign in GLOB_SIGNS):
            found.append(path)  # a missing file is reported when its turn comes
        else:
            fitting = sorted(Path(name) for name in glob.glob(word, recursive=True))
            files = [file for path in fitting for file in (audio_files(path) if path.is_dir() else [path])]
            if not files:
                raise ValueError(f"A pattern must fit at least one file, got none for {word}.")
            found += files
    return list(dict.fromkeys(found))


def is_pipe(path: Path) -> bool:
    """Tell whether a path stands for a stream that was handed to this process; other pipes may never end."""
    return str(path) == PIPE or (PIPES.fullmatch(str(path)) is not None and not path.is_file())


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """Give a file that can be read anywhere: `path` itself, or a copy of what comes through a pipe."""
    if not is_pipe(path):
        yield path
        return
    with TemporaryDirectory() as folder:
        kept = Path(folder, "audio")
        try:
            is_own = str(path) == PIPE
            with open(0 if is_own else path, "rb", closefd=not is_own) as stream, kept.open("wb") as file:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            raise AudioFileError(f"Audio file {path}: cannot be read ({error.strerror}).") from None
        try:
            yield kept
        except AudioFileError as error:
            raise AudioFileError(f"Audio file {shown(printable(path))}: {error.problem}", error.problem) from None


def pieces_of(path: Path, sample_rate: int, windowing: Windowing) -> Iterator[Piece]:
    """Yield a clip as one piece, or a recording's windows; the piece of a file that fails says why.

    Digital silence is a clip like others: a model may have a class for it.
    """
    left = 1.0
    try:
        with as_file(path) as file:
            waveform = read_up_to(file, sample_rate, windowing.longest, silent_ok=True)
            if waveform is not None:
                yield Piece(waveform, path, 0, 1.0, is_window=False, is_last=True)
                return
            starts = windowing.starts(count_samples(file, sample_rate))
            waiting = None  # the last window waits until the file has been read to its end without an error
            blocks = read_blocks(file, sample_rate, silent_ok=True)
            for start, waveform in windows_of(blocks, starts, windowing.window):
                if waiting is not None:
                    left -= waiting.share
                    yield waiting
                waiting = Piece(waveform, path, start, 1 / len(starts), is_window=True, is_last=start == starts[-1])
            assert waiting is not None
            yield waiting
    except AudioFileError as error:
        yield Piece(None, path, 0, left, is_window=False, is_last=True, error=str(error))


def windows_of(blocks: Iterable[Tensor], starts: list[int], window: int) -> Iterator[tuple[int, Tensor]]:
    """Cut windows from samples that come in blocks."""
    held, begin, following = torch.zeros(0), 0, 0
    for block in blocks:
        held = torch.cat([held, block])
        while following < len(starts) and starts[following] + window <= begin + len(held):
            offset = starts[following] - begin
            yield starts[following], held[offset : offset + window]
            following += 1
        kept = min(starts[min(following, len(starts) - 1)] - begin, len(held))
        held, begin = held[kept:], begin + kept


def groups(
    paths: Iterable[Path], sample_rate: int, windowing: Windowing, *, first: int, most: int
) -> Iterator[list[Piece]]:
    """Group the pieces of all files in order: `first` pieces, then twice as many each time up to `most`; fewer if long.

    The first group comes soon, and the later ones are large enough to choose batches of similar length from.
    """
    group: list[Piece] = []
    num_samples, num_pieces = 0, first
    pieces = (piece for path in paths for piece in pieces_of(path, sample_rate, windowing))
    while True:
        with one_thread():  # as in training, and the model has the other cores
            for piece in pieces:
                group.append(piece)
                num_samples += 0 if piece.waveform is None else piece.waveform.shape[0]
                if len(group) >= num_pieces or num_samples >= MAX_SAMPLES:
                    break
        if not group:
            return
        yield group
        group, num_samples, num_pieces = [], 0, min(2 * num_pieces, most)


def shares_of(files: Sequence[Path], num_workers: int) -> Iterator[list[Path]]:
    """Split the files in order into at least two shares per worker; a missing file has no size."""
    most = min(MOST, math.ceil(len(files) / (2 * num_workers)))
    share: list[Path] = []
    num_bytes = 0
    for file in files:
        size = file.stat().st_size if file.is_file() else 0
        if share and (len(share) == most or num_bytes + size > MAX_BYTES):
            yield share
            share, num_bytes = [], 0
        share.append(file)
        num_bytes += size
    if share:
        yield share


def _start(_: int) -> None:
    gc.freeze()  # or the first garbage collection copies all memory that the worker shares with its parent


def side_by_side(
    work: Callable[[list[Path]], list[Result]], files: Sequence[Path], num_workers: int
) -> Iterator[list[Result]]:
    """Yield what `work` returns for each share, in order, from `num_workers` processes with one thread each."""
    shares: Any = list(shares_of(files, num_workers))  # a list is all that a loader needs of a data set
    yield from DataLoader(
        shares,
        batch_size=None,
        collate_fn=work,  # what a worker does with a share
        num_workers=num_workers,
        worker_init_fn=_start,
        generator=torch.Generator(),  # a loader draws a number from it, which nobody uses
    )
