"""Tilt a clip's spectrum, and hide stretches of time and mel bins.

Masking: Park et al. 2019, SpecAugment; a time mask is limited to a share of the clip's own frames, so that a short word
is not hidden whole.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.data.keyed import keyed_uniform
from hopscotch.types import valid_mask

STREAM, TILT_STREAM = 100, 101  # of random numbers, apart from those of augment.py
NUM_COSINES = 4  # over the mel axis: what a microphone and a voice do to the whole of a clip is smooth


class SpecAugment(nn.Module):
    """Tilt, then mask with 0, a bin's mean over the training set. Vectorised, keyed clip by clip.

    `time_mask_share`, `mel_mask_share`: the widest mask, as a share of the clip's frames and of the mel bins.
    `tilt`: largest weight of each of the first four cosines over the mel axis that is added to a clip's spectrum, as
    another microphone or voice would, in units of the bins' deviation; 0 adds nothing.
    """

    def __init__(
        self,
        *,
        num_time_masks: int,
        time_mask_share: float,
        num_mel_masks: int,
        mel_mask_share: float,
        tilt: float,
    ) -> None:
        super().__init__()
        _check("num_time_masks", num_time_masks, num_time_masks >= 0, "be at least 0")
        _check("time_mask_share", time_mask_share, 0 <= time_mask_share < 1, "lie in [0, 1)")
        _check("num_mel_masks", num_mel_masks, num_mel_masks >= 0, "be at least 0")
        _check("mel_mask_share", mel_mask_share, 0 <= mel_mask_share < 1, "lie in [0, 1)")
        _check("tilt", tilt, tilt >= 0, "be at least 0")
        self.num_time_masks = num_time_masks
        self.time_mask_share = time_mask_share
        self.num_mel_masks = num_mel_masks
        self.mel_mask_share = mel_mask_share
        self.tilt = tilt

    def forward(
        self, mel: Float[Tensor, "batch time mel"], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time mel"]:
        counts = [self.num_time_masks, self.num_time_masks, self.num_mel_masks, self.num_mel_masks]
        time_width, time_start, mel_width, mel_start = keyed_uniform(keys, STREAM, sum(counts)).split(counts, 1)
        if self.tilt > 0:
            weights = self.tilt * (2 * keyed_uniform(keys, TILT_STREAM, NUM_COSINES) - 1)  # batch cosines
            # Not by a matrix product, whose last bits depend on how many clips there are.
            added = (weights[:, :, None] * cosines(mel.shape[2], mel.device)).sum(dim=1, keepdim=True)  # batch 1 mel
            mel = mel + added.to(mel.dtype) * valid_mask(lengths, mel.shape[1])[:, :, None]
        num_mels = torch.full_like(lengths, mel.shape[2])
        hidden_time = _spans(self.time_mask_share * time_width, time_start, lengths, mel.shape[1])
        hidden_mel = _spans(self.mel_mask_share * mel_width, mel_start, num_mels, mel.shape[2])
        return mel.masked_fill(hidden_time[:, :, None] | hidden_mel[:, None, :], 0.0)


def cosines(num_mels: int, device: torch.device) -> Float[Tensor, "cosines mel"]:
    """Half a period over the mel axis, one, one and a half, and two."""
    orders = torch.arange(1, NUM_COSINES + 1, device=device)[:, None]
    return torch.cos(math.pi * orders * (torch.arange(num_mels, device=device) + 0.5) / num_mels)


def _spans(widths: Tensor, starts: Tensor, sizes: Tensor, size: int) -> Tensor:
    """True inside any of a clip's spans; widths and starts in [0, 1), of what is free. -> batch size"""
    widths = (widths * (sizes[:, None] + 1)).long().clamp(max=sizes[:, None] - 1)  # batch masks
    starts = (starts * (sizes[:, None] - widths + 1)).long()
    places = torch.arange(size, device=widths.device)
    inside = (places >= starts[..., None]) & (places < (starts + widths)[..., None])  # batch masks size
    return inside.any(1)


def _check(key: str, value: object, is_good: bool, rule: str) -> None:
    if not is_good:
        raise ValueError(f"augment.spectrogram.{key} must {rule}, got {value}.")
