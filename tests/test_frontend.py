"""Frames mean the same alone and padded, whatever the level and the silence beside it."""

import math

import pytest
import torch
import torchaudio

from hopscotch import frontend
from hopscotch.frontend import LogMel
from hopscotch.types import AudioBatch
from tests.small_models import HOP, SAMPLE_RATE, make_clips


def make_frontend() -> LogMel:
    return LogMel(sample_rate=SAMPLE_RATE, num_mels=8, window_seconds=0.032, hop_seconds=HOP / SAMPLE_RATE)


def test_frames_of_a_clip_are_the_same_alone_and_padded() -> None:
    frontend = make_frontend()
    waveform, lengths = make_clips([6000, 801, 1])
    mel, frames = frontend(waveform, lengths)
    assert frames.tolist() == [151, 21, 1]
    for clip, (samples, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        alone, alone_frames = frontend(waveform[clip : clip + 1, :samples], lengths[clip : clip + 1])
        assert alone_frames.tolist() == [count]
        torch.testing.assert_close(alone[0], mel[clip, :count], rtol=0, atol=1e-5)


def test_padding_is_0_and_the_loudest_frame_of_every_clip_has_mean_power_1() -> None:
    frontend = make_frontend()
    mel, frames = frontend(*make_clips([6000, 800]))
    assert mel[1, frames[1] :].abs().max() == 0
    power = mel.exp() - frontend.floor
    for clip, count in enumerate(frames.tolist()):
        assert power[clip, :count].mean(dim=1).max().item() == pytest.approx(1.0, abs=1e-4)


def test_what_lies_below_the_range_is_flat_and_adding_silence_changes_no_frame() -> None:
    frontend = LogMel(sample_rate=SAMPLE_RATE, num_mels=8, window_seconds=0.032, top_db=20.0)
    generator = torch.Generator().manual_seed(0)
    loud = torch.randn(1, 4000, generator=generator)
    hiss = 10 ** (-60 / 20) * torch.randn(1, 4000, generator=generator)
    mel, _ = frontend(torch.cat([loud, hiss], dim=1), torch.tensor([8000]))
    last = 4000 // frontend.hop  # frame with loud samples in its window
    assert (mel[0, last + 4 :] - math.log(10 ** (-20 / 10))).abs().max() < 0.01
    alone, _ = frontend(loud, torch.tensor([4000]))
    torch.testing.assert_close(mel[0, : last - 3], alone[0, : last - 3], rtol=0, atol=1e-4)


def test_the_level_of_a_loud_clip_changes_nothing() -> None:
    waveform, lengths = torch.randn(1, 4000), torch.tensor([4000])
    frontend = make_frontend()
    torch.testing.assert_close(frontend(waveform, lengths)[0], frontend(0.5 * waveform, lengths)[0], rtol=0, atol=1e-4)


def test_measured_offset_and_scale_give_every_bin_mean_0_and_deviation_1_and_are_saved() -> None:
    frontend = make_frontend()
    waveform, lengths = make_clips([6000, 3000, 2000])
    batches = [
        AudioBatch(waveform[part], lengths[part], lengths[part], lengths[part], lengths[part])
        for part in (slice(0, 1), slice(1, 3))
    ]
    frontend.measure(batches)
    mel, frames = frontend(waveform, lengths)
    torch.testing.assert_close(mel.sum(dim=(0, 1)) / frames.sum(), torch.zeros(8), rtol=0, atol=1e-4)
    deviation = (mel.square().sum(dim=(0, 1)) / frames.sum()).sqrt()
    torch.testing.assert_close(deviation, torch.ones(8), rtol=0, atol=1e-3)
    fresh = make_frontend()
    fresh.load_state_dict(frontend.state_dict())
    assert torch.equal(fresh.scale, frontend.scale)
    assert torch.equal(fresh.offset, frontend.offset)
    frontend.measure(batches)
    torch.testing.assert_close(fresh.scale, frontend.scale)


def test_a_silent_clip_is_finite() -> None:
    mel, _ = make_frontend()(torch.zeros(1, 2000), torch.tensor([2000]))
    assert mel.isfinite().all()


def test_a_clip_below_the_noise_of_16_bits_is_not_lifted() -> None:
    mel, _ = make_frontend()(1e-7 * torch.randn(1, 2000), torch.tensor([2000]))
    silent, _ = make_frontend()(torch.zeros(1, 2000), torch.tensor([2000]))
    assert (mel - silent).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")  # torchaudio says so first
def test_empty_mel_bands_are_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"frontend\.num_mels must leave no band empty: 128 bands are too many for 256"
    ):
        LogMel(sample_rate=8000, num_mels=128, window_seconds=0.032)


def test_a_band_that_begins_above_all_sound_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"frontend\.min_hz must be below half of the sample rate, 4000, got 4000"):
        LogMel(sample_rate=8000, num_mels=8, min_hz=4000.0)


def test_a_window_without_samples_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"window_seconds >= hop_seconds >= 1 sample, got 1e-05 s"):
        LogMel(sample_rate=8000, num_mels=8, window_seconds=1e-5)


def test_a_hop_longer_than_the_window_is_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"window_seconds >= hop_seconds >= 1 sample, got 0.01 s and 0.02 s at 8000 Hz"
    ):
        LogMel(sample_rate=8000, num_mels=8, window_seconds=0.01, hop_seconds=0.02)


def test_macs_are_counted_per_frame() -> None:
    frontend = make_frontend()
    one, many = frontend.macs(torch.tensor([1, 6000])).tolist()
    assert many == 151 * one
    assert one == int(2.5 * 128 * 7) + 65 * 8


def test_the_middle_of_a_band_is_the_frequency_it_hears_best() -> None:
    frontend = LogMel(sample_rate=16_000)
    seconds = torch.arange(16_000) / 16_000
    for band in (10, 20, 30, 39):
        tone = torch.sin(2 * torch.pi * frontend.hertz[band] * seconds)
        mel, _ = frontend(tone[None], torch.tensor([16_000]))
        assert mel[0, 50].argmax() == band


@pytest.mark.parametrize("num_clips", [1, 3])
def test_power_is_that_of_torchaudio_whatever_the_blocks(num_clips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = LogMel(sample_rate=16_000)
    theirs = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, f_min=20.0, center=False
    )
    samples = torch.randn(num_clips, 20_000, generator=torch.Generator().manual_seed(0))
    expected = theirs(samples).transpose(1, 2)
    for block in (1, 7, 256):
        monkeypatch.setattr(frontend, "BLOCK", block)
        torch.testing.assert_close(ours.power(samples), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(ours.power(samples, every=2), expected[:, ::2], rtol=1e-5, atol=0)


def test_without_a_level_a_frame_depends_on_its_own_samples_alone() -> None:
    stream = LogMel(sample_rate=16_000, level="none", top_db=60.0)
    waveform, lengths = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)), torch.tensor([16_000])
    before, _ = stream(waveform, lengths)
    waveform[0, 8000:] *= 100  # frame 50 begins at sample 7744, frame 48 ends at 7936
    after, _ = stream(waveform, lengths)
    assert torch.equal(after[0, :49], before[0, :49])
    torch.testing.assert_close(
        after[0, 60:90] - before[0, 60:90], torch.full((30, 40), 2 * math.log(100)), rtol=0, atol=1e-3
    )


def test_a_full_silence_without_a_level_is_the_floor() -> None:
    mel, _ = LogMel(sample_rate=16_000, level="none", top_db=60.0)(torch.zeros(1, 1600), torch.tensor([1600]))
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(1e-6)))
