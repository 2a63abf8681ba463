"""Start and end a process: the checkout's `.venv`, a quiet end, the allocator, and crowded cores.

Nothing is imported here that a bare Python lacks: `continue_in_venv` runs before any package is there.
"""

import ctypes
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # the folder of train.py
PACKAGES = ("hydra", "torch", "torchaudio", "lightning")  # looked for, not imported: --help must not wait for torch


def continue_in_venv() -> None:
    """Start the same command again with the Python of `.venv`; without one, say what makes it, and exit with 2."""
    if all(map(importlib.util.find_spec, PACKAGES)):
        return
    venv = PROJECT_ROOT / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or Path(sys.prefix).resolve() == venv.resolve():
        print(f"Packages are missing. Run once: python3 {PROJECT_ROOT / 'scripts' / 'bootstrap.py'}", file=sys.stderr)
        sys.exit(2)
    command = [str(python), *sys.argv]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


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
        from hopscotch.plain import sentence

        sys.exit(f"Error: {sentence(error)}")


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


NUM_ELEMENTS = 1 << 17  # enough for torch to share the work out among its threads
NUM_TIMES = 5
CROWDED = 2e-3  # seconds


def seconds_together() -> float:
    """Median time of an operation so small that it takes its threads no time but to find each other."""
    import torch

    numbers = torch.zeros(NUM_ELEMENTS)
    times = []
    for _ in range(NUM_TIMES):
        begun = time.perf_counter()
        numbers.add_(1.0)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def warn_if_crowded() -> None:
    """Say what helps when other processes keep the cores busy, in which training takes many times longer."""
    import torch
    from lightning.fabric.utilities.rank_zero import rank_zero_warn

    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return
    seconds = seconds_together()
    if seconds > CROWDED:
        rank_zero_warn(
            f"Other processes keep the cores busy: {num_threads} threads need {1000 * seconds:.0f} ms for what takes "
            "0.02 ms on free cores. Start again with OMP_NUM_THREADS=1 (several runs side by side) or "
            "OMP_WAIT_POLICY=passive (threads sleep while they wait; half as fast on free cores) before the command."
        )
