"""Stems: what padding changes, what they cost, where a sound lies."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hopscotch.layers.block import DepthwiseConvolution
from hopscotch.models.stem import POSITION_WIDTH, Conv2dStem, ConvStem, Positions, sinusoids
from tests.small_models import DIM


@pytest.mark.parametrize("kind", ["sinusoidal", "convolutional", "none"])
def test_the_stem_never_sees_padding(kind: Positions) -> None:
    torch.manual_seed(0)
    for stride in (2, 4):
        stem = ConvStem(5, DIM, stride=stride, dropout=0.0, positions=kind)
        mel, frames = torch.randn(1, 50, 5), torch.tensor([50])
        for length in range(1, 20):
            alone, positions = stem(mel[:, :length], torch.tensor([length]))
            padded_mel = torch.cat([mel[:, :length], torch.zeros(1, 50 - length, 5)], dim=1)
            padded, same = stem(torch.cat([mel, padded_mel]), torch.tensor([50, length]))
            assert int(positions) == int(same[1]) == -(-length // stride) == alone.shape[1]
            torch.testing.assert_close(padded[1, : int(positions)], alone[0], rtol=0, atol=1e-5)
            assert torch.equal(stem.positions(frames), same[:1])


@pytest.mark.parametrize("kind", ["sinusoidal", "convolutional", "none"])
def test_macs_of_the_stem_are_those_that_ran(kind: Positions) -> None:
    stem = ConvStem(5, DIM, stride=2, dropout=0.0, positions=kind)
    with FlopCounterMode(display=False) as counter:
        stem(torch.randn(3, 50, 5), torch.tensor([50, 50, 50]))
    assert int(stem.macs(torch.tensor([50, 50, 50])).sum()) == counter.get_total_flops() // 2


def test_sinusoids_are_sines_and_cosines_of_different_wavelength() -> None:
    table = sinusoids(20, 6, torch.device("cpu"))
    torch.testing.assert_close(table[:, 0], torch.arange(20.0).sin())
    torch.testing.assert_close(table[:, 3], torch.arange(20.0).cos())
    torch.testing.assert_close(table[:, 1], (torch.arange(20.0) * 10_000 ** (-2 / 6)).sin())


def test_convolutional_positions_move_with_the_sound() -> None:
    torch.manual_seed(0)
    around = DepthwiseConvolution(DIM, POSITION_WIDTH)
    x = torch.zeros(2, 120, DIM)
    sound = torch.randn(10, DIM)
    x[0, 40:50], x[1, 65:75] = sound, sound
    early, late = around(x)
    torch.testing.assert_close(late[25:], early[:-25], rtol=0, atol=1e-6)
    half = POSITION_WIDTH // 2
    assert torch.equal(early[: 40 - half], early[:1].expand(40 - half, -1))  # nothing there but the bias
    assert not torch.equal(early[40 - half], early[0])


def test_without_positions_a_sound_is_the_same_wherever_it_lies() -> None:
    torch.manual_seed(0)
    stem = ConvStem(5, DIM, stride=2, dropout=0.0, positions="none").eval()
    mel = torch.zeros(2, 120, 5)
    sound = torch.randn(10, 5)
    mel[0, 40:50], mel[1, 70:80] = sound, sound
    early, late = stem(mel, torch.tensor([120, 120]))[0]
    torch.testing.assert_close(late[30:50], early[15:35], rtol=0, atol=1e-6)
    assert not torch.equal(early[22], early[0])  # and it is heard


def test_a_stem_stride_that_is_not_2_or_4_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^stem_stride must be 2 or 4 frames per position, got 3\."):
        ConvStem(8, DIM, stride=3, dropout=0.0)


def over_time_and_mel(stride: int = 4, *, num_mels: int = 9, channels: tuple[int, ...] = (4, 6, 8)) -> Conv2dStem:
    """Its batch normalisation has seen batches whose means are not 0."""
    torch.manual_seed(0)
    stem = Conv2dStem(num_mels, DIM, channels=channels, stride=stride, dropout=0.0)
    for _ in range(3):
        stem(torch.randn(4, 40, num_mels) + 1, torch.full((4,), 40))
    return stem.eval()


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_trained_stem_over_time_and_mel_never_sees_padding(stride: int) -> None:
    stem = over_time_and_mel(stride)
    mel = torch.randn(2, 50, 9)
    for length in (1, 2, 7, 16, 33, 49):
        alone, positions = stem(mel[1:, :length], torch.tensor([length]))
        padded = torch.cat([mel[1:, :length], torch.zeros(1, 50 - length, 9)], dim=1)
        together, same = stem(torch.cat([mel[:1], padded]), torch.tensor([50, length]))
        assert int(positions) == int(same[1]) == -(-length // stride) == alone.shape[1]
        torch.testing.assert_close(together[1, : int(positions)], alone[0], rtol=0, atol=1e-5)
        assert torch.equal(stem.positions(torch.tensor([50, length])), same)


def test_macs_of_a_stem_over_time_and_mel_are_those_that_ran() -> None:
    stem, frames = over_time_and_mel(), torch.tensor([50, 50])
    with FlopCounterMode(display=False) as counter:
        stem(torch.randn(2, 50, 9), frames)
    assert int(stem.macs(frames).sum()) == counter.get_total_flops() // 2


def test_a_stem_over_time_and_mel_refuses_what_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match=r"^stem_stride must be 2, 4, ... 4 with 2 stem_channels, got 8\."):
        over_time_and_mel(8, channels=(4, 6))
    with pytest.raises(ValueError, match=r"^stem_channels must be at most 2 for 5 mel bins\."):
        over_time_and_mel(8, num_mels=5)
