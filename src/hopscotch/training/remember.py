"""Let heads train on what is remembered of clips, where all that is ahead of them is frozen and no clip is changed."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, Trainer

from hopscotch.models.audio_model import AudioModel
from hopscotch.models.memory import SUFFIX, Memory

log = logging.getLogger(__name__)

FORMAT = 1  # of what is kept: another one where the same weights give other states


class Remember(Callback):
    """Give a model that can remember a memory of `gib` while it trains, and keep up to `disk_gib` in the folder."""

    def __init__(self, folder: Path, gib: float, disk_gib: float) -> None:
        self.folder, self.gib, self.disk_gib = folder, gib, disk_gib

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        model, data = pl_module.model, pl_module.trainer.datamodule
        changes = data.augment is not None or model.spectrogram_augment is not None or pl_module.mixup > 0
        if not model.can_remember or not is_frozen(model):
            return
        if changes:
            log.info("All but the heads is frozen: with augment=none, they train on states that are computed once.")
            return
        place = self.folder / f"{fingerprint(model)}{SUFFIX}" if self.disk_gib else None
        model.memory = Memory(sum(model.summary_sizes), self.gib, place)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._save(pl_module.model)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._save(pl_module.model)

    def _save(self, model: AudioModel) -> None:
        if model.memory is None:
            return
        try:
            rank_zero_only(model.memory.save)(self.disk_gib)
        except OSError as error:
            log.warning("States cannot be kept in %s (%s); data.cache_dir moves them.", self.folder, error.strerror)
        model.memory = None  # tests run the whole model


def is_frozen(model: AudioModel) -> bool:
    """Tell whether nothing ahead of the heads learns."""
    return all(not one.requires_grad and not part.training for part in model.trunk for one in part.parameters())


def fingerprint(model: AudioModel) -> str:
    """Return a hash of all that the states of a clip depend on besides its samples."""
    digest = hashlib.sha256(repr((FORMAT, *model.read_at, model.trunk)).encode())
    for part in model.trunk:
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
