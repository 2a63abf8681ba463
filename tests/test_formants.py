"""The synthesiser obeys its physics: resonances, pitch, silence."""

import numpy as np
import pytest

from hopscotch.data.synthetic.formants import (
    FRAME,
    PHONEMES,
    SAMPLE_RATE,
    Floats,
    Speaker,
    Tracks,
    babble,
    draw_speaker,
    hiss,
    plan,
    pulse_times,
    speak,
    tract,
    voice,
)

PLAIN = Speaker(
    pitch=100.0,
    formant_scale=1.0,
    speed=1.0,
    jitter=0.0,
    shimmer=0.0,
    breath=0.0,
    tilt=200.0,
    accent=np.ones((len(PHONEMES), 3), np.float32),
)


def generator(key: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key))


def steady(vowel: str, pitch: float, frames: int = 200) -> Tracks:
    ones = np.ones(frames, np.float32)
    return Tracks(
        formants=np.tile(np.array(PHONEMES[vowel].formants, np.float32), (frames, 1)),
        voice=ones,
        breath=0 * ones,
        friction=0 * ones,
        band=np.tile(np.array([6000.0, 1100.0], np.float32), (frames, 1)),
        pitch=pitch * ones,
    )


def rms(sound: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))


def levels(sound: Floats) -> Floats:
    """Rms of each frame of 5 ms."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    return np.sqrt(np.mean(np.square(frames), axis=1))


@pytest.mark.parametrize("formants", [(730.0, 1090.0, 2440.0), (270.0, 2290.0, 3010.0)])
def test_the_tract_resonates_at_its_formants_with_their_bandwidths(formants: tuple[float, ...]) -> None:
    frequencies = np.arange(0.0, 4000.0, 1.0)
    for formant in formants:
        gain = np.abs(tract(frequencies, np.array([formant])))
        assert abs(np.argmax(gain) - formant) <= 5
        half = np.flatnonzero(gain >= gain.max() / np.sqrt(2))
        assert half[-1] - half[0] == pytest.approx(50.0 + 0.03 * formant, rel=0.1)
    assert np.abs(tract(frequencies, np.array(formants)))[0] == pytest.approx(1.0)


@pytest.mark.parametrize("vowel", ["a", "e", "i", "o", "u"])
def test_a_steady_vowel_peaks_where_its_formants_are(vowel: str) -> None:
    sound = voice(steady(vowel, pitch=40.0), PLAIN, generator())  # a low pitch shows the envelope finely
    for formant in PHONEMES[vowel].formants:
        spectrum = np.abs(np.fft.rfft(sound[4000:12000] * np.hanning(8000)))
        hertz = np.fft.rfftfreq(8000, 1 / SAMPLE_RATE)
        near = (hertz > 0.85 * formant) & (hertz < 1.15 * formant)
        peak = hertz[near][np.argmax(spectrum[near])]
        assert abs(peak - formant) <= 50  # harmonics are 40 Hz apart


@pytest.mark.parametrize("pitch", [87.0, 130.0, 242.0])
def test_the_sound_repeats_at_the_pitch(pitch: float) -> None:
    sound = voice(steady("a", pitch), PLAIN, generator())[2000:14000]
    spectrum = np.abs(np.fft.rfft(sound, 1 << 15)) ** 2
    correlation = np.fft.irfft(spectrum)
    lags = np.arange(SAMPLE_RATE // 300, SAMPLE_RATE // 60)
    assert SAMPLE_RATE / lags[np.argmax(correlation[lags])] == pytest.approx(pitch, rel=0.01)


def test_pulses_follow_a_gliding_pitch() -> None:
    pitch = np.linspace(100.0, 200.0, 200, dtype=np.float32)
    times = pulse_times(pitch)
    middle = (times[1:] + times[:-1]) / 2
    assert 1 / np.diff(times) == pytest.approx(100.0 + 100.0 * middle, rel=0.01)
    assert len(times) == pytest.approx(150, abs=1)  # mean pitch x 1 s


def test_every_source_has_the_rms_of_its_track() -> None:
    for vowel in "aiu":  # a pulse rings into the next, with or against it: within 25 %
        assert rms(voice(steady(vowel, 120.0), PLAIN, generator())[800:]) == pytest.approx(1.0, rel=0.25)
    silent = steady("a", 120.0)._replace(voice=np.zeros(200, np.float32))
    breath = silent._replace(breath=np.full(200, 0.3, np.float32))
    friction = silent._replace(friction=np.full(200, 0.3, np.float32))
    assert rms(hiss(breath, PLAIN, generator())[800:-800]) == pytest.approx(0.3, rel=0.15)
    assert rms(hiss(friction, PLAIN, generator())[800:-800]) == pytest.approx(0.3, rel=0.15)


def test_a_fricative_is_noise_in_its_band() -> None:
    silent = steady("a", 120.0)._replace(voice=np.zeros(200, np.float32), friction=np.ones(200, np.float32))
    power = np.abs(np.fft.rfft(hiss(silent, PLAIN, generator()))) ** 2
    hertz = np.fft.rfftfreq(200 * FRAME, 1 / SAMPLE_RATE)
    assert np.average(hertz, weights=power) == pytest.approx(6000.0, rel=0.05)


def test_a_voiceless_stop_is_a_gap_and_then_a_burst() -> None:
    tracks = plan("ata", PLAIN, generator(3))
    sound = voice(tracks, PLAIN, generator()) + hiss(tracks, PLAIN, generator())
    level = levels(sound)
    gap = np.flatnonzero(level[20:-20] < 0.02) + 20
    assert 0.03 < len(gap) * FRAME / SAMPLE_RATE < 0.08  # seconds, of a closure of 0.07
    assert level[gap[-1] + 1 : gap[-1] + 8].max() > 0.2


def test_formants_glide_between_their_targets() -> None:
    tracks = plan("bi", PLAIN, generator(1))
    second = tracks.formants[:, 1]
    assert second[0] < 1600.0  # the lips' locus, drawn towards the vowel
    assert second[len(second) * 3 // 4] > 1900.0
    assert np.abs(np.diff(second)).max() < 150.0  # Hz in 5 ms


def test_a_shorter_tract_raises_every_formant() -> None:
    child = Speaker(**{**vars(PLAIN), "formant_scale": 1.2})
    man, other = plan("masu", PLAIN, generator(5)), plan("masu", child, generator(5))
    assert other.formants == pytest.approx(1.2 * man.formants, rel=1e-5)
    assert other.voice == pytest.approx(man.voice)


def test_speaking_draws_from_its_generator_only() -> None:
    who = draw_speaker(generator(1))
    assert np.array_equal(speak("dabi", who, generator(2)), speak("dabi", who, generator(2)))
    assert not np.array_equal(speak("dabi", who, generator(2))[:1000], speak("dabi", who, generator(3))[:1000])


def test_people_differ_within_the_human_range() -> None:
    people = [draw_speaker(generator(key)) for key in range(200)]
    pitch = np.array([who.pitch for who in people])
    scale = np.array([who.formant_scale for who in people])
    assert 85.0 <= pitch.min() < 95.0
    assert 235.0 < pitch.max() <= 250.0
    assert np.corrcoef(np.log(pitch), scale)[0, 1] > 0.8  # high voices have short tracts


def test_babble_has_rms_one_and_most_of_its_power_below_two_kilohertz() -> None:
    sound = babble(SAMPLE_RATE, 3, generator())
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert rms(sound) == pytest.approx(1.0, rel=1e-3)
    assert power[:2000].sum() > 0.8 * power.sum()
