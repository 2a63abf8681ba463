"""Speak invented words through a vocal tract made of resonances, so that a corpus needs no recordings.

Source and filter (Fant, Acoustic Theory of Speech Production, 1960). A vowel is a row of glottal pulses, each of which
rings through the tract as it stands at that moment:

    voice(t) = sum_k a_k h(t - t_k; F(t_k))            t_k: where the phase of the pitch contour crosses an integer
    h        = inverse Fourier transform of G(f) R(f) T(f; F)
    T(f; F)  = prod_n  c_n / (c_n - f^2 + i f B_n),  c_n = F_n^2 + B_n^2 / 4        formants F_n, bandwidths B_n, in Hz
    G(f)     = 1 / (1 + i f / tilt)^2, the glottal pulse;   R(f) = i f, the lips

Breath is white noise through |T|, friction and bursts are white noise through a band of their own. F1 to F3 glide
from target to target; the higher formants stand where a uniform tube has them, (2n - 1) c / 4L.

No sample is computed in a Python loop: the responses of all pulses of a word are one batched inverse FFT. Every source
is scaled so that its track is about its rms (a vowel has 1), whatever the formants do to its loudness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]  # float32, except where a word is planned

SAMPLE_RATE = 16_000  # Hz
FRAME = 80  # samples between control values, 5 ms
RESPONSE = 400  # samples an impulse response is followed for, 25 ms: a 60 Hz wide resonance has decayed by 41 dB
TUBE = np.array([3500.0, 4500.0, 5500.0, 6500.0, 7500.0])  # Hz, F4 to F8 of a uniform tube of 17.5 cm
SCHWA = np.array([500.0, 1500.0, 2500.0])  # Hz, F1 to F3 of the same tube: where hurried vowels drift to
COARTICULATION = 0.5  # share of the following vowel in a consonant's F2 and F3: the slope of a locus equation


class Phase(NamedTuple):
    """A stretch of a phoneme with constant sources; each source is an rms relative to a vowel's voice."""

    seconds: float
    voice: float = 0.0
    breath: float = 0.0
    friction: float = 0.0


@dataclass(frozen=True)
class Phoneme:
    """Describe a phoneme: its formant targets, and its sources over time."""

    formants: tuple[int, int, int]  # Hz, for an adult man
    phases: tuple[Phase, ...]
    band: tuple[int, int] = (3000, 1000)  # Hz, centre and standard deviation of the friction noise
    is_vowel: bool = False


def _vowel(*formants: int) -> Phoneme:
    return Phoneme((formants[0], formants[1], formants[2]), (Phase(0.12, voice=1.0),), is_vowel=True)


# Vowels: means of the men of Peterson and Barney (1952). Consonants: loci of Delattre, Liberman and Cooper (1955) and
# the parameter tables of Klatt (1980), rounded; durations and strengths set by eye on mel pictures.
_VOICED, _SILENT = Phase(0.06, voice=0.10), Phase(0.07)
PHONEMES = {
    "a": _vowel(730, 1090, 2440),
    "e": _vowel(530, 1840, 2480),
    "i": _vowel(270, 2290, 3010),
    "o": _vowel(570, 840, 2410),
    "u": _vowel(300, 870, 2240),
    "b": Phoneme((200, 800, 2200), (_VOICED, Phase(0.010, 0.2, 0.0, 0.15)), (900, 700)),
    "d": Phoneme((200, 1800, 2700), (_VOICED, Phase(0.012, 0.2, 0.0, 0.2)), (4000, 1200)),
    "g": Phoneme((200, 2300, 2500), (_VOICED, Phase(0.020, 0.2, 0.0, 0.2)), (2000, 500)),
    "p": Phoneme((300, 800, 2200), (_SILENT, Phase(0.008, 0.0, 0.0, 0.2), Phase(0.03, 0.0, 0.15)), (900, 700)),
    "t": Phoneme((300, 1800, 2700), (_SILENT, Phase(0.016, 0.0, 0.0, 0.25), Phase(0.03, 0.0, 0.15)), (4200, 1200)),
    "k": Phoneme((300, 2300, 2500), (_SILENT, Phase(0.024, 0.0, 0.0, 0.25), Phase(0.03, 0.0, 0.15)), (2000, 500)),
    "m": Phoneme((250, 1000, 2200), (Phase(0.08, voice=0.3),)),
    "n": Phoneme((250, 1700, 2600), (Phase(0.08, voice=0.3),)),
    "l": Phoneme((360, 1300, 2700), (Phase(0.07, voice=0.4),)),
    "s": Phoneme((300, 1700, 2600), (Phase(0.11, friction=0.3),), (6000, 1100)),
}


@dataclass(frozen=True)
class Speaker:
    """Describe what makes two people say the same word differently."""

    pitch: float  # Hz, mean over a word
    formant_scale: float  # formants relative to the adult man's: inverse length of the tract
    speed: float  # seconds relative to the table's
    jitter: float  # standard deviation of a pitch period, as a share of it
    shimmer: float  # standard deviation of a pulse's log amplitude
    breath: float  # rms of the breath in a vowel
    tilt: float  # Hz, above which the glottal pulse falls by 12 dB an octave
    accent: Floats  # phoneme x 3: factors on this speaker's F1 to F3


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """Draw a new speaker; as in people, higher voices tend to have shorter tracts."""
    height = rng.uniform()  # 0: a low voice, 1: a high one
    return Speaker(
        pitch=float(85.0 * (250.0 / 85.0) ** height),
        formant_scale=float(0.95 + 0.22 * height + rng.normal(0.0, 0.025)),
        speed=float(np.exp(rng.uniform(np.log(0.8), np.log(1.25)))),
        jitter=float(rng.uniform(0.003, 0.015)),
        shimmer=float(rng.uniform(0.02, 0.10)),
        breath=float(rng.uniform(0.01, 0.08)),
        tilt=float(rng.uniform(120.0, 400.0)),
        accent=np.exp(rng.normal(0.0, 0.05, (len(PHONEMES), 3))).astype(np.float32),
    )


class Tracks(NamedTuple):
    """Hold the controls of the synthesiser, one value per frame of 5 ms."""

    formants: Floats  # frame x 3, Hz
    voice: Floats
    breath: Floats
    friction: Floats
    band: Floats  # frame x 2, Hz
    pitch: Floats  # Hz


def tract(frequencies: Floats, formants: Floats) -> NDArray[np.complex64]:
    """Compute the transfer function of resonances, (..., formants) Hz at (bins,) Hz -> (..., bins); 1 at 0 Hz."""
    denominator = np.ones((*formants.shape[:-1], len(frequencies)), np.complex64)
    factor = np.empty_like(denominator)
    squares = np.square(frequencies)
    for formant in np.moveaxis(formants, -1, 0)[..., None]:
        bandwidth = 50.0 + 0.03 * formant  # Hz; 65 at F1 to 190 at F5, close to Klatt's
        centre = np.square(formant) + np.square(bandwidth) / 4
        factor.real = 1.0 - squares * (1.0 / centre)
        factor.imag = frequencies * (bandwidth / centre)
        denominator *= factor
    return np.reciprocal(denominator)


def pulse_times(pitch: Floats) -> NDArray[np.float64]:
    """List the seconds at which the phase of a pitch contour (Hz per frame) crosses an integer."""
    step = FRAME / SAMPLE_RATE
    phase = np.concatenate([[0.0], np.cumsum(pitch, dtype=np.float64) * step])
    return np.interp(np.arange(1, int(phase[-1]) + 1), phase, np.arange(len(phase)) * step)


def _frequencies(size: int) -> Floats:
    return np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE).astype(np.float32)


def _add(length: int, pieces: Floats, starts: NDArray[np.integer]) -> Floats:
    """Overlap-add `pieces` (count, size) at `starts`, cut at `length` samples."""
    sound = np.zeros(length + pieces.shape[1], np.float32)
    for start, piece in zip(starts.tolist(), pieces, strict=True):
        sound[start : start + len(piece)] += piece
    return sound[:length]


def voice(tracks: Tracks, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """Make the voiced part: every glottal pulse rings through the tract as it is at that moment."""
    frequencies = _frequencies(RESPONSE)
    times = pulse_times(tracks.pitch)
    at = times * SAMPLE_RATE / FRAME - 0.5  # in frames, whose values hold in their middle
    grid = np.arange(len(tracks.pitch))
    strength = np.interp(at, grid, tracks.voice)
    heard = strength > 1e-3  # the glottis rests in a voiceless stop
    times, at, strength = times[heard], at[heard], strength[heard]
    period = 1.0 / np.interp(at, grid, tracks.pitch)
    times = times + period * speaker.jitter * rng.standard_normal(len(times))
    strength = strength * np.exp(speaker.shimmer * rng.standard_normal(len(times)))

    formants = np.stack([np.interp(at, grid, track) for track in tracks.formants.T], axis=-1).astype(np.float32)
    fixed = tract(frequencies, (TUBE * speaker.formant_scale).astype(np.float32))
    fixed *= 1j * frequencies / np.square(1 + 1j * frequencies / speaker.tilt)  # lips, glottal pulse
    responses = np.fft.irfft(tract(frequencies, formants) * fixed, RESPONSE)
    energy = np.einsum("ij,ij->i", responses, responses)
    gain = strength * np.sqrt(period * SAMPLE_RATE / np.maximum(energy, 1e-20))
    # Pulses start on whole samples: at 250 Hz that is 0.45 % of jitter, less than most people have.
    starts = np.round(times * SAMPLE_RATE).astype(np.int64).clip(0, len(grid) * FRAME)
    return _add(len(grid) * FRAME, responses * gain[:, None].astype(np.float32), starts)


def hiss(tracks: Tracks, speaker: Speaker, rng: np.random.Generator) -> Floats:
    """Make the noisy part: white noise in Hann windows of 10 ms, shaped by the tract or by the band of the friction."""
    size = 4 * FRAME
    frequencies = _frequencies(size)
    count = len(tracks.pitch)
    noise = rng.standard_normal((count + 1) * FRAME, dtype=np.float32)
    window = np.hanning(2 * FRAME + 1)[:-1].astype(np.float32)
    pieces = np.zeros((count, size), np.float32)
    pieces[:, FRAME : 3 * FRAME] = np.lib.stride_tricks.sliding_window_view(noise, 2 * FRAME)[::FRAME] * window

    mouth = np.abs(tract(frequencies, tracks.formants))
    mouth *= np.abs(tract(frequencies, (TUBE * speaker.formant_scale).astype(np.float32)))
    band = np.exp(-0.5 * np.square((frequencies - tracks.band[:, :1]) / tracks.band[:, 1:]))
    shape = _unit(mouth) * tracks.breath[:, None] + _unit(band) * tracks.friction[:, None]
    filtered = np.fft.irfft(np.fft.rfft(pieces) * shape, size)
    # The middle of a piece belongs to the middle of its frame: the first piece starts before the word does.
    return _add((count + 2) * FRAME, filtered, np.arange(count) * FRAME)[3 * FRAME // 2 :][: count * FRAME]


def _unit(shape: Floats) -> Floats:
    """Scale magnitudes (frame, bins) so that white noise of rms 1 leaves them with rms 1."""
    return shape / np.sqrt(np.mean(np.square(shape), axis=-1, keepdims=True))


def _smooth(tracks: NDArray[np.float64], frames: int) -> Floats:
    """Average each column over `frames` (odd) frames with Hann weights, so that nothing in the tract jumps."""
    window = np.hanning(frames + 2)[1:-1]
    rows = np.arange(len(tracks))[:, None] + np.arange(frames) - frames // 2
    return np.einsum("f,tfc->tc", window / window.sum(), tracks[rows.clip(0, len(tracks) - 1)]).astype(np.float32)


def plan(word: Sequence[str], speaker: Speaker, rng: np.random.Generator) -> Tracks:
    """Lay the phonemes of a word out in time and let the tract glide between their targets."""
    names = list(PHONEMES)
    tempo = speaker.speed * np.exp(rng.normal(0.0, 0.06)) * (4 / len(word)) ** 0.4  # long words are said faster
    hurry = rng.uniform(0.0, 0.35)  # how far vowels fall short of their targets
    tokens = np.array([PHONEMES[name].formants for name in word], np.float64)
    tokens *= speaker.accent[[names.index(name) for name in word]] * np.exp(rng.normal(0.0, 0.03, tokens.shape))

    now, knots, aims, phases, bands = 0.0, [], [], [], []
    for index, name in enumerate(word):
        phoneme, aim = PHONEMES[name], tokens[index].copy()
        following = word[index + 1] if index + 1 < len(word) else None
        if phoneme.is_vowel:
            aim += hurry * (SCHWA - aim)
        elif following is not None and PHONEMES[following].is_vowel:
            aim[1:] += COARTICULATION * (tokens[index + 1][1:] - aim[1:])
        stretch = tempo * np.exp(rng.normal(0.0, 0.10)) * (1.3 if following is None else 1.0)  # last one drawn out
        start = now
        for phase in phoneme.phases:
            now += phase.seconds * stretch
            phases.append((now, *phase[1:]))
            bands.append(phoneme.band)
        hold = 0.35 if phoneme.is_vowel else 0.1  # share of its time that is spent arriving, and again leaving
        knots += [start + hold * (now - start), now - hold * (now - start)]
        aims += [aim, aim]

    middle = (np.arange(round(now * SAMPLE_RATE / FRAME)) + 0.5) * FRAME / SAMPLE_RATE  # seconds
    which = np.minimum(np.searchsorted([end for end, *_ in phases], middle), len(phases) - 1)
    sources = np.array([rest for _, *rest in phases])[which]
    sources[:, 1] = np.maximum(sources[:, 1], speaker.breath * sources[:, 0])
    edge = np.clip(np.minimum(middle / 0.012, (now - middle) / 0.08), 0.0, 1.0)  # seconds to set in, to die away
    glides = np.stack([np.interp(middle, knots, aim) for aim in np.array(aims).T], axis=-1) * speaker.formant_scale
    sources = _smooth(sources * edge[:, None], 3)
    return Tracks(
        formants=_smooth(glides, 5),
        voice=sources[:, 0],
        breath=sources[:, 1],
        friction=sources[:, 2],
        band=np.array(bands, np.float32)[which],
        pitch=_melody(len(middle), speaker.pitch, rng),
    )


def _melody(frames: int, pitch: float, rng: np.random.Generator) -> Floats:
    """Draw a pitch contour in Hz that falls over the word by a drawn amount, with one soft accent."""
    place = np.linspace(0.0, 1.0, frames)
    fall, lift, peak = rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.15), rng.uniform()
    contour = 1.0 + fall * (0.5 - place) + lift * np.exp(-0.5 * np.square((place - peak) / 0.2))
    return (pitch * contour * np.exp(rng.normal(0.0, 0.05))).astype(np.float32)


def speak(word: Sequence[str], speaker: Speaker, rng: np.random.Generator) -> Floats:
    """Synthesise one utterance of a word, given as phoneme names, without silence around it."""
    tracks = plan(word, speaker, rng)
    return np.trim_zeros(voice(tracks, speaker, rng) + hiss(tracks, speaker, rng))


def babble(samples: int, talkers: int, rng: np.random.Generator) -> Floats:
    """Synthesise background talkers of rms 1 in all: each says one vowel per syllable, and nothing else."""
    frequencies = _frequencies(RESPONSE)
    vowels = np.array([phoneme.formants for phoneme in PHONEMES.values() if phoneme.is_vowel])
    mouths = np.concatenate([vowels, np.tile(TUBE, (len(vowels), 1))], axis=1)
    sound = np.zeros(samples, np.float32)
    for _ in range(talkers):
        who = draw_speaker(rng)
        source = 1j * frequencies / np.square(1 + 1j * frequencies / who.tilt)
        responses = np.fft.irfft(tract(frequencies, (mouths * who.formant_scale).astype(np.float32)) * source, RESPONSE)
        responses /= np.linalg.norm(responses, axis=1, keepdims=True)
        starts = np.arange(rng.uniform(0.0, 200.0), samples, SAMPLE_RATE / who.pitch)
        syllable = rng.uniform(0.0, 10.0) + starts / SAMPLE_RATE * rng.uniform(3.0, 6.0)  # 3 to 6 of them a second
        said = rng.integers(len(vowels), size=int(syllable[-1]) + 1)[syllable.astype(np.int64)]
        swell = np.square(np.sin(np.pi * syllable)) / np.sqrt(who.pitch)
        sound += _add(samples, swell[:, None].astype(np.float32) * responses[said], starts.astype(np.int64))
    return sound / np.sqrt(np.mean(np.square(sound)))
