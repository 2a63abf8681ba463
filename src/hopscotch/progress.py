"""Show the progress of a slow step on the terminal, and nothing where the step is quick."""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

PATIENCE = 2.0  # seconds without a progress bar
HEARTBEAT = 10.0  # seconds from line to line where there is no terminal for a bar
REFRESH = 0.1  # seconds from look to look at the bar

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, title: str) -> Generator[Item, None, None]:
    """Yield the items again, with a bar on the terminal once they take longer than `PATIENCE`.

    Where the output is no terminal a line says so, then, and after every `HEARTBEAT`.
    """
    from rich.progress import Progress

    begun = time.monotonic()
    due = begun + PATIENCE
    with Progress(transient=True, disable=True) as progress:
        task = progress.add_task(title, total=total)
        for done, item in enumerate(items, start=1):
            yield item
            if (now := time.monotonic()) < due:
                continue
            if progress.console.is_terminal:
                if progress.disable:
                    progress.disable = False
                    progress.start()
                progress.update(task, completed=done)
                due = now + REFRESH
            else:
                left = (now - begun) * (total - done) / done
                print(f"{title}: {done:,} of {total:,}, {left:.0f} s left", flush=True)
                due = now + HEARTBEAT


@contextmanager
def progress_on_stderr(total: float, title: str) -> Iterator[Callable[[float], object]]:
    """Show a bar on standard error if it is a terminal, so that standard output can go into a pipe.

    If standard output is the same terminal, what is written to `sys.stdout` meanwhile appears above the bar.

    Yields:
        A function that advances the bar by an amount.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda amount: progress.advance(task, amount)
