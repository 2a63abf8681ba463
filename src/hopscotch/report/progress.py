"""Show how a run goes: a line at its start and one per epoch, and within an epoch a bar or, in a log, a heartbeat.

Print what Lightning has to say, once and without its chatter, and the tables of its profilers.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.plain import shown
from hopscotch.progress import HEARTBEAT
from hopscotch.report.run_folder import PROFILE
from hopscotch.training.task import AudioTask

UNSAID = {("val", "loss"), ("train", "f1")}  # of an epoch's line, which would be too long
REFRESH_SECONDS = 0.5  # reading a number waits for the device, so not at every step


def opening(trainer: Trainer, task: AudioTask, data: AudioDataModule, run: Path) -> str:
    """Say in one line what is trained, on what, and where."""
    facts: Any = data.summary()
    clips, seconds = facts["clips"], facts["seconds"]
    target = "" if task.target is None else f", target {task.target:.3f} of the dense compute"
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    many = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    threads = torch.get_num_threads()
    told = [
        f"{task.model.name}: {task.num_parameters:,} parameters{target}",
        f"{clips['train']} training clips of {data.num_classes} classes, {seconds['train'] / 60:.1f} minutes "
        f"({clips['val']} to validate, {clips['test']} to test)",
        f"{many}{name}, {threads} {'thread' if threads == 1 else 'threads'}",
        shown(run),
    ]
    return "; ".join(told)


def numbers_in_words(trainer: Trainer, pl_module: Any, *splits: str) -> dict[str, str]:
    """Numbers logged so far of some splits, by the words a person reads and in the order shown, three digits each."""
    name, metrics = pl_module.primary.name, trainer.callback_metrics
    numbers = {}
    for split in splits:
        for tag, word in {"loss": "loss", name: name, "f1": "f1", "compute_fraction": "compute"}.items():
            if f"{split}/{tag}" in metrics and (split, tag) not in UNSAID:
                numbers[f"val {word}" if split == "val" else word] = f"{metrics[f'{split}/{tag}'].item():.3f}"
    return numbers


class SkipProgressBar(RichProgressBar):
    """Lightning's rich bar with the loss, and above it a line with our numbers for each epoch.

    Where the output is no terminal (a file, a pipe, a batch system) a bar would be thousands of lines or none at all:
    there the lines are alone, and another one says every `HEARTBEAT` seconds how far the epoch is.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)
        self.shown: dict[str, Any] = {}
        self.shown_at = 0.0
        self.epoch_start = 0.0
        self.said_at = 0.0
        self.is_plain = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        console = get_console()
        self.is_plain = not console.is_terminal or console.is_dumb_terminal
        self.said_at = time.monotonic()
        if self.is_plain:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        now = time.monotonic()
        if now - self.shown_at >= REFRESH_SECONDS:
            self.shown_at = now
            self.shown = self.loss_so_far(trainer)
        return self.shown

    def loss_so_far(self, trainer: Trainer) -> dict[str, str]:
        """Find the latest loss; the other numbers are of whole epochs."""
        loss = trainer.callback_metrics.get("train/loss")
        return {} if loss is None else {"loss": f"{loss.item():.3f}"}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.epoch_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.is_due():
            where = f"{self.epoch(trainer)}  step {batch_idx + 1}/{trainer.num_training_batches}"
            self.say(trainer, where, self.loss_so_far(trainer))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **more: Any) -> None:
        super().on_validation_batch_end(trainer, pl_module, *step, **more)
        if self.is_due():
            where = f"{step[2] + 1}/{sum(trainer.num_val_batches)}"  # of outputs, batch, batch_idx
            self.say(trainer, f"{self.epoch(trainer)}  validation {where}", {})

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **more: Any) -> None:
        super().on_test_batch_end(trainer, pl_module, *step, **more)
        if self.is_due():
            self.say(trainer, f"test {step[2] + 1}/{sum(trainer.num_test_batches)}", {})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.progress is not None and self.train_progress_bar_id is not None:  # the line takes the place of the bar
            self.progress.update(self.train_progress_bar_id, visible=False)
        seconds = f"{time.monotonic() - self.epoch_start:.1f} s"
        self.say(trainer, self.epoch(trainer), numbers_in_words(trainer, pl_module, "train", "val"), seconds)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_test_end(trainer, pl_module)
        if self.is_plain:  # in a terminal the summary follows at once
            self.say(trainer, "test", numbers_in_words(trainer, pl_module, "test"))

    def epoch(self, trainer: Trainer) -> str:
        of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        return f"epoch {trainer.current_epoch + 1}{of}"

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.epoch(self.trainer):{len(self.validation_description)}}"  # as wide as that: no flickering

    def is_due(self) -> bool:
        return self.is_plain and time.monotonic() - self.said_at >= HEARTBEAT

    def say(self, trainer: Trainer, head: str, numbers: dict[str, str], tail: str = "") -> None:
        """Print a line on the first process: above the bar, or without colour and control characters in a log."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        self.said_at = time.monotonic()
        words = [f"{word} {number}" for word, number in numbers.items()]
        line = "  ".join([head, *words, *([tail] if tail else [])])
        if self.progress is None:
            print(line, flush=True)
        else:
            self.progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


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
