"""Give TensorBoard a run per split, so that training, validation and test share a chart in three colours.

`val/acc` is written as `acc` of the run `val`, so that what was first by alphabet, accuracy and compute, opens first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

SPLITS = ("train", "val", "test")
NAMES = {"compute_fraction": "compute/fraction", "macs": "compute/macs", "expected_compute": "compute/expected"}


def place_of(tag: str) -> tuple[str, str]:
    """Split a tag into the run of its split, empty for that of the whole, and its tag there."""
    split, slash, name = tag.partition("/")
    return (split, NAMES.get(name, name)) if slash and split in SPLITS else ("", tag)


class SplitLogger(TensorBoardLogger):
    """Write `<split>/<tag>` as `<tag>` into a folder `<split>`; everything else as TensorBoardLogger does."""

    def __init__(self, save_dir: str, **options: Any) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **options)
        self.writers: dict[str, SummaryWriter] = {}

    def writer(self, split: str) -> SummaryWriter:
        """Open the writer of a split; of none, that of the whole run."""
        if not split:
            return self.experiment
        if split not in self.writers:
            self.writers[split] = SummaryWriter(str(Path(self.log_dir) / split), **self._kwargs)
        return self.writers[split]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write each number into the run of its split."""
        for tag, value in metrics.items():
            if tag != "epoch":  # a staircase
                split, name = place_of(tag)
                self.writer(split).add_scalar(name, value, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush all writers; without Lightning's hparams.yaml, for config.yaml has them."""
        for writer in (self.experiment, *self.writers.values()):
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close what was opened."""
        super().finalize(status)
        for writer in self.writers.values():
            writer.close()
