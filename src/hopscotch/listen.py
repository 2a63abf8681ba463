"""Listen to a file, standard input or a microphone, and print every event as soon as it is over."""

import importlib
import json
import queue
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from hopscotch.answers import Sink
from hopscotch.config.errors import absent_package
from hopscotch.data.audio import read_blocks
from hopscotch.data.windows import PIPE
from hopscotch.stream import Stream, StreamEvent

CHUNK_SECONDS = 0.2  # read at a time: a file is no faster with more, standard input has no more yet
FULL_SCALE = 2**15  # of 16 bits
PCM = 1  # the format of a WAV file
MAX_CHUNK = 2**20  # bytes of a WAV file ahead of its samples
BEHIND_SECONDS = 10.0  # of a microphone that wait for the model, at most
DEAD_SECONDS = 5.0  # without a sample after which a microphone is given up


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


def microphone(device: str, sample_rate: int, seconds: float = CHUNK_SECONDS) -> Iterator[Float[np.ndarray, " sample"]]:
    """Hear a microphone, by its name or number or the default one if `device` is empty, until it is interrupted.

    What comes while the model computes waits for it. What is lost is said once; times then leave it out.

    Raises:
        ValueError: If there is no such microphone, it cannot be opened, or it falls silent altogether.
    """
    try:
        sounddevice = importlib.import_module("sounddevice")
    except ModuleNotFoundError:
        raise absent_package("--device", "sounddevice", "microphone") from None
    except OSError as error:  # the package is there, and not the library that it calls
        raise ValueError(f"--device needs the library PortAudio (Debian: apt install libportaudio2): {error}") from None
    waiting, was_lost = queue.Queue[np.ndarray](round(BEHIND_SECONDS / seconds)), False

    def keep(samples: np.ndarray, _: int, __: object, status: Any) -> None:
        nonlocal was_lost
        is_full = waiting.full()
        if (is_full or status.input_overflow) and not was_lost:
            was_lost = True
            print("Sound of the microphone was lost: the model is slower than it, times leave it out.", file=sys.stderr)
        if not is_full:
            waiting.put_nowait(samples[:, 0].copy())  # the array is the library's, which uses it again

    options = {"samplerate": sample_rate, "channels": 1, "dtype": "float32", "blocksize": round(seconds * sample_rate)}
    which = int(device) if device.isdecimal() else device or None
    try:
        opened = sounddevice.InputStream(device=which, callback=keep, **options)
    except (ValueError, sounddevice.PortAudioError) as error:
        rule = f"a microphone that gives one channel at {sample_rate} Hz (python -m sounddevice lists all)"
        raise ValueError(f"--device must be {rule}, got {device or 'the default one'}: {error}") from None
    with opened:
        while True:
            try:
                yield waiting.get(timeout=DEAD_SECONDS)
            except queue.Empty:
                raise ValueError(f"--device={device} must give samples, it gave none for {DEAD_SECONDS:g} s.") from None


def listen(stream: Stream, chunks: Iterable[Float[np.ndarray, " sample"]], out: Sink) -> str:
    """Print the events of a stream as lines of JSON, until it ends or is interrupted; return what it took, in words."""
    took, cpu = 0.0, time.process_time()

    def said(hear: Callable[[], list[StreamEvent]]) -> None:
        nonlocal took
        began = time.perf_counter()
        events = hear()
        took += time.perf_counter() - began  # without waiting for sound
        for event in events:
            rounded = {
                name: round(value, 3) if isinstance(value, float) else value for name, value in event._asdict().items()
            }
            print(json.dumps(rounded, ensure_ascii=False), file=out, flush=True)

    try:
        for chunk in chunks:
            said(partial(stream.feed, chunk))
    except KeyboardInterrupt:
        pass  # what was heard until then counts
    said(stream.end)
    hours = max(stream.seconds, 1e-9) / 3600
    used = time.process_time() - cpu
    return (
        f"{stream.seconds:.1f} s heard, awake {stream.awake_share:.1%}, {used / hours:.0f} CPU seconds an hour, "
        f"real-time factor {took / hours / 3600:.4f}"
    )
