"""Listen to audio with a trained model, and print every event as soon as it is over."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hopscotch.answers import Sink
from hopscotch.data.audio import read_blocks
from hopscotch.data.windows import PIPE
from hopscotch.ship.runner import CHUNK_SECONDS, Stream, pcm, say


def chunks_of(file: str, sample_rate: int, seconds: float = CHUNK_SECONDS) -> Iterator[Float[np.ndarray, " sample"]]:
    """Read a file of any format and rate chunk by chunk, or standard input, which is 16-bit PCM at the model's rate."""
    if file == PIPE:
        yield from pcm(sys.stdin.buffer, sample_rate, seconds=seconds)
        return
    for block in read_blocks(Path(file).expanduser(), sample_rate, seconds, silent_ok=True):
        yield block.numpy()


def listen(stream: Stream, chunks: Iterable[Float[np.ndarray, " sample"]], out: Sink) -> str:
    """Print the events of a stream as lines of JSON, until it ends or is interrupted; return what it took, in words."""
    took, cpu = 0.0, time.process_time()
    try:
        for chunk in chunks:
            began = time.perf_counter()
            say(stream.feed(chunk), out)
            took += time.perf_counter() - began  # without waiting for sound
    except KeyboardInterrupt:
        pass  # what was heard until then counts
    began = time.perf_counter()
    say(stream.end(), out)
    took += time.perf_counter() - began
    hours = max(stream.seconds, 1e-9) / 3600
    used = time.process_time() - cpu
    return (
        f"{stream.seconds:.1f} s heard, awake {stream.awake_share:.1%}, {used / hours:.0f} CPU seconds an hour, "
        f"real-time factor {took / hours / 3600:.4f}"
    )
