"""Show how a run goes in the terminal: a bar with loss, primary metric and compute, or a plain line per epoch.

Print what Lightning has to say, once and without its chatter, and the tables of its profilers.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

from hopscotch.report.run_folder import PROFILE

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


MOST_LINES, MOST_SIGNS = 40, 70  # of a profiler's table that is printed, and of a name in it
CHATTER = (  # advertisements, and what is so in every run or was typed
    "litlogger",
    "litmodels",
    "💡",
    "`max_epochs=",
    "available: ",  # GPU, TPU
    "local_rank: ",
    "was configured so ",
    "estimate number of stepping batches",
    "automatic mixed precision",
    "float32_matmul_precision",
    "restoring states from",  # restored, it says afterwards
    "current_model_state",
)
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


def is_about_this_run(record: logging.LogRecord) -> bool:
    message = record.getMessage().lower()
    return not any(word in message for word in CHATTER)


class Terminal(logging.Handler):
    """Print to what is stderr at that time, which a progress bar replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def print_profiles(run: Path) -> None:
    """Print the head of a profiler's table of the training, narrow enough for a terminal; its file has all."""
    for file in sorted((run / PROFILE).glob("fit-*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines()[:MOST_LINES]:
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if len(cells) > 1:  # Lightning makes the column of names as wide as the longest one
                line = f"{cells[0][:MOST_SIGNS]:<{MOST_SIGNS}}" + "".join(f"{cell:>17}" for cell in cells[1:])
            print(line.rstrip()[: 2 * MOST_SIGNS])
        print(f"all of it: {file.parent}")


def quiet_lightning() -> None:
    """Leave Lightning's messages one way to the terminal, the root logger's, without its chatter.

    Call after `import lightning`, which installs handlers of its own. A second call changes nothing.
    """
    logging.basicConfig(format="%(message)s", handlers=[Terminal()])  # unless Hydra has handlers of its own
    for name, logger in logging.root.manager.loggerDict.items():
        if not isinstance(logger, logging.Logger) or not name.startswith("lightning"):
            continue
        if name in LOGGERS:
            logger.handlers.clear()
            logger.propagate = True
        # A filter acts on the logger a message is sent to and on none above it, so every one gets its own.
        logger.addFilter(is_about_this_run)
