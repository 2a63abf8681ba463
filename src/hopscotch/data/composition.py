"""Compose recordings of words in background: a plan is drawn, and a waveform follows it.

    recording = level * (background + words),        rms(background) = 1, rms(word) = 10^(snr / 20)

The background is pieces of recordings, one after the other, each of unit power. A word is the part of a clip in which
something is heard, and that part is its event; where words are placed, none overlaps another. The power of a word is
its mean over the event.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hopscotch.data.events import Event, Events

FRAME_SECONDS = 0.02
HEARD_DB = 30.0  # below the loudest frame of a clip: its first and last frame above it are where its word is heard
MARGIN_SECONDS = 0.05  # of the clip before and after the word
TAPER_SECONDS = 0.01  # in which a word or a piece of background comes and goes, so that no edge can be heard
LEVEL_DB = -36.0  # of the background, full scale being 0: words 20 dB above it are in no danger of clipping
SILENT = 1e-4  # root mean square: what is quieter is not lifted to unit power

Samples = Float[np.ndarray, " sample"]
Part = Callable[[int, int, int], Tensor]  # (clip, first sample, number of samples) -> samples


class Word(NamedTuple):
    """Say which part of a clip is put where."""

    clip: int  # place in its split
    first: int  # sample of the clip
    num_samples: int
    start: int  # sample of the recording
    event: Event  # where it is heard there
    snr_db: float


class Piece(NamedTuple):
    """Say which part of a recording is the background from where on."""

    clip: int
    first: int
    num_samples: int
    start: int


class Plan(NamedTuple):
    """Say what a recording is made of."""

    background: tuple[Piece, ...]
    keywords: tuple[Word, ...]
    distractors: tuple[Word, ...]  # words that are no events
    level_db: float

    @property
    def events(self) -> Events:
        return tuple(sorted(word.event for word in self.keywords))


class Choice(NamedTuple):
    """A word that may be put somewhere: what is heard in a clip, and its class, -1 for a distractor."""

    clip: int
    label: int
    num_samples: int  # of the clip
    heard: tuple[int, int]  # samples of the clip


class Stretch(NamedTuple):
    """A recording of background, and its length in samples."""

    clip: int
    num_samples: int


class Pools(NamedTuple):
    """Hold what recordings of a split are drawn from; choices are by class, each class as likely as another."""

    keywords: Sequence[Sequence[Choice]]
    distractors: Sequence[Sequence[Choice]]
    background: Sequence[Stretch]


class Rules(NamedTuple):
    """Say how recordings are drawn."""

    num_samples: int
    sample_rate: int  # Hz
    num_keywords: float  # mean number in a recording
    num_distractors: float
    snr_db: tuple[float, float]  # lowest and highest
    gain_db: float  # largest change of the level


def heard(clip: Float[Tensor, " sample"], sample_rate: int) -> tuple[int, int]:
    """Return from which sample to which the clip is loud, in whole frames; of silence all."""
    frame = max(1, round(FRAME_SECONDS * sample_rate))
    powers = np.add.reduceat(np.square(clip.numpy()), np.arange(0, len(clip), frame))
    (loud,) = np.nonzero(powers >= powers.max() * 10 ** (-HEARD_DB / 10))
    return int(loud[0]) * frame, min((int(loud[-1]) + 1) * frame, len(clip))


def draw(rng: np.random.Generator, rules: Rules, pools: Pools) -> Plan:
    """Draw a plan."""
    drawn = [
        classes[int(rng.integers(len(classes)))]
        for classes, mean in ((pools.keywords, rules.num_keywords), (pools.distractors, rules.num_distractors))
        for _ in range(int(rng.poisson(mean)) if classes else 0)
    ]
    chosen = [drawn[place][int(rng.integers(len(drawn[place])))] for place in rng.permutation(len(drawn))]
    words = _placed(rng, rules, chosen)
    return Plan(
        background=_pieces(rng, rules.num_samples, pools.background),
        keywords=tuple(word for word in words if word.event.label >= 0),
        distractors=tuple(word for word in words if word.event.label < 0),
        level_db=LEVEL_DB + float(rng.uniform(-rules.gain_db, rules.gain_db)),
    )


def _placed(rng: np.random.Generator, rules: Rules, chosen: Sequence[Choice]) -> list[Word]:
    """Place words in this order without overlap, all places alike; those for which there is no room are left out."""
    margin, room = round(MARGIN_SECONDS * rules.sample_rate), rules.num_samples
    parts: list[tuple[Choice, int, int]] = []
    for choice in chosen:
        first = max(0, choice.heard[0] - margin)
        size = min(choice.num_samples, choice.heard[1] + margin) - first
        if size <= room:
            parts.append((choice, first, size))
            room -= size
    words, taken = [], 0
    for (choice, first, size), gap in zip(parts, np.sort(rng.integers(room + 1, size=len(parts))), strict=True):
        start = int(gap) + taken
        begin, end = (start + sample - first for sample in choice.heard)
        snr_db = float(rng.uniform(*rules.snr_db))
        words.append(Word(choice.clip, first, size, start, Event(begin, end, choice.label), snr_db))
        taken += size
    return words


def _pieces(rng: np.random.Generator, num_samples: int, background: Sequence[Stretch]) -> tuple[Piece, ...]:
    """Draw recordings until there is enough background: of a longer one than is wanted a part."""
    pieces, start = [], 0
    while start < num_samples:
        clip, length = background[int(rng.integers(len(background)))]
        size = min(length, num_samples - start)
        pieces.append(Piece(clip, int(rng.integers(length - size + 1)), size, start))
        start += size
    return tuple(pieces)


def mix(plan: Plan, rules: Rules, word: Part, background: Part) -> Samples:
    """Make the waveform of a plan from parts of clips and of background."""
    mixed = np.zeros(rules.num_samples, dtype=np.float32)
    taper = max(1, round(TAPER_SECONDS * rules.sample_rate))
    for piece in plan.background:
        part = background(piece.clip, piece.first, piece.num_samples).numpy()
        _add(mixed, part, piece.start, 1 / max(SILENT, _rms(part)), taper)
    for one in (*plan.keywords, *plan.distractors):
        part = word(one.clip, one.first, one.num_samples).numpy()
        loudness = max(SILENT, _rms(part[one.event.start - one.start : one.event.end - one.start]))
        _add(mixed, part, one.start, 10 ** (one.snr_db / 20) / loudness, taper)
    mixed *= 10 ** (plan.level_db / 20)
    return mixed


def _add(mixed: Samples, part: Float[np.ndarray, " part"], start: int, gain: float, taper: int) -> None:
    places = np.arange(len(part))
    ramp = np.minimum(1.0, (np.minimum(places, places[::-1]) + 1) / taper)
    mixed[start : start + len(part)] += part * (gain * ramp).astype(np.float32)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
