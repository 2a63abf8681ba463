"""End a training of several processes when one of them has died or stands still: the others would wait for it for ever.

Each process counts on in the store that torch.distributed keeps, and looks at the counts of the others. That works
across machines, and while a process waits in a collective operation; a process that computes for long counts on, too.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from subprocess import Popen
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed import TCPStore

PATIENCE = 45.0  # seconds without a sign of life, after which a process is given up
PAUSE = 1.0  # seconds from sign to sign
LEFT = "alive/left"


class Alive(Callback):
    """Watch the other processes until `leave`; if one is lost, `tell` it and end this process and those it started."""

    def __init__(self, tell: Callable[[str], None], patience: float = PATIENCE) -> None:
        self.tell, self.patience = tell, patience
        self.started: list[Popen[Any]] = []  # processes, by this one
        self._heard: dict[int, float] = {}  # rank -> when it last showed itself
        self._over = threading.Event()
        self._shows: threading.Thread | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        launcher: Any = trainer.strategy.launcher
        if trainer.world_size > 1 and not self._heard:
            self.started = getattr(launcher, "procs", [])
            self.start(trainer.global_rank, trainer.world_size)

    def start(self, rank: int, num_ranks: int) -> None:
        """Begin to show this process, and to watch the others."""
        now = time.monotonic()
        self._heard = {other: now for other in range(num_ranks) if other != rank}
        self._shows = threading.Thread(target=self._show, args=(rank,), daemon=True, name="alive")
        self._shows.start()
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def leave(self) -> None:
        """Stop watching: from here on no process waits for another. A thread within the store would abort the exit."""
        self._over.set()
        if self._shows is not None:
            self._shows.join(timeout=5 * PAUSE)

    def _show(self, rank: int) -> None:
        """Count on, and note who else did; where the store's own process stands still, this does too."""
        wait = timedelta(seconds=self.patience)
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        counts = dict.fromkeys(self._heard, 0)
        try:
            store = TCPStore(*place, is_master=False, timeout=wait, wait_for_workers=False)
            while not self._over.wait(PAUSE):
                store.add(f"alive/{rank}", 1)
                for other, before in counts.items():
                    counts[other] = store.add(f"alive/{other}", 0)
                    if counts[other] != before:
                        self._heard[other] = time.monotonic()
                if store.add(LEFT, 0):
                    self._over.set()
            store.add(LEFT, 1)
        except RuntimeError:  # the process that keeps the store has gone: it will not be heard of again
            pass

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            rank, heard = min(self._heard.items(), key=lambda item: item[1])
            silent = time.monotonic() - heard
            if silent > self.patience:
                message = f"process {rank} has not shown itself for {silent:.0f} s: it has died, or stands still."
                print(f"Error: {message}", file=sys.stderr, flush=True)
                try:
                    self.tell(message)
                finally:
                    for process in self.started:
                        process.kill()
                    os._exit(1)  # the main thread waits where no exception reaches it
