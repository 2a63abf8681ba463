"""Keep the best checkpoint and the last one, whichever epoch is the best; where they are the same, write it once."""

import os
import shutil

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestAndLast(ModelCheckpoint):
    """Lightning's own, with two differences under `save_last=True`.

    Lightning leaves the last checkpoint as it is after a validation that is no better than the best: who goes on from
    there does the epochs since then again. And it would collect and write the state of one step twice.
    """

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        saved = self._last_checkpoint_saved
        if self._last_global_step_saved != trainer.global_step or not os.path.isfile(saved):  # a remote one is no file
            super()._save_checkpoint(trainer, filepath)
            return
        if trainer.is_global_zero and saved != filepath:
            partial = f"{filepath}.partial"
            shutil.copyfile(saved, partial)
            os.replace(partial, filepath)  # never half a file, as Lightning's are
        trainer.strategy.barrier()
