"""Teach stage 0 when to wake the full model: a missed event costs as much as `MISSED` seconds that are open in vain.

    loss = (MISSED sum over events of softplus(-max of the scores during the event)
            + sum over seconds without events of softplus(score)) / seconds

An event has to be heard once: spans reach further by themselves. What lies near an event opens with it and costs
nothing more. Scores are log odds at these prices: above 0 it pays to wake.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hopscotch.types import Lengths, valid_mask

MISSED = 20.0  # seconds
NEAR = 0.3  # seconds around an event, in which a score may be high


def waking_losses(
    scores: Float[Tensor, "batch step"],
    steps: Lengths,
    events: Int[Tensor, "batch most 3"],
    *,
    step_samples: int,
    sample_rate: int,
) -> Float[Tensor, " batch"]:
    """Compute the loss of each recording, which has so many `steps`; events are rows (start, end, class) in samples."""
    scores, places = scores.float(), torch.arange(scores.shape[1], device=scores.device)
    start, end, label = events.unbind(dim=2)
    is_event, last = (label >= 0)[..., None], (steps - 1)[:, None]  # batch event 1
    first, final = ((one // step_samples).minimum(last)[..., None] for one in (start, end - 1))
    around = round(NEAR * sample_rate / step_samples)
    is_near = (is_event & (places >= first - around) & (places <= final + around)).any(dim=1)
    in_vain = F.softplus(scores).where(valid_mask(steps, len(places)) & ~is_near, 0.0).sum(dim=1)
    inside = scores[:, None].masked_fill((places < first) | (places > final), -torch.inf).amax(dim=2)
    missed = F.softplus(-inside).where(is_event[..., 0], 0.0).sum(dim=1)
    seconds = step_samples / sample_rate
    return (MISSED * missed + seconds * in_vain) / (seconds * steps)
