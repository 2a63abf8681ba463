"""Listen to audio with a trained model, and print every event as soon as it is over."""

import json
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from hopscotch.answers import Sink
from hopscotch.data.audio import read_blocks
from hopscotch.data.windows import PIPE
from hopscotch.stream import Stream, StreamEvent

CHUNK_SECONDS = 0.2  # read at a time: a file is no faster with more, standard input has no more yet
FULL_SCALE = 2**15  # of 16 bits
PCM = 1  # the format of a WAV file
MAX_CHUNK = 2**20  # bytes of a WAV file ahead of its samples


@runtime_checkable
class Source(Protocol):
    """Give so many bytes, fewer at the end alone, as files and pipes do."""

    def read(self, size: int, /) -> bytes: ...


def chunks_of(file: str, sample_rate: int, seconds: float = CHUNK_SECONDS) -> Iterator[Float[np.ndarray, " sample"]]:
    """Read a file of any format and rate chunk by chunk, or standard input, which is 16-bit PCM at the model's rate."""
    if file == PIPE:
        yield from pcm(sys.stdin.buffer, sample_rate, seconds)
        return
    for block in read_blocks(Path(file).expanduser(), sample_rate, seconds, silent_ok=True):
        yield block.numpy()


def pcm(source: Source, sample_rate: int, seconds: float = CHUNK_SECONDS) -> Iterator[Float[np.ndarray, " sample"]]:
    """Read 16-bit little-endian samples of one channel, raw or behind the header of a WAV file, until they end.

    Raises:
        ValueError: If the header names another format.
    """
    rest = source.read(12)
    if rest[:4] == b"RIFF" and rest[8:] == b"WAVE":
        skip_header(source, sample_rate)
        rest = b""
    size = 2 * max(1, round(seconds * sample_rate))
    while block := source.read(size):
        whole = rest + block
        even = len(whole) // 2 * 2
        yield np.frombuffer(whole[:even], dtype="<i2").astype(np.float32) / FULL_SCALE
        rest = whole[even:]
    if len(rest) >= 2:
        yield np.frombuffer(rest[: len(rest) // 2 * 2], dtype="<i2").astype(np.float32) / FULL_SCALE


def skip_header(source: Source, sample_rate: int) -> None:
    """Read a WAV file up to its samples; their number may be unknown where another program still writes them."""
    wanted = f"16-bit PCM of one channel at {sample_rate} Hz: ffmpeg -i FILE -ac 1 -ar {sample_rate} -f s16le -"
    while len(head := source.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return
        if size > MAX_CHUNK:
            break
        content = source.read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if (kind, channels, rate, bits) != (PCM, 1, sample_rate, 16):
                found = f"format {kind}, {channels} channels, {rate} Hz, {bits} bits"
                raise ValueError(f"standard input must be {wanted}; got {found}.")
    raise ValueError(f"standard input must be {wanted}; got a WAV file without samples.")


def listen(stream: Stream, chunks: Iterable[Float[np.ndarray, " sample"]], out: Sink) -> str:
    """Print the events of a stream as lines of JSON, until it ends or is interrupted; return what it took, in words."""
    took, cpu = 0.0, time.process_time()

    def said(events: list[StreamEvent]) -> None:
        for event in events:
            rounded = {
                name: round(value, 3) if isinstance(value, float) else value for name, value in event._asdict().items()
            }
            print(json.dumps(rounded, ensure_ascii=False), file=out, flush=True)

    try:
        for chunk in chunks:
            began = time.perf_counter()
            said(stream.feed(chunk))
            took += time.perf_counter() - began  # without waiting for sound
    except KeyboardInterrupt:
        pass  # what was heard until then counts
    began = time.perf_counter()
    said(stream.end())
    took += time.perf_counter() - began
    hours = max(stream.seconds, 1e-9) / 3600
    used = time.process_time() - cpu
    return (
        f"{stream.seconds:.1f} s heard, awake {stream.awake_share:.1%}, {used / hours:.0f} CPU seconds an hour, "
        f"real-time factor {took / hours / 3600:.4f}"
    )
