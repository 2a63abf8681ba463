"""Show how far a slow step has come, and nothing when it is quick."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import Progress

PATIENCE = 2.0  # seconds without a progress bar

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items again, with a bar on the terminal once they take longer than `PATIENCE`."""
    start = time.monotonic()
    with Progress(transient=True, disable=True) as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            yield item
            progress.advance(task)
            if progress.disable and time.monotonic() - start > PATIENCE:
                progress.disable = False
                progress.start()
