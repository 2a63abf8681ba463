"""Summarise the valid positions of a clip, whatever padding follows them."""

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.types import Hidden, Mask

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite on constant clips


def masked_summary(x: Hidden, mask: Mask) -> Float[Tensor, "batch 4 dim"]:
    """Return mean, variance, maximum and minimum: all that pooling reads, whatever each channel is scaled by."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, None]) ** 2, mask)
    return torch.stack([mean, variance, masked_max(x, mask), -masked_max(-x, mask)], dim=1)


def of_summary(
    summary: Float[Tensor, "batch 4 dim"], scale: Float[Tensor, " dim"], offset: Float[Tensor, " dim"]
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
    """Return mean, standard deviation and maximum of scale * x + offset."""
    mean, variance, most, least = summary.unbind(dim=1)
    deviation = (scale**2 * variance + VARIANCE_FLOOR).sqrt()
    return scale * mean + offset, deviation, torch.where(scale >= 0, scale * most, scale * least) + offset


def masked_mean(x: Hidden, mask: Mask) -> Float[Tensor, "batch dim"]:
    weights = mask.to(x.dtype)[:, :, None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1)


def masked_mean_and_std(x: Hidden, mask: Mask) -> Float[Tensor, "batch features"]:
    """Concatenate mean and standard deviation over the valid positions: features = 2 dim."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, None]) ** 2, mask)
    return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], dim=-1)


def masked_mean_std_and_max(x: Hidden, mask: Mask) -> Float[Tensor, "batch features"]:
    """Concatenate mean, standard deviation and maximum over the valid positions: features = 3 dim."""
    return torch.cat([masked_mean_and_std(x, mask), masked_max(x, mask)], dim=-1)


def masked_mean_and_max(x: Hidden, mask: Mask) -> Float[Tensor, "batch features"]:
    """Concatenate mean and maximum over the valid positions: features = 2 dim."""
    return torch.cat([masked_mean(x, mask), masked_max(x, mask)], dim=-1)


def masked_max(x: Hidden, mask: Mask) -> Float[Tensor, "batch dim"]:
    return x.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
