"""Summarise the valid positions of a clip, whatever the padding beside it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

VARIANCE_FLOOR = 1e-5  # keeps the gradient of the square root finite on constant clips


def masked_mean(x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
    weights = mask.to(x.dtype)[:, :, None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1)


def masked_mean_and_std(
    x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch features"]:
    """Mean and standard deviation over the valid positions, side by side: features = 2 dim."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean[:, None]) ** 2, mask)
    return torch.cat([mean, (variance + VARIANCE_FLOOR).sqrt()], dim=-1)


def masked_mean_and_max(
    x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch features"]:
    """Mean and maximum over the valid positions, side by side: features = 2 dim."""
    highest = x.masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
    return torch.cat([masked_mean(x, mask), highest], dim=-1)
