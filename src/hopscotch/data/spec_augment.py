"""Hide stretches of time and mel bins, and stretch the mel axis as another speaker's vocal tract would.

Masking: Park et al. 2019, SpecAugment; a time mask is limited to a share of the clip's own frames, so that a short word
is not hidden whole. Warping: Jaitly and Hinton 2013, vocal tract length perturbation, here on the mel axis.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.data.keyed import keyed_uniform
from hopscotch.types import valid_mask

STREAM, TILT_STREAM = 100, 101  # of random numbers, apart from those of augment.py
NUM_COSINES = 3  # over the mel axis: what a microphone and a voice do to the whole of a clip is smooth
KNEE = 0.8  # of the mel axis, where the warp bends so that both ends stay in place


class SpecAugment(nn.Module):
    """Warp, then mask with 0, the mean of a clip's mean-free mel. Vectorised, keyed clip by clip.

    `time_mask_share`, `mel_mask_share`: the widest mask, as a share of the clip's frames and of the mel bins.
    `warp`: the mel axis is stretched or squeezed by up to this share; 0 leaves it alone.
    `tilt`: largest weight of each of the first three cosines over the mel axis that is added to a clip's spectrum, as
    another microphone or voice would, in units of the bins' deviation; 0 adds nothing.
    """

    def __init__(
        self,
        *,
        num_time_masks: int,
        time_mask_share: float,
        num_mel_masks: int,
        mel_mask_share: float,
        warp: float,
        tilt: float,
    ) -> None:
        super().__init__()
        _check("num_time_masks", num_time_masks, num_time_masks >= 0, "be at least 0")
        _check("time_mask_share", time_mask_share, 0 <= time_mask_share < 1, "lie in [0, 1)")
        _check("num_mel_masks", num_mel_masks, num_mel_masks >= 0, "be at least 0")
        _check("mel_mask_share", mel_mask_share, 0 <= mel_mask_share < 1, "lie in [0, 1)")
        _check("warp", warp, 0 <= warp <= 0.5, "lie in [0, 0.5]")
        _check("tilt", tilt, tilt >= 0, "be at least 0")
        self.num_time_masks = num_time_masks
        self.time_mask_share = time_mask_share
        self.num_mel_masks = num_mel_masks
        self.mel_mask_share = mel_mask_share
        self.warp = warp
        self.tilt = tilt

    def forward(
        self, mel: Float[Tensor, "batch time mel"], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time mel"]:
        counts = [1, self.num_time_masks, self.num_time_masks, self.num_mel_masks, self.num_mel_masks]
        warp, time_width, time_start, mel_width, mel_start = keyed_uniform(keys, STREAM, sum(counts)).split(counts, 1)
        if self.warp > 0:
            mel = warp_mel(mel, 1 + self.warp * (2 * warp - 1))
        if self.tilt > 0:
            weights = self.tilt * (2 * keyed_uniform(keys, TILT_STREAM, NUM_COSINES) - 1)  # batch cosines
            # Not by a matrix product, whose last bits depend on how many clips there are.
            added = (weights[:, :, None] * cosines(mel.shape[2], mel.device)).sum(dim=1, keepdim=True)  # batch 1 mel
            mel = mel + added.to(mel.dtype) * valid_mask(lengths, mel.shape[1])[:, :, None]
        num_mels = torch.full_like(lengths, mel.shape[2])
        hidden_time = _spans(self.time_mask_share * time_width, time_start, lengths, mel.shape[1])
        hidden_mel = _spans(self.mel_mask_share * mel_width, mel_start, num_mels, mel.shape[2])
        return mel.masked_fill(hidden_time[:, :, None] | hidden_mel[:, None, :], 0.0)


def warp_mel(mel: Float[Tensor, "batch time mel"], factor: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch time mel"]:
    """Bin m takes the value at bin factor * m, up to a knee from where a line leads to the last bin."""
    last = mel.shape[2] - 1
    bins = torch.arange(mel.shape[2], device=mel.device)
    knee = KNEE * last / factor.clamp(min=1.0)
    beyond = factor * knee + (last - factor * knee) * (bins - knee) / (last - knee)
    position = torch.where(bins <= knee, factor * bins, beyond).clamp(0, last)  # batch mel
    below = position.long().clamp(max=last - 1)
    weight = (position - below)[:, None, :]
    below = below[:, None, :].expand_as(mel)
    return torch.lerp(mel.gather(2, below), mel.gather(2, below + 1), weight.to(mel.dtype))


def cosines(num_mels: int, device: torch.device) -> Float[Tensor, "cosines mel"]:
    """Half a period, one, and one and a half over the mel axis."""
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
