"""End a command as programs do: no traceback where the reader went away (`| head`) or Ctrl-C was pressed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_end(*errors: type[Exception]) -> Iterator[None]:
    """Around all that a command does; `errors` are said in one line, and end it with 1."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, not where nobody can catch what comes of it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except errors as error:
        sys.exit(f"Error: {error}")
