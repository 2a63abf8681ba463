"""Find what a `_target_` names, and which arguments it takes.

What a user types or keeps in a folder of configuration may name anything that can be imported. Nothing is called here,
but a module is imported, so that nothing that comes with a run may get here before `hopscotch.registry` has seen it.
"""

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from hopscotch.config.errors import ConfigError

STUDIES = "scripts.studies."


def find(path: str) -> Callable[..., Any]:
    """Import what `path` names.

    Raises:
        ConfigError: If it is not there, or cannot be called.
    """
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        why = "it is a study, and those are in a checkout of Hopscotch alone" if path.startswith(STUDIES) else error
        raise ConfigError(f"_target_ must name what can be imported; {path} is not there: {why}") from error
    if not callable(found):
        raise ConfigError(f"_target_ must name a class or function, got {path}, which is none.")
    return found


def arguments(found: Callable[..., Any]) -> set[str] | None:
    """Name the arguments that a class or function takes; None if it takes any."""
    kinds = inspect.getmro(found)[:-1] if inspect.isclass(found) else ()
    names: set[str] = set()
    # A class with **kwargs hands on what it does not know to the next one.
    for maker in [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)] or [found]:
        try:
            parameters = inspect.signature(maker).parameters.values()
        except ValueError:  # written in C
            return None
        names.update(each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return names - {"self"}
    return None
