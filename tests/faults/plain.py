"""A training script by Lightning's own means, to compare with: two ModelCheckpoints, gone on from by ckpt_path.

`python -m tests.faults.table --plain` has it undergo what our runs undergo.
"""

import os
import time
import traceback
from pathlib import Path
from typing import Any

import soundfile
import torch
from lightning.fabric.utilities import cloud_io
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

MODELS = (("model=plain",), ("model=plain", "trainer.accumulate_grad_batches=2"))
SAMPLES = 2000  # of a clip, cut or padded


class Config:
    """The words that this script knows, of those of our runs."""

    def __init__(self, root: Path, run: Path, *words: str) -> None:
        self.root, self.run_dir = root, run
        known = dict(word.split("=", 1) for word in words)
        self.batch_size = int(known.get("data.batch_size", 4))
        self.max_epochs = int(known["trainer.max_epochs"])
        self.accumulates = int(known.get("trainer.accumulate_grad_batches", 1))


class Plain(LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hears = nn.Sequential(nn.Conv1d(1, 16, 64, stride=32), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU())
        self.says = nn.Sequential(nn.Dropout(0.1), classifier := nn.Linear(16, num_classes))
        self.bias = classifier.bias

    def loss(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.says(self.hears(batch[0]).mean(dim=2)), batch[1])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing: a place to be killed at."""

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


HOOKS: tuple[tuple[Any, str], ...] = (
    (Plain, "training_step"),
    (Plain, "optimizer_step"),
    (Plain, "validation_step"),
    (Plain, "on_save_checkpoint"),
    (Plain, "test_step"),
    (torch, "save"),
    (os, "replace"),
    (os, "rename"),
    (os, "open"),
    (cloud_io, "_atomic_save"),
)


def attempt(cfg: Config) -> int:
    """Run as a script would, from the last checkpoint if there is one, and return its exit code."""
    try:
        fit(cfg)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def fit(cfg: Config) -> None:
    seed_everything(0, verbose=False)
    folder = cfg.run_dir / "checkpoints"
    keeps = (
        ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False),
        ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=cfg.max_epochs,
        accumulate_grad_batches=cfg.accumulates,
        callbacks=list(keeps),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    names = sorted(path.name for path in cfg.root.iterdir())
    train, val, test = (clips(cfg.root, names, part) for part in (slice(2, None), slice(0, 1), slice(1, 2)))
    module, last = Plain(len(names)), folder / "last.ckpt"
    loaders = DataLoader(train, cfg.batch_size, shuffle=True), DataLoader(val, cfg.batch_size)
    trainer.fit(module, *loaders, ckpt_path=last if last.exists() else None, weights_only=True)
    trainer.test(module, DataLoader(test, cfg.batch_size), ckpt_path=keeps[0].best_model_path, weights_only=True)


def clips(root: Path, names: list[str], part: slice) -> Any:
    """Read a part of each class."""
    found = []
    for label, name in enumerate(names):
        for path in sorted((root / name).iterdir())[part]:
            sound = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[:SAMPLES]
            found.append((nn.functional.pad(sound, (0, SAMPLES - len(sound)))[None], label))
    return found


def read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        raise ValueError(str(error)) from error


# Faults, as children.py and the tests have them for our runs.


def lose(steps: range, where: str) -> None:
    """Make a loss or gradient NaN at some steps."""
    measure = Plain.training_step

    def training_step(self: Plain, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = measure(self, batch, batch_idx)
        if self.global_step in steps and where == "gradient":
            self.bias.register_hook(lambda gradient: gradient * torch.nan)
        return loss * torch.nan if self.global_step in steps and where == "loss" else loss

    Plain.training_step = training_step


def send(number: int, at: int) -> None:
    """Send a signal to this process within a step."""
    measure = Plain.training_step

    def training_step(self: Plain, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == at:
            os.kill(os.getpid(), number)
            time.sleep(0)
        return measure(self, batch, batch_idx)

    Plain.training_step = training_step


def fill(after: int) -> None:
    """Have the disk take no more after some checkpoints, of which a run writes seven at least."""
    save, calls, after = torch.save, [], after % 7

    def saves(checkpoint: Any, file: Any) -> None:
        calls.append(file)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        save(checkpoint, file)

    torch.save = saves
