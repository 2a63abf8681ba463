"""Freed memory stays with the process: on Linux, where the C library is glibc.

As it comes, malloc hands large blocks back to the system when they are freed, and the system hands them out again page
by page, each a fault and 4 KiB of zeros. A batch of eight ten-second clips takes 5,700 faults, two thirds of the time
of its front end and up to a fourth of the time of the whole model; kept, it takes none. The process then holds what it
once needed until it ends. Intel's and PyTorch's tuning guides preload another allocator for this.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, as malloc.h has them
NEVER = 2**31 - 1  # bytes
AHEAD = 64 << 20  # bytes that the heap grows by at least


def keep_freed_memory() -> bool:
    """Whether it does from now on. What a user has set, MALLOC_..._ in the environment, is left as it is."""
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return all([mallopt(TRIM_THRESHOLD, NEVER), mallopt(TOP_PAD, AHEAD), mallopt(MMAP_THRESHOLD, NEVER)])
