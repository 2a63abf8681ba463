"""augment.py: what happens to a clip is a function of its key, and keeps to the limits of the config."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hopscotch.data.augment import SpecAugment, WaveformAugment, coloured_noise, speed_changer
from hopscotch.types import key_bits, valid_mask

RATE = 8000
STILL = {
    "speeds": [1.0],
    "silence_probability": 0.0,
    "silence_seconds": 0.0,
    "gain_db": 0.0,
    "noise_probability": 0.0,
    "noise_snr_db": [20.0, 20.0],
    "impulse_probability": 0.0,
}
FULL = {
    "speeds": [0.9, 0.95, 1.0, 1.1],
    "silence_probability": 0.5,
    "silence_seconds": 0.02,
    "gain_db": 6.0,
    "noise_probability": 0.7,
    "noise_snr_db": [5.0, 30.0],
    "impulse_probability": 0.5,
}


def augment(**changes: object) -> WaveformAugment:
    return WaveformAugment(**({"sample_rate": RATE} | STILL | changes))  # pyright: ignore[reportArgumentType]


def keys_of(num: int, epoch: int = 0) -> Tensor:
    return torch.tensor([key_bits(0, epoch, index) for index in range(num)])


def clips_of(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    return pad_sequence(clips, batch_first=True), torch.tensor(lengths)


LENGTHS = [900 + 61 * i % 700 for i in range(24)]


def test_nothing_asked_changes_nothing() -> None:
    waveform, lengths = clips_of(LENGTHS)
    result, new_lengths = augment()(waveform.clone(), lengths, keys_of(24))
    assert torch.equal(result, waveform)
    assert torch.equal(new_lengths, lengths)


def test_a_clip_is_augmented_alike_whatever_its_neighbours() -> None:
    waveform, lengths = clips_of(LENGTHS)
    together, new_lengths = augment(**FULL)(waveform, lengths, keys_of(24))
    for i, key in enumerate(keys_of(24)):
        alone, length = augment(**FULL)(waveform[i : i + 1, : LENGTHS[i]], lengths[i : i + 1], key[None])
        assert length == new_lengths[i]
        torch.testing.assert_close(together[i, :length], alone[0], atol=1e-6, rtol=1e-5)


def test_the_key_decides_and_another_epoch_has_another() -> None:
    waveform, lengths = clips_of(LENGTHS)
    first, _ = augment(**FULL)(waveform, lengths, keys_of(24))
    again, _ = augment(**FULL)(waveform, lengths, keys_of(24))
    assert torch.equal(first, again)
    other, _ = augment(**FULL)(waveform, lengths, keys_of(24, epoch=1))
    assert not any(torch.equal(a[:800], b[:800]) for a, b in zip(first, other, strict=True))


def test_padding_stays_silent() -> None:
    waveform, lengths = clips_of(LENGTHS)
    result, new_lengths = augment(**FULL)(waveform, lengths, keys_of(24))
    assert result.shape[1] == new_lengths.max()
    assert result[~valid_mask(new_lengths, result.shape[1])].abs().max() == 0


@pytest.mark.parametrize("speed", [0.8, 0.95, 1.1])
def test_speed_divides_length_and_multiplies_pitch(speed: float) -> None:
    tone = torch.sin(2 * torch.pi * 400 * torch.arange(4000) / RATE)[None]
    result, lengths = augment(speeds=[speed])(tone, torch.tensor([4000]), keys_of(1))
    assert lengths.item() == -(-4000 // speed)
    spectrum = torch.fft.rfft(result[0] * torch.hann_window(result.shape[1]), n=RATE).abs()
    assert spectrum.argmax().item() == pytest.approx(400 * speed, abs=1)
    middle = result[0, 500:-500]
    assert middle.square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=0.01)


@pytest.mark.parametrize("speed", [1.1, 1.2])
def test_speeding_up_does_not_fold_high_tones_down(speed: float) -> None:
    above = 1.02 * RATE / 2 / speed  # Hz that the faster clip has no room for
    tone = torch.sin(2 * torch.pi * above * torch.arange(8000) / RATE)
    folded = speed_changer(Fraction(speed).limit_denominator(20))(tone)[1000:-1000]
    assert 10 * (2 * folded.square().mean()).log10() < -60


def test_speeds_are_drawn_evenly() -> None:
    lengths = torch.full((2000,), 40)
    _, new_lengths = augment(speeds=[0.8, 1.0, 1.25, 2.0])(torch.ones(2000, 40), lengths, keys_of(2000))
    counts = torch.tensor([(new_lengths == size).sum() for size in (50, 40, 32, 20)])
    assert counts.sum() == 2000
    assert (counts - 500).abs().max() < 80  # four standard deviations


def test_silence_comes_before_and_after_a_clip_up_to_the_limit() -> None:
    clip = torch.arange(1.0, 801.0)
    lengths = torch.full((200,), 800)
    result, lengths = augment(silence_probability=1.0, silence_seconds=0.02)(
        clip.expand(200, -1), lengths, keys_of(200)
    )
    before = (result != 0).int().argmax(1)
    after = lengths - 800 - before
    for silence in (before, after):
        assert silence.min() >= 0
        assert silence.min() < 10 < 150 < silence.max()
        assert silence.max() <= 160
    for row, start in zip(result, before.tolist(), strict=True):
        assert torch.equal(row[start : start + 800], clip)
        assert row.count_nonzero() == 800


def test_silence_falls_on_the_asked_share_of_clips() -> None:
    silenced = augment(silence_probability=0.3, silence_seconds=1.0)
    _, lengths = silenced(torch.ones(1000, 50), torch.full((1000,), 50), keys_of(1000))
    assert ((lengths > 50).float().mean() - 0.3).abs() < 0.06


def test_gain_stays_within_its_range_and_fills_it() -> None:
    result, _ = augment(gain_db=6.0)(torch.ones(500, 4), torch.full((500,), 4), keys_of(500))
    gain_db = 20 * result[:, 0].log10()
    assert gain_db.min() < -5.5 < 5.5 < gain_db.max()
    assert gain_db.abs().max() <= 6.0
    assert gain_db.mean().abs() < 0.7


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_the_asked_level_under_the_clips_own_rms(snr_db: float) -> None:
    lengths = torch.tensor([2000, 4000] * 20)
    levels = torch.tensor([0.01, 1.0] * 20)
    clean = torch.sin(torch.arange(4000) * 0.3) * levels[:, None] * valid_mask(lengths, 4000)
    noisy, _ = augment(noise_probability=1.0, noise_snr_db=[snr_db, snr_db])(clean.clone(), lengths, keys_of(40))
    measured = 10 * (clean.square().sum(1) / (noisy - clean).square().sum(1)).log10()
    assert (measured - snr_db).abs().max() < 3.0  # pink noise is few large waves: a short clip strays
    assert (measured.mean() - snr_db).abs() < 0.3


def test_noise_falls_on_the_asked_share_of_clips() -> None:
    clean = torch.ones(1000, 50)
    noisy, _ = augment(noise_probability=0.3)(clean.clone(), torch.full((1000,), 50), keys_of(1000))
    assert ((noisy != clean).any(1).float().mean() - 0.3).abs() < 0.06


def test_noise_is_white_at_one_end_and_pink_at_the_other() -> None:
    def slope_db_per_octave(colour: float) -> float:
        noise = coloured_noise(keys_of(64), 4096, colour=torch.full((64,), colour))
        assert noise.square().mean().item() == pytest.approx(1.0, abs=0.05)
        power = torch.fft.rfft(noise).abs().square().mean(0)
        bands = torch.stack([power[2**k : 2 ** (k + 1)].mean().log10() * 10 for k in range(5, 11)])
        return float((bands[-1] - bands[0]) / 5)

    assert slope_db_per_octave(0.0) == pytest.approx(0.0, abs=0.2)
    assert slope_db_per_octave(1.0) == pytest.approx(-3.0, abs=0.6)


def test_noise_of_different_clips_and_neighbouring_samples_is_uncorrelated() -> None:
    noise = coloured_noise(keys_of(200), 1000, colour=torch.zeros(200))
    assert (noise[:-1] * noise[1:]).mean(1).abs().max() < 0.16  # five standard deviations
    assert (noise[:, :-1] * noise[:, 1:]).mean().abs() < 0.01
    assert noise.mean().abs() < 0.01


# Spectrograms.


def spec_augment(**changes: object) -> SpecAugment:
    still = {"num_time_masks": 0, "time_mask_share": 0.2, "num_mel_masks": 0, "mel_mask_share": 0.2, "tilt": 0.0}
    return SpecAugment(**(still | changes))  # pyright: ignore[reportArgumentType]


MASKED = {"num_time_masks": 2, "num_mel_masks": 2, "tilt": 0.5}


def mel_of(num: int, frames: int = 30, bins: int = 20) -> Tensor:
    return torch.randn(num, frames, bins, generator=torch.Generator().manual_seed(0))


def test_no_mask_and_no_tilt_change_nothing() -> None:
    mel = mel_of(4)
    assert torch.equal(spec_augment()(mel, torch.full((4,), 30), keys_of(4)), mel)


def test_a_tilt_adds_one_smooth_spectrum_to_all_frames_of_a_clip_and_none_to_its_padding() -> None:
    mel, lengths = mel_of(6), torch.tensor([30, 20, 10, 30, 30, 5])
    added = spec_augment(tilt=0.5)(mel, lengths, keys_of(6)) - mel
    assert added[1, 20:].abs().max() == 0
    torch.testing.assert_close(added[0], added[0, :1].expand(30, -1), rtol=0, atol=1e-6)
    assert 0 < added.abs().max() <= 4 * 0.5
    assert added[:, 0].diff(dim=1).abs().max() < 0.5  # from bin to bin
    assert not torch.allclose(added[0, 0], added[1, 0])


def test_a_clip_is_masked_and_tilted_alike_alone_and_in_a_padded_batch() -> None:
    mel, lengths = mel_of(16), torch.arange(10, 26)
    together = spec_augment(**MASKED)(mel, lengths, keys_of(16))
    for i in range(16):
        length = int(lengths[i])
        alone = spec_augment(**MASKED)(mel[i : i + 1, :length], lengths[i : i + 1], keys_of(16)[i : i + 1])
        assert torch.equal(together[i, :length], alone[0])


def test_time_masks_are_one_run_of_frames_within_the_share_of_the_clips_own_length() -> None:
    mel, lengths = torch.ones(2000, 40, 5), torch.tensor([10, 40] * 1000)
    hidden = spec_augment(num_time_masks=1, time_mask_share=0.3)(mel, lengths, keys_of(2000))[:, :, 0] == 0
    widths = hidden.sum(1)
    assert widths[lengths == 10].unique().tolist() == [0, 1, 2, 3]
    assert widths[lengths == 40].max() == 12
    assert not hidden[lengths == 10, 10:].any()
    starts = hidden.int().diff(dim=1, prepend=torch.zeros(2000, 1, dtype=torch.int)).eq(1).sum(1)
    assert starts.max() == 1  # a run
    assert hidden[lengths == 40].any(0).all()  # every frame may be hidden


def test_no_setting_hides_a_whole_clip_with_one_mask() -> None:
    mel, lengths = torch.ones(500, 3, 2), torch.tensor([1, 2, 3, 3, 3] * 100)
    masked = spec_augment(num_time_masks=1, time_mask_share=0.99)(mel, lengths, keys_of(500))
    assert (masked[:, :, 0].cumsum(1).gather(1, lengths[:, None] - 1) >= 1).all()


def test_mel_masks_hide_the_same_bins_in_all_frames_within_the_share() -> None:
    hidden = spec_augment(num_mel_masks=1, mel_mask_share=0.25)(
        torch.ones(400, 6, 20), torch.full((400,), 6), keys_of(400)
    )
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    widths = (hidden[:, 0] == 0).sum(1)
    assert widths.unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_gradient_flows_through_what_is_left() -> None:
    mel = mel_of(4).requires_grad_()
    spec_augment(**MASKED)(mel, torch.full((4,), 30), keys_of(4)).sum().backward()
    assert mel.grad is not None
    assert 0.3 < (mel.grad != 0).float().mean() < 1
