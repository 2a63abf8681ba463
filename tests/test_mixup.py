"""Pairs of training clips, mixed."""

import pytest
import torch
from torch import Tensor

from hopscotch.data.mixup import mix
from hopscotch.types import AudioBatch
from tests.small_models import make_clips


def batch_of(lengths: list[int]) -> AudioBatch:
    waveform, samples = make_clips(lengths)
    numbers = torch.arange(len(lengths))
    return AudioBatch(waveform, samples, numbers, numbers, numbers)


def rms(waveform: Tensor, length: int) -> Tensor:
    return waveform[:length].square().mean().sqrt()


def test_a_clip_is_mixed_with_the_next_at_equal_loudness() -> None:
    torch.manual_seed(0)
    batch = batch_of([400, 300, 400])
    mixed = mix(batch, 0.5)
    assert mixed.other is not None
    assert isinstance(mixed.share, Tensor)
    assert mixed.other.labels.tolist() == [1, 2, 0]
    assert torch.equal(mixed.batch.labels, batch.labels)
    assert torch.equal(mixed.batch.lengths, batch.lengths)
    assert bool(((mixed.share >= 0.5) & (mixed.share <= 1)).all())
    for row, (own, other) in enumerate([(400, 300), (300, 400), (400, 400)]):
        a, b = batch.waveform[row], batch.waveform[(row + 1) % 3]
        share = mixed.share[row]
        expected = share * a + (1 - share) * b * rms(a, own) / rms(b, other)
        expected[own:] = 0
        torch.testing.assert_close(mixed.batch.waveform[row], expected)


def test_a_silent_clip_is_not_lifted_over_the_other() -> None:
    torch.manual_seed(0)
    batch = batch_of([400, 400])
    batch.waveform[1] = 0
    mixed = mix(batch, 0.5)
    assert isinstance(mixed.share, Tensor)
    torch.testing.assert_close(mixed.batch.waveform[0], mixed.share[0] * batch.waveform[0])
    assert bool(torch.isfinite(mixed.batch.waveform).all())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 8.0])
def test_a_larger_alpha_mixes_more_evenly(alpha: float) -> None:
    torch.manual_seed(0)
    mixed = mix(batch_of([40] * 400), alpha)
    assert isinstance(mixed.share, Tensor)
    expected = {0.1: 0.942, 1.0: 0.750, 8.0: 0.598}[alpha]  # the mean of the larger of s and 1 - s
    assert abs(float(mixed.share.mean()) - expected) < 0.02


def test_the_same_seed_mixes_the_same() -> None:
    batch = batch_of([400, 300, 400])
    torch.manual_seed(3)
    first = mix(batch, 0.3)
    torch.manual_seed(3)
    assert torch.equal(first.batch.waveform, mix(batch, 0.3).batch.waveform)
