"""Make a folder of clips to measure on: noise with the lengths of spoken digits."""

from pathlib import Path

import numpy as np
import soundfile

NUM_CLASSES = 10
SAMPLE_RATE = 8000  # Hz, as FSDD
MEDIAN_SECONDS, SPREAD = 0.42, 0.3  # of FSDD's clips: median, and deviation of the logarithm


def write_clips(root: Path, *, num_clips: int) -> Path:
    """Write `num_clips` WAV files of 16 bits in ten class folders; the same bits every time."""
    rng = np.random.default_rng(0)
    for i in range(num_clips):
        seconds = MEDIAN_SECONDS * float(np.exp(SPREAD * rng.standard_normal()))
        path = root / str(i % NUM_CLASSES) / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE)), SAMPLE_RATE, subtype="PCM_16")
    return root
