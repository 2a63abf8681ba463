"""Run jobs of `hopscotch train`, each in a process of its own, so that whatever becomes of one stops no other.

A signal stops them all in order: it is sent to those that run, and no other one starts. They obey a second one at once,
and a third one kills them.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hopscotch.system import IS_CHECKOUT, PROJECT_ROOT

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)  # not all systems have all
THREADS = "OMP_NUM_THREADS"
PAUSE = 0.05  # seconds between looks at the processes
MOST = 2  # signals that are sent on before a kill
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl, in linux/prctl.h


class Job(NamedTuple):
    """Say what a process is to do."""

    folder: Path  # of its run
    words: Sequence[str]  # of `hopscotch train`


class Ended(NamedTuple):
    """Say how the process of a job has ended."""

    job: Job
    code: int  # exit code; below zero: the signal that killed it
    seconds: float

    @property
    def reason(self) -> str:
        """Tell what the process itself could not."""
        if self.code >= 0:
            return f"its process ended with exit code {self.code}"
        hint = ": out of memory?" if -self.code == getattr(signal, "SIGKILL", None) else ""
        return f"its process was killed by {signal.Signals(-self.code).name}{hint}"


class Jobs:
    """Run up to `lanes` jobs at once, which share the cores; with `logs`, what each prints goes to <folder>.log."""

    def __init__(self, lanes: int, *, logs: bool) -> None:
        self.lanes, self.logs = lanes, logs
        self.number: int | None = None  # of the first signal
        self._count = 0
        self._running: dict[subprocess.Popen[Any], tuple[Job, float]] = {}

    def run(self, jobs: Iterable[Job]) -> Generator[Ended]:
        """Yield jobs as they end; one is taken from `jobs` only when it starts, and those that run end with this."""
        waiting = iter(jobs)
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, self._stop)
        try:
            while True:
                while self.number is None and len(self._running) < self.lanes and (job := next(waiting, None)):
                    self._running[self._start(job)] = job, time.time()
                if not self._running:
                    return
                for process in [process for process in self._running if process.poll() is not None]:
                    job, started = self._running.pop(process)
                    yield Ended(job, process.returncode, time.time() - started)
                time.sleep(PAUSE)
        finally:
            self._send(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
            for process in self._running:
                process.wait()  # its folder is free then
            self._running.clear()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, job: Job) -> subprocess.Popen[Any]:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        own = {"PYTHONPATH": os.pathsep.join([*sys.path, *([str(PROJECT_ROOT)] if IS_CHECKOUT else [])])}
        if self.lanes > 1 and THREADS not in os.environ:  # who set it has other jobs
            own[THREADS] = str(max(1, (os.cpu_count() or 1) // self.lanes))
        options: dict[str, Any] = {"env": os.environ | own, "stdin": subprocess.DEVNULL}
        if os.name == "posix":  # a group of its own: a signal of the terminal comes to it through this process alone
            options["start_new_session"] = True
        if sys.platform == "linux":
            prctl = ctypes.CDLL(None).prctl
            options["preexec_fn"] = lambda: prctl(END_WITH_PARENT, signal.SIGTERM)
        words = [sys.executable, "-m", "hopscotch", "train", *job.words]
        sys.stdout.flush()
        if not self.logs:
            return subprocess.Popen(words, **options)
        with Path(f"{job.folder}.log").open("w", encoding="utf-8") as log:
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, **options)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.number = self.number or number
        self._send(number if self._count <= MOST or os.name == "nt" else signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Send a signal to what runs: Ctrl-C and a kill to all processes of a job, as a terminal does."""
        for process in self._running:
            if process.poll() is None:
                if os.name == "posix" and number in (signal.SIGINT, signal.SIGKILL):
                    os.killpg(process.pid, number)
                else:
                    process.send_signal(number)
