"""Calls are checked by beartype: the first ones of a function in each test, for checking takes longer than training.

A function is prepared at its first call, as preparing all takes longer than many a test.
"""

import inspect
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)  # an int may stand for a float, as in PEP 484
MOST = 5  # calls of a function in a test
PASS = "__no_type_check__"  # jaxtyping calls a function that has it as it is
_counts = dict[Callable[..., Any], int]()  # of this test
_passed = list[Any]()  # functions whose calls are checked no more in this test


def at_first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make what jaxtyping calls with the arguments, or the result, of a function of the same name."""
    checked: Callable[..., Any] | None = None

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checked
        if torch.jit.is_tracing():  # for ONNX: sizes are tensors then
            return function(*arguments, **named)
        if checked is None:
            checked = beartype(conf=CONF)(function)
        found = checked(*arguments, **named)
        _counts[function] = _counts.get(function, 0) + 1
        if _counts[function] == MOST:
            _pass(function)
        return found

    return call


def again() -> None:
    """Check all functions from here on."""
    _counts.clear()
    while _passed:
        del vars(_passed.pop())[PASS]


def none_here() -> None:
    """Check nothing in this process any more."""
    jaxtyping.config.update("jaxtyping_disable", True)


def _pass(function: Callable[..., Any]) -> None:
    """Have jaxtyping call a function as it is."""
    try:
        found = attrgetter(function.__qualname__)(sys.modules[function.__module__])
    except (AttributeError, KeyError):  # a function within a function
        return
    made: list[Any] = [found.fget, found.fset] if isinstance(found, property) else [getattr(found, "func", found)]
    for own in map(inspect.unwrap, made):
        if inspect.isfunction(own) and PASS not in vars(own):
            vars(own)[PASS] = True
            _passed.append(own)
