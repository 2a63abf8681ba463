"""Mix pairs of training clips (Zhang et al. 2018), at equal loudness (Tokozume et al. 2018).

    x = share * a + (1 - share) * b * rms(a) / rms(b),    share: the larger of s and 1 - s, s ~ Beta(alpha, alpha)
    loss = share * loss(x, label of a) + (1 - share) * loss(x, label of b)

b is the next clip of the batch; of a longer one the beginning is heard. Draws come from the generator of the step,
which is seeded by (seed, epoch, batch, rank).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.types import AudioBatch, valid_mask

SILENT = 1e-5  # root mean square: what is added is not lifted beyond its ratio to this


class Mixed(NamedTuple):
    """Hold mixed clips with the labels of the louder ones, and `other`: the same with those of the clips added."""

    batch: AudioBatch
    other: AudioBatch | None = None  # where clips are mixed
    share: Float[Tensor, " batch"] | float = 1.0  # of the louder ones, 0.5 to 1


def mix(batch: AudioBatch, alpha: float) -> Mixed:
    """Mix every clip of a batch with the next one."""
    drawn = torch.distributions.Beta(alpha, alpha).sample(batch.lengths.shape).to(batch.waveform.device)
    share = torch.maximum(drawn, 1 - drawn)
    other = torch.arange(len(share), device=share.device).roll(-1)
    loudness = (batch.waveform.square().sum(dim=1) / batch.lengths).sqrt().clamp(min=SILENT)
    ratio = (1 - share) * loudness / loudness[other]
    waveform = share[:, None] * batch.waveform + ratio[:, None] * batch.waveform[other]
    waveform = waveform * valid_mask(batch.lengths, waveform.shape[1])
    mixed = batch._replace(waveform=waveform)
    return Mixed(mixed, mixed._replace(labels=batch.labels[other]), share)
