"""Calls are checked by beartype, a function from its first call on: preparing all takes longer than many a test."""

from collections.abc import Callable
from typing import Any

import torch
from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)  # an int may stand for a float, as in PEP 484


def at_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    checked: Callable[..., Any] | None = None

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checked
        if torch.jit.is_tracing():  # for ONNX: sizes are tensors then
            return function(*arguments, **named)
        if checked is None:
            checked = beartype(conf=CONF)(function)
        return checked(*arguments, **named)

    return call
