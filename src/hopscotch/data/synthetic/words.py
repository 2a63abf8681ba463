"""Make clips of twenty invented words, said by drawn speakers in noise of every level.

    clip = level * (word(onset ...) + noise),        noise so that 10 log10(word power / noise power) = snr_db

The power of the word is its mean over the word, that of the noise its mean over the clip. Every word has partners of
the same phonemes in another order (bada and daba, keti and teki), which an average over time can hardly tell apart; a
model has to listen to the sequence.

A clip is a function of (seed, split, index) alone: every draw comes from a Philox generator keyed on them. A split has
its own speakers, and a longer split begins with the shorter one.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hopscotch.data.synthetic.formants import SAMPLE_RATE, Floats, Speaker, babble, draw_speaker, speak

# fmt: off
WORDS = (
    "bada", "daba", "pata", "tapa",
    "gasu", "gusa", "sagu", "suga",
    "mani", "mina", "nami", "nima",
    "keti", "kite", "teki", "tike",
    "lomina", "milano", "nilamo", "nolima",
)
# fmt: on
SPEAKERS = {"train": 40, "val": 10, "test": 10}
SNR_RANGE = (0.0, 40.0)  # dB, uniform
LEVEL_RANGE = (-36.0, -18.0)  # dB of the word's rms against full scale, uniform
ONSET_RANGE = (0.02, 0.30)  # seconds before the word
TAIL_RANGE = (0.05, 0.15)  # seconds after it


class SpokenClip(NamedTuple):
    """Hold a clip and its facts."""

    samples: NDArray[np.int16]
    label: int  # position in WORDS
    speaker: int  # within the split
    snr_db: float


class Scene(NamedTuple):
    """Hold a clip before it is mixed."""

    word: Floats
    noise: Floats
    label: int
    speaker: int
    snr_db: float


def keyed(seed: int, stream: str, *key: int) -> np.random.Generator:
    """Make a generator that depends on its key alone, not on earlier draws."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *stream.encode(), *key])))


@lru_cache(maxsize=256)
def speaker(seed: int, split: str, number: int) -> Speaker:
    """Draw a speaker of a split; nobody speaks in two splits."""
    return draw_speaker(keyed(seed, f"speaker {split}", number))


def scene(seed: int, split: str, index: int) -> Scene:
    """Make word and noise of one clip, at their level in it."""
    rng = keyed(seed, f"clip {split}", index)
    label = index % len(WORDS)  # any number of clips is balanced to within one
    number = int(rng.integers(SPEAKERS[split]))
    snr_db = float(rng.uniform(*SNR_RANGE))
    level, onset, tail = rng.uniform(*LEVEL_RANGE), rng.uniform(*ONSET_RANGE), rng.uniform(*TAIL_RANGE)
    said = speak(WORDS[label], speaker(seed, split, number), rng)
    before, after = int(onset * SAMPLE_RATE), int(tail * SAMPLE_RATE)
    noise = _background(before + len(said) + after, rng)

    gain = 10 ** (level / 20) / _rms(said)
    word = np.pad(said * gain, (before, after)).astype(np.float32)
    noise *= 10 ** ((level - snr_db) / 20) / _rms(noise)
    loudest = float(np.max(np.abs(word + noise)))
    quieter = min(1.0, 0.99 / loudest)  # a word too peaky for its level is turned down, never cut
    return Scene(word * quieter, noise * quieter, label, number, snr_db)


def clip(seed: int, split: str, index: int) -> SpokenClip:
    """Make clip `index` of a split as 16-bit samples."""
    word, noise, label, number, snr_db = scene(seed, split, index)
    return SpokenClip(np.round((word + noise) * 32767).astype(np.int16), label, number, snr_db)


def numbered_clip(seed: int, job: tuple[str, int]) -> SpokenClip:
    """Make the clip of `job`, (split, index), for a process pool."""
    return clip(seed, *job)


def _rms(sound: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))


def _background(samples: int, rng: np.random.Generator) -> Floats:
    """Mix hiss (white), rumble (pink), a far crowd (the mean spectrum of speech) and near talkers by drawn shares."""
    hiss, rumble, crowd, talk = rng.dirichlet(np.full(4, 0.5)).astype(np.float32)  # shares of the power
    size = -(-samples // 2048) * 2048  # a length that the FFT is quick at
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    pink = 1.0 / np.maximum(hertz, 20.0)
    speech = np.minimum(1.0, (hertz / 500.0 + 1e-3) ** -3.0)  # -9 dB an octave above 500 Hz (Byrne et al., 1994)
    shape = np.sqrt(hiss + rumble * pink / pink.mean() + crowd * speech / speech.mean())
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * shape, size)[:samples]
    return noise + np.sqrt(talk) * babble(samples, int(rng.integers(1, 5)), rng)
