"""Name a few of many, in messages that a person reads."""

from collections.abc import Sequence

MAX_NAMED = 5


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
