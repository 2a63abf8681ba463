"""Stop a training by a signal: after the step under way, with its state kept.

SIGTERM, SIGUSR1 and SIGHUP, as schedulers and terminals send them, end it there, with exit code 128 + number. Ctrl-C
validates what there is first, and it is tested. A second signal ends it at once.

SIGUSR2 is left to who handles it, as submitit does, which asks the cluster for the job again: the state is kept first.
"""

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from hopscotch.training.callbacks import BestAndLast, is_between_steps

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)  # not all systems have all
HANDED_ON = getattr(signal, "SIGUSR2", None)
TOGETHER = 2.0  # seconds within which signals are one: a session that ends sends SIGHUP and SIGTERM


def exit_at(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the process as a signal does that is not handled, but in order."""
    sys.exit(128 + number)


def signal_of(error: BaseException) -> signal.Signals:
    """Tell which signal a process ends by."""
    code = error.code if isinstance(error, SystemExit) else None
    return signal.Signals(code - 128) if isinstance(code, int) and code > 128 else signal.SIGINT


def is_stop(error: BaseException) -> bool:
    """Tell whether a process ends by a signal, and not by an exit of the code that it runs."""
    code = error.code if isinstance(error, SystemExit) else None
    by_lightning = isinstance(error.__context__, KeyboardInterrupt)  # which exits with 1
    return isinstance(error, KeyboardInterrupt) or by_lightning or (isinstance(code, int) and code > 128)


def handle(numbers: tuple[int, ...], handler: Any) -> None:
    """Handle signals, but those that are ignored on purpose, as nohup does; only the main thread can."""
    for number in numbers:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)


class Stopping(Callback):
    """Note signals while a training runs, and stop it between two steps."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the first signal
        self.noted_at = 0.0
        self.trainer: Trainer | None = None
        self.before: dict[int, Any] = {}

    @property
    def came(self) -> bool:
        return self.number is not None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Signals that end a training with its state kept."""
        return SIGNALS if HANDED_ON is None or not callable(self.before.get(HANDED_ON)) else (*SIGNALS, HANDED_ON)

    def __enter__(self) -> None:
        numbers = (signal.SIGINT, *SIGNALS, *([] if HANDED_ON is None else [HANDED_ON]))
        self.before = {number: signal.getsignal(number) for number in numbers}

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainer = trainer
        handle((signal.SIGINT, *self.numbers), self._note)  # not before: Lightning has set handlers of its own

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        keeper = keeper_of(trainer)
        if self._is_asked(trainer) and (keeper is None or keeper.has_kept(trainer)):  # after a validation
            self._stop(keeper)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._is_asked(trainer, signal.SIGINT) or trainer.fit_loop._should_accumulate():
            return
        keeper, is_between = keeper_of(trainer), is_between_steps(trainer)
        if keeper is not None and is_between:  # else a validation follows, or the end of the epoch, which keeps it
            keeper.keep(trainer, is_final=True)
        if self.number == signal.SIGINT:
            trainer.should_stop = True
        elif is_between:
            self._stop(keeper)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_asked(trainer):
            self._stop(keeper_of(trainer))

    def _is_asked(self, trainer: Trainer, *more: int) -> bool:
        """Tell whether one of the signals, or of `more`, has come to any of the processes."""
        came = self.number in (*self.numbers, *more)
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(came, all=False):
            self.number, came = self.number or signal.SIGTERM, True
        return came

    def _stop(self, keeper: BestAndLast | None) -> NoReturn:
        if keeper is not None:
            keeper.wait()
        assert self.number is not None
        if self.number == HANDED_ON:
            with contextlib.suppress(SystemExit):
                self.before[self.number](self.number, None)
        exit_at(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number != signal.SIGINT and time.monotonic() - self.noted_at < TOGETHER:
                return
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            exit_at(number)
        self.number, self.noted_at = number, time.monotonic()
        launcher = None if self.trainer is None else self.trainer.strategy.launcher
        if launcher is not None and number not in (signal.SIGINT, HANDED_ON):  # Ctrl-C comes to all of them
            launcher.kill(number)
        if number == getattr(signal, "SIGHUP", None):
            _outlive_terminal()
        what = "then validating and testing" if number == signal.SIGINT else "and keeping its state"
        again = "Ctrl-C again" if number == signal.SIGINT else "Another signal"
        with contextlib.suppress(OSError):
            name = signal.Signals(number).name
            print(f"\n{name}: stopping after this step, {what}. {again}: at once.", file=sys.stderr)


def keeper_of(trainer: Trainer) -> BestAndLast | None:
    """Find what keeps the last state."""
    return next((one for one in trainer.checkpoint_callbacks if isinstance(one, BestAndLast)), None)


def _outlive_terminal() -> None:
    """Let what is printed go nowhere: the terminal was closed."""
    for descriptor in filter(os.isatty, (1, 2)):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
