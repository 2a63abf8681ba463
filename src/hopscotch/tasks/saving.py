"""Keep the best checkpoint and the last one, whichever epoch is the best; where they are the same, write it once."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestAndLast(ModelCheckpoint):
    """Lightning's own, for one best checkpoint, with three differences.

    Under `save_last=True` Lightning leaves the last checkpoint as it is after a validation that is no better than the
    best: who goes on from there does the epochs since then again. It would collect and write the state of one step
    twice. And a run that goes on in a folder of its own would forget which checkpoint was the best so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.save_top_k not in (0, 1):
            raise ValueError(
                "callbacks.checkpoint.save_top_k must be 1, for what follows a run reads one best checkpoint, or 0 to "
                f"keep none, got {self.save_top_k}."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a run in another folder: its best checkpoint so far moves in."""
        if self.dirpath is None or state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
            return
        before, score = state_dict["best_model_path"], state_dict["best_model_score"]
        here = str(Path(self.dirpath) / Path(before).name)
        if os.path.isfile(before):
            _copy(before, here)
            so_far = {"best_model_path": here, "kth_best_model_path": here, "best_k_models": {here: score}}
        else:
            if before:
                rank_zero_warn(f"{before}, the best checkpoint so far, is not there: the best of what follows is kept.")
            score = self.best_model_score
            so_far = {
                "best_model_path": "",
                "kth_best_model_path": "",
                "best_k_models": {},
                "kth_value": self.kth_value,
            }
        own = {"dirpath": self.dirpath, "last_model_path": self.last_model_path, "best_model_score": score}
        super().load_state_dict({**state_dict, **own, **so_far})

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        saved = self._last_checkpoint_saved
        if self._last_global_step_saved != trainer.global_step or not os.path.isfile(saved):  # a remote one is no file
            super()._save_checkpoint(trainer, filepath)
            return
        if saved != filepath:
            _copy(saved, filepath)
        trainer.strategy.barrier()


@rank_zero_only
def _copy(path: str, to: str) -> None:
    """Never half a file, as Lightning's are."""
    partial = Path(f"{to}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, partial)
    os.replace(partial, to)
