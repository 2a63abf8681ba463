"""Show how a run goes in the terminal: a bar with loss, primary metric and compute, or a plain line per epoch.

Keep Lightning's chatter out of the terminal: each of its lines comes twice, and one of them is an advertisement.
"""

import logging
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

REFRESH_SECONDS = 0.5  # reading a number waits for the device, so not at every step


def numbers_in_words(trainer: Trainer, pl_module: Any, *splits: str) -> dict[str, str]:
    """Numbers logged so far of some splits, by the words a person reads and in the order shown, three digits each."""
    name, metrics = pl_module.primary.name, trainer.callback_metrics
    numbers = {}
    for split in splits:
        for tag, word in {"loss": "loss", name: name, "compute_fraction": "compute"}.items():
            if f"{split}/{tag}" in metrics and (split, tag) != ("val", "loss"):
                numbers[f"val {word}" if split == "val" else word] = f"{metrics[f'{split}/{tag}'].item():.3f}"
    return numbers


class SkipProgressBar(RichProgressBar):
    """Lightning's rich bar with our three numbers.

    Where the output is no terminal (a file, a pipe, a batch system) a bar would be thousands of lines or none at all:
    there each epoch is one plain line.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.shown: dict[str, Any] = {}
        self.shown_at = 0.0
        self.epoch_start = 0.0
        self.is_plain = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        console = get_console()
        self.is_plain = not console.is_terminal or console.is_dumb_terminal
        if self.is_plain:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        now = time.monotonic()
        if now - self.shown_at >= REFRESH_SECONDS:
            self.shown_at = now
            self.shown = numbers_in_words(trainer, pl_module, "train", "val")
        return self.shown

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        seconds = time.monotonic() - self.epoch_start
        epochs = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.print_plain(trainer, epochs, numbers_in_words(trainer, pl_module, "train", "val"), f"{seconds:.1f} s")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_end(trainer, pl_module)
        self.print_plain(trainer, "test", numbers_in_words(trainer, pl_module, "test"))

    def print_plain(self, trainer: Trainer, head: str, numbers: dict[str, str], tail: str = "") -> None:
        """One line without colour or control characters, on the first process of a run without terminal."""
        if not self.is_plain or not trainer.is_global_zero or trainer.sanity_checking:
            return
        words = [f"{word} {number}" for word, number in numbers.items()]
        print("  ".join([head, *words, *([tail] if tail else [])]), flush=True)


ADVERTISEMENTS = ("litlogger", "litmodels", "💡")
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


def is_about_this_run(record: logging.LogRecord) -> bool:
    message = record.getMessage().lower()
    return not any(word in message for word in ADVERTISEMENTS)


def quiet_lightning() -> None:
    """Leave Lightning's messages one way to the terminal, the root logger's, without advertisements.

    Call after `import lightning`, which installs handlers of its own. A second call changes nothing.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if not isinstance(logger, logging.Logger) or not name.startswith("lightning"):
            continue
        if name in LOGGERS:
            logger.handlers.clear()
            logger.propagate = True
        # A filter acts on the logger a message is sent to and on none above it, so every one gets its own.
        logger.addFilter(is_about_this_run)
