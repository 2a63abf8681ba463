"""Keep weights: their moving average over training steps, the best checkpoint, and the last one.

    average <- average + (1 - decay) (weights - average), after every optimizer step; it spans 1 / (1 - decay) steps

The average is validated, kept and tested instead of the weights themselves.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hopscotch.files import DiskError
from hopscotch.plain import sentence, shown
from hopscotch.training.checkpoint import read_checkpoint
from hopscotch.training.saving import WholeCheckpoints
from hopscotch.training.whole import LAST, copy_whole

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
    """Keep one best checkpoint and the last two, as Lightning's ModelCheckpoint does, with five differences.

    Under `save_last=True` Lightning does not update the last checkpoint after a validation that is no better than the
    best: resuming from it repeats the epochs since then. It writes the state of one step twice where both are the same.
    A run that resumes in a new folder forgets which checkpoint was the best so far. Of states that are equally good it
    keeps the first: shares of a few events tie, and the last one has learnt most. And a state in the middle of an
    epoch, every so many steps or minutes, has no metric that it could be the best by: it is the last one alone.
    """

    def __init__(self, *args: Any, every_steps: int = 0, every_minutes: float = 0.0, **kwargs: Any) -> None:
        """Take what ModelCheckpoint takes, and when to keep the last state within an epoch, too; 0 is never."""
        super().__init__(*args, **{"enable_version_counter": False} | kwargs)
        for key, value in {"every_steps": every_steps, "every_minutes": every_minutes}.items():
            if value < 0:
                raise ValueError(f"callbacks.checkpoint.{key} must be at least 0, got {value}.")
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self._files = WholeCheckpoints()
        self._kept_at = time.monotonic()
        self._is_last_final = False
        self._came_from: Path | None = None  # the checkpoint that is loaded
        if self.save_top_k not in (0, 1):
            raise ValueError(
                "callbacks.checkpoint.save_top_k must be 1 (reports read one best checkpoint), or 0 to keep none, "
                f"got {self.save_top_k}."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a user's own stays
            reads_it = any(getattr(logger, "_log_model", False) for logger in trainer.loggers)
            self._files = trainer.strategy.checkpoint_io = WholeCheckpoints(waits=reads_it)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._came_from = Path(trainer.ckpt_path) if trainer.ckpt_path else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoint so far, from the folder of the one that is loaded.

        A checkpoint may come from anywhere, and files that its paths name would be copied or removed: only the name of
        a file is taken from these paths.
        """
        before, score = self._best_beside(state_dict.get("best_model_path"))
        if self.dirpath is not None and before is not None and isinstance(score, Tensor) and score.numel() == 1:
            here = str(Path(self.dirpath) / before.name)
            if not os.path.exists(here) or not os.path.samefile(before, here):
                rank_zero_only(copy_whole)(before, Path(here))
            self.best_model_path = self.kth_best_model_path = here
            self.best_k_models, self.best_model_score, self.kth_value = {here: score}, score, score
        last = _file_name(state_dict.get("last_model_path"))
        if self.dirpath is not None and self.dirpath == state_dict.get("dirpath") and last:
            self.last_model_path = str(Path(self.dirpath) / last)

    def _best_beside(self, kept: object) -> tuple[Path | None, Any]:
        """Return the best checkpoint so far if it is a readable file in the folder of the one that is loaded.

        Its score is the one that it has itself: it may be of a later step than the state that is loaded.
        """
        name = _file_name(kept)
        if not name or self._came_from is None:
            return None, None
        path, why = self._came_from.parent / name, "is not there"
        if path.is_symlink():
            why = "is a symbolic link"
        elif path.is_file():
            try:
                states = read_checkpoint(path).get("callbacks")
                state = states.get(self.state_key) if isinstance(states, dict) else None
                return path, state.get("best_model_score") if isinstance(state, dict) else None
            except ValueError as error:
                why = f"cannot be read ({sentence(error)})"
        rank_zero_warn(f"{shown(path)}, the best checkpoint so far, {why}: the best of what follows is kept.")
        return None, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._kept_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.is_due(trainer) and is_between_steps(trainer):
            self.keep(trainer)

    def is_due(self, trainer: Any) -> bool:
        """Tell whether the last state is to be kept after this step."""
        if self.every_steps and trainer.global_step % self.every_steps == 0:
            return True
        if not self.every_minutes or (trainer.world_size > 1 and trainer.global_step % trainer.log_every_n_steps):
            return False
        return trainer.strategy.broadcast(time.monotonic() - self._kept_at >= 60 * self.every_minutes)

    def keep(self, trainer: Trainer, *, is_final: bool = False) -> None:
        """Keep the last state as it is between two steps; with `is_final` what follows does not replace it."""
        if not self.save_last or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        saved = self._last_global_step_saved, self._last_checkpoint_saved
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._last_global_step_saved, self._last_checkpoint_saved = saved  # a validation after this step is kept, too
        self._is_last_final = is_final

    def has_kept(self, trainer: Trainer) -> bool:
        """Tell whether the state is kept as it is, after a validation of it."""
        return self._last_global_step_saved == trainer.global_step

    def wait(self) -> None:
        """Wait until what was kept is written."""
        self._files.wait()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a last state if there is none; where none was kept since one was loaded, it is that one.

        Training cannot go on from the state of this moment: the average has taken the place of the weights.
        """
        last = Path(self.dirpath or "") / LAST
        if self._came_from is not None and not self._last_checkpoint_saved:
            if self.save_last and not last.exists():
                rank_zero_only(copy_whole)(self._came_from, last)
        elif not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  # Lightning forgets it here alone
            super().on_train_end(trainer, pl_module)
        self.wait()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        with suppress(DiskError):  # the first fault is the one that is told
            self.wait()

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Tell whether a state is the best so far, or as good."""
        best = self.best_model_score
        is_equal = current is not None and best is not None and bool(current.cpu() == best.cpu())
        return is_equal or super().check_monitor_top_k(trainer, current)

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.save_last and self._last_global_step_saved != trainer.global_step:
            self._save_last_checkpoint(trainer, monitor_candidates)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if not self._is_last_final:
            super()._save_last_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._kept_at = time.monotonic()
        saved = self._last_checkpoint_saved
        is_ours = trainer.strategy.checkpoint_io is self._files and "://" not in filepath
        if self._last_global_step_saved != trainer.global_step or not (is_ours and saved):
            super()._save_checkpoint(trainer, filepath)
            return
        if saved != filepath and trainer.is_global_zero:
            self._files.copy(Path(saved), Path(filepath))
        trainer.strategy.barrier()


def is_between_steps(trainer: Trainer) -> bool:
    """Tell whether a state that is kept after this batch can be gone on from exactly.

    In the middle of an optimizer step gradients would be lost; before a validation that validation would be.
    """
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    is_last = trainer.is_last_batch or loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return not (is_last or loop._should_accumulate())


def _file_name(path: object) -> str:
    """Take the name of a checkpoint from its path; empty if it is none."""
    name = Path(path).name if isinstance(path, str) else ""
    return name if name.endswith(ModelCheckpoint.FILE_EXTENSION) else ""
