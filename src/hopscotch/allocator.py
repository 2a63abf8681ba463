"""Freed memory stays with the process: on Linux, where the C library is glibc.

As it comes, malloc hands large blocks back to the system when they are freed, and the system hands them out again page
by page, each a fault and 4 KiB of zeros. A batch of eight ten-second clips then takes thousands of faults, and a good
part of its time (scripts/benchmark.py --only allocator); kept, it takes none. The process holds what it once needed
until it ends. PyTorch's and Intel's tuning guides preload another allocator for this.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, as malloc.h has them
OFF = -1  # of the trim threshold
LARGEST = (2**31 - 1, 2**25)  # bytes of a block that the heap may hold; older glibc takes no more than the second
AHEAD = 2**26  # bytes that the heap grows by at least
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")  # how names of environment variables begin by which a user sets this himself


def keep_freed_memory() -> bool:
    """Whether it does from now on. What a user has set in the environment is left as it is."""
    if not sys.platform.startswith("linux") or any(name.startswith(SETTINGS) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # This one first: each of the others alone would fix it at 128 KiB.
    if mallopt is None or not any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST):
        return False
    return bool(mallopt(TRIM_THRESHOLD, OFF)) and bool(mallopt(TOP_PAD, AHEAD))
