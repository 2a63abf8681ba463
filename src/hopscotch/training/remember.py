"""Let heads train on what is remembered of clips, where all that is ahead of them is frozen and no clip is changed."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, Trainer
from torch import nn

from hopscotch.models.exits import EarlyExit
from hopscotch.models.memory import SUFFIX, Memory

log = logging.getLogger(__name__)

FORMAT = 1  # of what is kept: another one where the same weights give other states


class Remember(Callback):
    """Give a model with exits a memory of `gib` while it trains, and keep up to `disk_gib` in the folder."""

    def __init__(self, folder: Path, gib: float, disk_gib: float) -> None:
        self.folder, self.gib, self.disk_gib = folder, gib, disk_gib

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        model, data = pl_module.model, pl_module.trainer.datamodule
        changes = data.augment is not None or model.spectrogram_augment is not None or pl_module.mixup > 0
        if not isinstance(model, EarlyExit) or not is_frozen(model):
            return
        if changes:
            log.info("All but the heads is frozen: with augment=none, they train on states that are computed once.")
            return
        place = self.folder / f"{fingerprint(model)}{SUFFIX}" if self.disk_gib else None
        model.memory = Memory(model.summary_size, self.gib, place)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(pl_module.model)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._save(pl_module.model)

    def _save(self, model: nn.Module) -> None:
        if not isinstance(model, EarlyExit) or model.memory is None:
            return
        try:
            rank_zero_only(model.memory.save)(self.disk_gib)
        except OSError as error:
            log.warning("States cannot be kept in %s (%s); data.cache_dir moves them.", self.folder, error.strerror)
        model.memory = None  # tests run the whole model


def is_frozen(model: EarlyExit) -> bool:
    """Tell whether nothing ahead of the heads learns."""
    return all(not one.requires_grad and not part.training for part in model.ahead for one in part.parameters())


def fingerprint(model: EarlyExit) -> str:
    """Return a hash of all that the states of a clip depend on besides its samples."""
    digest = hashlib.sha256(repr((FORMAT, model.steps, model.layers, model.ahead)).encode())
    for part in model.ahead:
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
