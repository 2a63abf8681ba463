"""Measure how long a user waits for an accuracy: test after every epoch, with the clock (`callbacks=watch`).

report/watch.csv    epoch, seconds since the process started, val_loss of that epoch, test_acc

This is a tool for comparisons with other toolkits: training neither sees the test clips nor stops by them. The tested
weights are those that the validation of the epoch tests: averaged, and calibrated to the budget.
"""

import csv
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from hopscotch.config.compose import STARTED
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch
from scripts.studies.decision_value import evaluate

FILE = "watch.csv"
COLUMNS = ("epoch", "seconds", "val_loss", "test_acc")


class AccuracyWatch(Callback):
    """Write the accuracy on the test clips and the clock after every epoch to a table in `folder`."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self.test_acc = 0.0
        self.rows: list[tuple[int, float, float, float]] = []
        self._batches: list[AudioBatch] = []

    @rank_zero_only
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx > 0 or trainer.sanity_checking:
            return
        assert isinstance(pl_module, AudioTask)
        if not self._batches:
            datamodule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in fit
            datamodule.setup("test")
            self._batches = list(datamodule.test_dataloader())
        self.test_acc = evaluate(pl_module, self._batches).is_right.double().mean().item()

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val/loss"])
        self.rows.append((trainer.current_epoch, time.time() - STARTED, loss, self.test_acc))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self.rows)
