"""Keep weights: their moving average over training steps, the best checkpoint, and the last one.

    average <- average + (1 - decay) (weights - average), after every optimizer step; it spans 1 / (1 - decay) steps

The average is validated, kept and tested instead of the weights themselves.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hopscotch.plain import sentence, shown
from hopscotch.training.checkpoint import read_checkpoint

Place = tuple[dict[str, Tensor | None], str]  # of a parameter or buffer: its module's table, and its name in it


class AveragedWeights(WeightAveraging):
    """Average the weights as Lightning's `EMAWeightAveraging` does, in less time."""

    def __init__(self, *, decay: float) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"callbacks.average.decay must lie in [0, 1], got {decay}.")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average_model = MovingAverage(pl_module, self.decay)


class MovingAverage(AveragedModel):
    """Update torch's AveragedModel with all tensors at once, at the places where they were found before.

    One by one the updates took 5 to 9 ms of a step of 80 ms, and the search in every step another 2 to 3 ms.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._found: tuple[nn.Module, list[tuple[list[Place], list[Place]]]] | None = None

    def update_parameters(self, model: nn.Module) -> None:
        if self._found is None and self.n_averaged == 0:  # synchronises with the device, once
            super().update_parameters(model)
            return
        if self._found is None or self._found[0] is not model:
            self._found = (model, self._groups(model))
        assert self.multi_avg_fn is not None
        for averaged, current in self._found[1]:
            self.multi_avg_fn(_tensors(averaged), _tensors(current), self.n_averaged)
        self.n_averaged += 1

    def _groups(self, model: nn.Module) -> list[tuple[list[Place], list[Place]]]:
        """Group the places of the average and of the model by device and type of their tensors.

        The average moves to the model's device: it may have been made before the trainer moved the model.
        """
        self.to(next(model.parameters()).device)
        groups: dict[tuple[object, object], tuple[list[Place], list[Place]]] = {}
        for ours, theirs in zip(_places(self.module), _places(model), strict=True):
            (tensor,) = _tensors([ours])
            averaged, current = groups.setdefault((tensor.device, tensor.dtype), ([], []))
            averaged.append(ours)
            current.append(theirs)
        return list(groups.values())


def _places(module: nn.Module) -> list[Place]:
    """Find the place of every parameter and buffer, once; a module may put another tensor there later."""
    places, seen = [], set()
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    places.append((table, name))
    return places


def _tensors(places: list[Place]) -> list[Tensor]:
    tensors = [table[name] for table, name in places]
    assert all(tensor is not None for tensor in tensors)
    return [tensor.detach() for tensor in tensors if tensor is not None]


class BestAndLast(ModelCheckpoint):
    """Keep one best checkpoint and the last one, as Lightning's ModelCheckpoint does, with four differences.

    Under `save_last=True` Lightning does not update the last checkpoint after a validation that is no better than the
    best: resuming from it repeats the epochs since then. It writes the state of one step twice where both are the same.
    A run that resumes in a new folder forgets which checkpoint was the best so far. And of states that are equally good
    it keeps the first: shares of a few events tie, and the last one has learnt most.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._came_from: Path | None = None  # the folder of the checkpoint that is loaded
        if self.save_top_k not in (0, 1):
            raise ValueError(
                "callbacks.checkpoint.save_top_k must be 1 (reports read one best checkpoint), or 0 to keep none, "
                f"got {self.save_top_k}."
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._came_from = Path(trainer.ckpt_path).parent if trainer.ckpt_path else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint so far, from the folder of the one that is loaded.

        A checkpoint may come from anywhere, and files that its paths name would be copied or removed: only the name of
        a file is taken from these paths.
        """
        score, before = state_dict.get("best_model_score"), self._best_beside(state_dict.get("best_model_path"))
        if self.dirpath is not None and before is not None and isinstance(score, Tensor) and score.numel() == 1:
            here = str(Path(self.dirpath) / before.name)
            if not os.path.exists(here) or not os.path.samefile(before, here):
                _copy(str(before), here)
            self.best_model_path = self.kth_best_model_path = here
            self.best_k_models, self.best_model_score, self.kth_value = {here: score}, score, score
        last = _file_name(state_dict.get("last_model_path"))
        if self.dirpath is not None and self.dirpath == state_dict.get("dirpath") and last:
            self.last_model_path = str(Path(self.dirpath) / last)

    def _best_beside(self, kept: object) -> Path | None:
        """Return the best checkpoint so far if it is a readable file in the folder of the one that is loaded."""
        name = _file_name(kept)
        if not name or self._came_from is None:
            return None
        path, why = self._came_from / name, "is not there"
        if path.is_symlink():
            why = "is a symbolic link"
        elif path.is_file():
            try:
                read_checkpoint(path)
                return path
            except ValueError as error:
                why = f"cannot be read ({sentence(error)})"
        rank_zero_warn(f"{shown(path)}, the best checkpoint so far, {why}: the best of what follows is kept.")
        return None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  # Lightning forgets it here alone
            super().on_train_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tell whether a state is the best so far, or as good."""
        best = self.best_model_score
        is_equal = current is not None and best is not None and bool(current.cpu() == best.cpu())
        return is_equal or super().check_monitor_top_k(trainer, current)

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


def _file_name(path: object) -> str:
    """Take the name of a checkpoint from its path; empty if it is none."""
    name = Path(path).name if isinstance(path, str) else ""
    return name if name.endswith(ModelCheckpoint.FILE_EXTENSION) else ""


@rank_zero_only
def _copy(path: str, to: str) -> None:
    """Copy a file so that an interruption never leaves half of it."""
    partial = Path(f"{to}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, partial)
    os.replace(partial, to)
