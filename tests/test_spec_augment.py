"""spec_augment.py: masks and tilts are keyed clip by clip, and keep to their limits."""

import pytest
import torch
from torch import Tensor

from hopscotch.data.augment import SpecAugment
from hopscotch.types import key_bits


def spec_augment(**changes: object) -> SpecAugment:
    still = {"num_time_masks": 0, "time_mask_share": 0.2, "num_mel_masks": 0, "mel_mask_share": 0.2, "tilt": 0.0}
    return SpecAugment(**(still | changes))  # pyright: ignore[reportArgumentType]


FULL = {"num_time_masks": 2, "num_mel_masks": 2, "tilt": 0.5}


def keys_of(num: int) -> Tensor:
    return torch.tensor([key_bits(0, 0, index) for index in range(num)])


def mel_of(num: int, frames: int = 30, bins: int = 20) -> Tensor:
    return torch.randn(num, frames, bins, generator=torch.Generator().manual_seed(0))


def test_nothing_asked_changes_nothing() -> None:
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
    together = spec_augment(**FULL)(mel, lengths, keys_of(16))
    for i in range(16):
        length = int(lengths[i])
        alone = spec_augment(**FULL)(mel[i : i + 1, :length], lengths[i : i + 1], keys_of(16)[i : i + 1])
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
    spec_augment(**FULL)(mel, torch.full((4,), 30), keys_of(4)).sum().backward()
    assert mel.grad is not None
    assert 0.3 < (mel.grad != 0).float().mean() < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_time_masks": -1}, "augment.spectrogram.num_time_masks must be at least 0, got -1."),
        ({"time_mask_share": 1.0}, "augment.spectrogram.time_mask_share must lie in [0, 1), got 1.0."),
        ({"num_mel_masks": -1}, "augment.spectrogram.num_mel_masks must be at least 0, got -1."),
        ({"mel_mask_share": 2.0}, "augment.spectrogram.mel_mask_share must lie in [0, 1), got 2.0."),
        ({"tilt": -0.1}, "augment.spectrogram.tilt must be at least 0, got -0.1."),
    ],
)
def test_a_wrong_setting_names_key_rule_and_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="augment") as error:
        spec_augment(**change)
    assert str(error.value) == message
