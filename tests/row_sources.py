"""Build sources of audio files for tests, and the files."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile

from hopscotch.data.rows import RowSource

Source = TypeVar("Source", bound=RowSource)
RATE = 8000
COMMON = {"sample_rate": RATE, "batch_size": 4, "num_workers": 0, "cache_gib": 1.0, "seed": 0, "augment": None}


def source(kind: type[Source], **keys: Any) -> Source:
    return kind(**{**COMMON, **keys})


def add(path: Path, seconds: float = 0.05) -> None:
    """Write noise that no other path has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(str(path).encode())
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * RATE)), RATE)


def split_of(data: RowSource) -> dict[str, str]:
    """Map the names of all clips to their splits."""
    return {clip.name: split for split, clips in data.find_clips()[1].items() for clip in clips}
