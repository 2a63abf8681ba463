"""Tell a run that goes on from one that was changed: what it was trained with stands in its checkpoints.

Of the configuration that is typed now every key that differs is used, and said; or refused by name. Optimizer, schedule
and early stopping would otherwise take up again what they were made with.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor

from hopscotch.data.clips import some
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.fingerprint import differences
from hopscotch.plain import nodes, shown
from hopscotch.training.schedules import Warmed

SETTINGS, DATA = "settings", "data_content"  # keys of a checkpoint
# Beginnings of keys, the first that fits says what becomes of a change.
KEPT = "kept"  # a run that goes on keeps its value
ANYWAY = "anyway"  # with another value an epoch would be neither repeated nor completed
USED = "used"
FREE = "free"  # changes nothing of what is learnt, or is compared as data
RULES = (
    (("model.", "frontend.", "gate.", "size.", "optimizer._target_"), KEPT),
    (("optimizer.layer_decay", "optimizer.head_rate"), KEPT),
    (("scheduler._target_", "task._target_", "callbacks.average._target_"), KEPT),
    (("callbacks.checkpoint.monitor", "callbacks.checkpoint.mode", "trainer.freeze", "trainer.unfreeze_every"), KEPT),
    (("seed", "data.batch_size", "data.batch_seconds", "data.max_seconds", "data.balance"), ANYWAY),
    (("trainer.accumulate_grad_batches", "trainer.limit_train_batches", "trainer.overfit_batches"), ANYWAY),
    (("trainer.devices", "trainer.num_nodes", "trainer.precision"), ANYWAY),
    (("optimizer.", "scheduler.", "compute.", "augment.", "task.", "callbacks.early_stopping."), USED),
    (("callbacks.average.", "trainer.max_", "trainer.gradient_clip_val", "trainer.val_check_interval"), USED),
    (("trainer.check_val_every_n_epoch", "trainer.limit_val_batches"), USED),
    (("",), FREE),
)
MOST = 1e9  # of a learning rate
NUMBERS_OF_STEPS = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches")


class Change(NamedTuple):
    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        before, now = ("none" if value is None else shown(value) for value in (self.before, self.now))
        return f"{self.key} was {before} and is {now}"


class Differences(NamedTuple):
    """List what has changed since the checkpoint, by what becomes of it."""

    used: list[Change]
    anyway: list[Change]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """List the keys of a configuration that a run that goes on is compared by, with their values."""
    lists = {key for key, value in nodes(config) if isinstance(value, list)}
    leaves = {key: value for key, value in nodes(config) if not isinstance(value, Mapping)}
    return {key: value for key, value in leaves.items() if rule_of(key) != FREE and key.rpartition(".")[0] not in lists}


def rule_of(key: str) -> str:
    return next(rule for beginnings, rule in RULES if key.startswith(beginnings))


def compare(checkpoint: Mapping[str, Any], config: Mapping[str, Any], key: str) -> Differences:
    """Compare what a checkpoint was trained with and what is configured now.

    Raises:
        ValueError: names a key that a run that goes on keeps, and is another one now.
    """
    before, now = _settings(checkpoint.get(SETTINGS)), settings_of(config)
    if before is None:
        rank_zero_warn(f"{key}: the checkpoint does not say what it was trained with; changes since are not seen.")
        return Differences([], [])
    changes = [
        Change(name, before.get(name), now.get(name))
        for name in sorted({*before, *now})
        if rule_of(name) != FREE and before.get(name) != now.get(name)
    ]
    kept = [change for change in changes if rule_of(change.key) == KEPT or _is_restored(change, config["scheduler"])]
    if kept:
        kept.sort(key=lambda change: change.key != "model.name")
        raise ValueError(f"{key}: a run that goes on keeps what it is made of; {some(list(map(str, kept)))}.")
    return Differences(*([c for c in changes if rule_of(c.key) == rule] for rule in (USED, ANYWAY)))


def _is_restored(change: Change, scheduler: Mapping[str, Any]) -> bool:
    """Tell whether a schedule that is none of ours takes up its old value again, or counts steps that change."""
    if str(scheduler["_target_"]).startswith(Warmed.__module__):
        return False
    counts = "auto" in scheduler.values() and change.key in NUMBERS_OF_STEPS
    return change.key.startswith("scheduler.") or counts


def is_rate(value: Any) -> bool:
    """Tell whether a value can be a learning rate; that of a checkpoint may be a stranger's."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MOST


def _settings(text: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def refuse_other_data(
    checkpoint: Mapping[str, Any], data: AudioDataModule, found: Differences, *, anyway: bool, key: str
) -> None:
    """Refuse other classes; of other clips, or batches of another size, `anyway` makes a warning."""
    classes = checkpoint.get("classes")
    if isinstance(classes, list) and classes != data.classes:
        raise ValueError(
            f"{key} must be of the same classes in the same order: it was trained on {shown(', '.join(classes))}; "
            f"the data have {shown(', '.join(data.classes))}."
        )
    told = [str(change) for change in found.anyway]
    if clips := differences(checkpoint.get(DATA), data.content(), data.clips):
        told.append(f"the data are others: {clips}")
    if not told:
        return
    if not anyway:
        raise ValueError(f"{key}: {'; '.join(told)}. To go on all the same add resume_anyway=true.")
    rank_zero_warn(f"{key}: {'; '.join(told)}; the epoch under way is neither repeated nor completed.")


class Resume(Callback):
    """Write into checkpoints what they were trained with, and use what has changed where one is loaded."""

    def __init__(
        self, config: Mapping[str, Any], content: Callable[[], Tensor], changed: list[Change] | None = None
    ) -> None:
        """Take the configuration, what hashes the data, and what has changed since the checkpoint that is loaded."""
        self.settings = json.dumps(settings_of(config))
        self.content, self.changed = content, changed or []
        self.patience: dict[int, int] = {}

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        stops = [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
        self.patience = self.patience or {id(callback): callback.patience for callback in stops}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[SETTINGS], checkpoint[DATA] = self.settings, self.content()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping):
                callback.patience = self.patience[id(callback)]  # the checkpoint has brought its own
                trainer.should_stop |= trainer.global_step > 0 and callback.wait_count >= callback.patience
        if not self.changed:
            return
        if any(change.key.startswith("optimizer.") for change in self.changed):
            self._renew_optimizer(trainer, pl_module)
        rates = self._renew_rates(trainer)
        step = trainer.global_step
        for change in self.changed:
            rank_zero_only(print)(f"{change}, from step {step} on", flush=True)
        if any(change.key.startswith(("optimizer.lr", "scheduler.", "trainer.max_")) for change in self.changed):
            rank_zero_only(print)(f"the learning rate at step {step} is {max(rates):.4g}", flush=True)

    def _renew_optimizer(self, trainer: Trainer, task: Any) -> None:
        """Give the optimizer the numbers that it would be made with now; its running means stay."""
        fresh = task.fresh_optimizer()
        lr = next((change for change in self.changed if change.key == "optimizer.lr"), None)
        ratio = lr.now / lr.before if lr is not None and is_rate(lr.now) and is_rate(lr.before) else 1.0
        (optimizer,) = trainer.optimizers
        for group, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group.update({key: value for key, value in wanted.items() if key not in ("params", "lr")})
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if key in group:
                    group[key] = wanted["lr"] if key == "initial_lr" and ratio != 1 else ratio * group[key]
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def _renew_rates(self, trainer: Trainer) -> list[float]:
        """Give our schedules the rate that they would have at this step had they always been as they are now."""
        (optimizer,) = trainer.optimizers
        for config in trainer.lr_scheduler_configs:
            if isinstance(schedule := config.scheduler, Warmed):
                for group, base, rate in zip(
                    optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
                ):
                    group["lr"] = base * rate(schedule.last_epoch)
                schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
        return [group["lr"] for group in optimizer.param_groups]
