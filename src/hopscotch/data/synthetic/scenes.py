"""Make ten-second scenes with one keyword, in which most frames could be skipped.

    scene = speech + bursts + background,     background so that 10 log10(word power / background power) = snr_db

A scene is laid out as stretches that do not overlap: exactly one of ten keywords, up to four of the other words,
bursts of noise, and digital silence. The background is heard everywhere but in the silences, and its power is the mean
over where it is; every word of a scene has the same power. Keywords have partners of the same phonemes in another order
(bada and daba): most among the keywords, two among the other words, so a model has to find the words and then listen
to them. A scene without other words says plainly what its keyword is. In confusable scenes, which are harder, the
partner of every keyword is another word, and other words are always said.

Words are spoken at 16 kHz and every sound is halved to 8 kHz. What is lost above 4 kHz is half of the bursts of /d/ and
/t/, and nearly all of the friction of /s/ (6 kHz), as on the telephone; no two words differ by it alone.

A scene is a function of (seconds, seed, split, index) alone, and is spoken by one of the people of `words`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hopscotch.data.synthetic import words
from hopscotch.data.synthetic.formants import SAMPLE_RATE, Floats, speak
from hopscotch.data.synthetic.words import LEVEL_RANGE, SNR_RANGE, SPEAKERS, WORDS, SpokenClip, keyed, speaker

SCENE_RATE = SAMPLE_RATE // 2  # Hz


class Vocabulary(NamedTuple):
    """Declare the words of a scene."""

    keywords: tuple[str, ...]
    num_others: tuple[int, int]  # words in addition to the keyword, drawn evenly

    @property
    def others(self) -> tuple[str, ...]:
        """List the words that are not keywords."""
        return tuple(word for word in WORDS if word not in self.keywords)


PLAIN = Vocabulary((*WORDS[0:4], *WORDS[12:18]), (0, 4))  # two families of four and half of another
CONFUSABLE = Vocabulary(WORDS[0::2], (1, 4))  # the partner of each is among the others
FILLED = (0.3, 0.7)  # share of the time without words that is given to bursts and silence, uniform
FILLER_SECONDS = (0.2, 1.5)  # of one burst or silence, uniform
BURST_RANGE = (-20.0, 0.0)  # dB of a burst's rms against a word's, uniform
NOISE, SILENCE = "(noise)", "(silence)"


class Stretch(NamedTuple):
    """Locate a sound or silence in a scene."""

    sound: str  # the word, NOISE or SILENCE
    start: int  # samples
    length: int  # samples


class KeywordScene(NamedTuple):
    """Hold a scene before it is mixed: three parts with the length of the scene, at their level in it."""

    speech: Floats
    bursts: Floats
    background: Floats
    plan: tuple[Stretch, ...]  # in order of time
    label: int  # position in the keywords
    speaker: int  # within the split
    snr_db: float


def keyword_scene(seconds: float, seed: int, split: str, index: int, vocabulary: Vocabulary = PLAIN) -> KeywordScene:
    """Make scene `index` of a split, not yet mixed."""
    rng = keyed(seed, f"scene {split}", index)
    label = index % len(vocabulary.keywords)  # any number of scenes is balanced to within one
    number = int(rng.integers(SPEAKERS[split]))
    snr_db, level = float(rng.uniform(*SNR_RANGE)), 10 ** (rng.uniform(*LEVEL_RANGE) / 20)
    num_others = rng.integers(*vocabulary.num_others, endpoint=True)
    said = [vocabulary.keywords[label], *rng.choice(vocabulary.others, num_others).tolist()]
    sounds = [(word, _at(level, halved(speak(word, speaker(seed, split, number), rng)))) for word in said]

    length = round(seconds * SCENE_RATE)
    sounds += _fillers(length - sum(len(sound) for _, sound in sounds), level, rng)
    plan, speech, bursts, heard = _place(sounds, length, rng)
    background = _noise(length, rng) * heard
    background *= 10 ** (-snr_db / 20) * level / np.sqrt(np.sum(np.square(background)) / np.count_nonzero(heard))
    quieter = min(1.0, 0.99 / float(np.max(np.abs(speech + bursts + background))))  # turned down, never cut
    return KeywordScene(speech * quieter, bursts * quieter, background * quieter, plan, label, number, snr_db)


def numbered_scene(seconds: float, seed: int, job: tuple[str, int], vocabulary: Vocabulary = PLAIN) -> SpokenClip:
    """Make the scene of `job`, (split, index), as 16-bit samples at 8 kHz; its label is a position in the keywords."""
    speech, bursts, background, _, label, number, snr_db = keyword_scene(seconds, seed, *job, vocabulary)
    samples = np.round((speech + bursts + background) * 32767).astype(np.int16)
    return SpokenClip(samples, label, number, snr_db)


def confusable_scene(seconds: float, seed: int, job: tuple[str, int]) -> SpokenClip:
    """Make a scene with confusable words; a module's own function, for the process pool."""
    return numbered_scene(seconds, seed, job, CONFUSABLE)


def halved(sound: Floats) -> Floats:
    """Halve the sample rate: remove the spectrum above a quarter of the rate, keep every second sample."""
    size = -(-len(sound) // 1024) * 1024  # a length that the FFT is quick at
    spectrum = np.fft.rfft(sound, size)[: size // 4 + 1]
    return np.fft.irfft(spectrum, size // 2)[: len(sound) // 2] / 2  # a mean over half as many values


def _fillers(room: int, level: float, rng: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    """Draw bursts and silences until they fill a share of `room` samples."""
    left = rng.uniform(*FILLED) * room
    while (length := int(rng.uniform(*FILLER_SECONDS) * SCENE_RATE)) <= left:
        left -= length
        if rng.uniform() < 0.5:
            yield NOISE, _at(level * 10 ** (rng.uniform(*BURST_RANGE) / 20), _noise(length, rng))
        else:
            yield SILENCE, np.zeros(length, np.float32)


class _Placed(NamedTuple):
    plan: tuple[Stretch, ...]
    speech: Floats
    bursts: Floats
    heard: Floats  # 1 where there is background, 0 in silence


def _place(sounds: list[tuple[str, Floats]], length: int, rng: np.random.Generator) -> _Placed:
    """Lay sounds out in a random order with random gaps, never overlapping."""
    speech, bursts, heard = np.zeros(length, np.float32), np.zeros(length, np.float32), np.ones(length, np.float32)
    free = length - sum(len(sound) for _, sound in sounds)
    gaps = np.diff(np.sort(rng.integers(free, size=len(sounds), endpoint=True)), prepend=0).tolist()
    plan: list[Stretch] = []
    end = 0
    for gap, which in zip(gaps, rng.permutation(len(sounds)).tolist(), strict=True):
        name, sound = sounds[which]
        start, end = end + gap, end + gap + len(sound)
        plan.append(Stretch(name, start, len(sound)))
        if name == SILENCE:
            heard[start:end] = 0.0
        else:
            (bursts if name == NOISE else speech)[start:end] = sound
    return _Placed(tuple(plan), speech, bursts, heard)


def _noise(length: int, rng: np.random.Generator) -> Floats:
    """Make noise of a drawn colour, or of distant talkers."""
    return halved(words._background(2 * length, rng))


def _at(rms: float, sound: Floats) -> Floats:
    return sound * (rms / np.sqrt(np.mean(np.square(sound))))
