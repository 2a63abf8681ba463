"""Refuse arguments of layers, in the words of the layer."""

from typing import Any, get_args

import torch


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is not one of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}.")


def refuse_tracing() -> None:
    """Refuse a trace of a decision: it would take the same one for every clip."""
    if torch.jit.is_tracing():
        raise ValueError(
            "What is traced must decide nothing, and this model decides what to skip, which a trace would freeze: "
            "`hopscotch export RUN --format onnx` writes a graph for each part, and a runner that decides."
        )


def check_heads(dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"dim must be a multiple of num_heads, got dim={dim}, num_heads={num_heads}.")


def check_stride(stride: int, name: str = "stride") -> None:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ValueError(f"{name} must be a whole number of at least 1 (1 keeps every key), got {stride!r}.")


def check_temperatures(start: float, end: float) -> None:
    """Refuse temperatures that no softmax can have."""
    if min(start, end) <= 0:
        raise ValueError(f"temperature_start and temperature_end must be above 0, got {start} and {end}.")
