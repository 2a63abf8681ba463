"""Hear a microphone through sounddevice, which the extra `microphone` brings, chunk by chunk."""

import importlib
import queue
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from hopscotch.config.errors import absent_package

CHUNK_SECONDS = 0.2  # given at a time
BEHIND_SECONDS = 10.0  # that wait for the model, at most
DEAD_SECONDS = 5.0  # without a sample after which a microphone is given up


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
