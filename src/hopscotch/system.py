"""Start and end a process: the checkout's `.venv`, a quiet end, the allocator, and busy cores.

Only the standard library is imported at the top: `continue_in_venv` runs before any package is installed.
"""

import ctypes
import importlib.util
import io
import os
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
PROJECT_ROOT = PACKAGE.parents[1]  # of a checkout: the folder of train.py
IS_CHECKOUT = (PROJECT_ROOT / "train.py").is_file() and (PROJECT_ROOT / "conf").is_dir()
CONF = PROJECT_ROOT / "conf" if IS_CHECKOUT else PACKAGE / "conf"  # a wheel has it inside
PACKAGES = ("hydra", "torch", "torchaudio", "lightning")  # looked for, not imported: --help must not wait for torch


def outputs() -> Path:
    """Return the folder of runs: outputs/ in the checkout, or where the command was typed if hopscotch is installed."""
    return (PROJECT_ROOT if IS_CHECKOUT else Path.cwd()) / "outputs"


def commit() -> str | None:
    """Return the git commit of the checkout, without starting git; None where there is none."""
    git = PROJECT_ROOT / ".git"
    try:
        if git.is_file():  # of a worktree
            git = PROJECT_ROOT / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        shared = git / "commondir"
        git = git / shared.read_text(encoding="utf-8").strip() if shared.is_file() else git
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        packed = (line.split() for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines())
        return next((words[0] for words in packed if words[1:] == [name]), None)
    except OSError:
        return None


def continue_in_venv() -> None:
    """Start the same command again with the Python of `.venv`; if it is missing, say how to make it and exit with 2."""
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
    """End a command without a traceback on a closed pipe, on Ctrl-C, and on `errors`, which are printed in one line."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where an error can still be caught
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except errors as error:
        from hopscotch.plain import sentence

        sys.exit(f"Error: {sentence(error)}")


class Lasting(io.FileIO):
    """Write to a pipe, and on into nothing once its reader has gone away."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return super().write(data)


def outlive_reader() -> None:
    """Let what this process prints into a pipe outlive the pipe's reader: `hopscotch train ... | head -3` trains on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            is_pipe = not stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and not stream.isatty()
        except (OSError, ValueError, AttributeError):  # not of the system: a test's, a notebook's
            continue
        if is_pipe:
            stream.flush()
            raw = io.BufferedWriter(Lasting(stream.fileno(), "w", closefd=False))
            same = {key: getattr(stream, key) for key in ("encoding", "errors", "line_buffering", "write_through")}
            setattr(sys, name, io.TextIOWrapper(raw, **same))


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt, as malloc.h has them
OFF = -1  # of the trim threshold
LARGEST = (2**31 - 1, 2**25)  # bytes of a block that the heap may hold; older glibc takes no more than the second
AHEAD = 2**26  # bytes that the heap grows by at least
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")  # prefixes of environment variables by which a user sets the allocator


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory and return whether it does; settings in the environment have precedence."""
    if not sys.platform.startswith("linux") or any(name.startswith(SETTINGS) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # First, because each of the others alone would fix it at 128 KiB.
    if mallopt is None or not any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST):
        return False
    return bool(mallopt(TRIM_THRESHOLD, OFF)) and bool(mallopt(TOP_PAD, AHEAD))


NUM_ELEMENTS = 1 << 17  # enough for torch to use all of its threads
NUM_TIMES = 5
CROWDED = 2e-3  # seconds


def seconds_together() -> float:
    """Measure the median time of an operation so small that synchronising its threads is all it takes."""
    import torch

    numbers = torch.zeros(NUM_ELEMENTS)
    times = []
    for _ in range(NUM_TIMES):
        begun = time.perf_counter()
        numbers.add_(1.0)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def warn_if_crowded() -> None:
    """Warn that other processes keep the cores busy, which slows training many times over, and say what helps."""
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


LOCK = ".lock"  # in a folder that one process at a time writes to


def core_seconds() -> float:
    """Return the seconds that cores have worked for this process, and for those that it has started and that ended."""
    return sum(os.times()[:4])


@contextmanager
def lock(folder: Path, taken: str) -> Iterator[None]:
    """Keep a folder for this process; where the system has no locks, this does nothing.

    Raises:
        ValueError: If another process keeps it; `taken` says what that means, and what to do.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, and is not its workers'
        except OSError:
            raise ValueError(f"{folder} {taken}.") from None
        yield
