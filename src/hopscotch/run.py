"""One run, from a composed configuration to a folder with everything in it."""

import gc
import signal
import sys
import time
import traceback
import warnings
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hopscotch.build import build_callbacks, build_data, build_loggers, build_model, build_task, build_trainer
from hopscotch.config.compose import STARTED
from hopscotch.explain import explain_run
from hopscotch.plain import sentence
from hopscotch.report.collect import gather_everywhere
from hopscotch.report.metrics_log import MetricsLog
from hopscotch.report.progress import quiet_lightning
from hopscotch.report.summary import Best, finish, write_summary
from hopscotch.report.sweep import append_ledger
from hopscotch.system import warn_if_crowded
from hopscotch.training.checkpoint import check_resumable, load_weights, read_checkpoint, take_weights
from hopscotch.training.task import AudioTask

Ended = Literal["finished", "stopped"]


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, test on the best checkpoint, and write the run's folder; the summary is returned.

    What a user gave wrong ends with one message and exit code 1. In a sweep nothing is raised, for Hydra would lose the
    jobs that follow: the job writes status "failed" and returns. Only being stopped at once ends a sweep too.
    """
    hydra_config = HydraConfig.get()
    run = Path(cfg.run_dir).absolute()
    is_job = hydra_config.mode == RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    summary = attempt(cfg, run, overrides, time.time() if is_job else STARTED)
    if is_job:
        rank_zero_only(append_ledger)(run.parent, {"folder": run.name, "overrides": overrides, **summary})
    elif summary["status"] == "failed":
        raise SystemExit(1)
    if summary["status"] == "stopped" and not summary["test"]:
        raise SystemExit(130)  # as a shell reports SIGINT
    return summary


def attempt(cfg: DictConfig, run: Path, overrides: list[str], started: float) -> dict[str, Any]:
    """Run, and return the summary however the run ends."""
    try:
        claim(run, cfg, overrides)
    except ValueError as error:  # the folder is another run's: nothing may be written there
        print_error(error)
        return unfinished(cfg, "failed", error)
    try:
        return fit_and_test(cfg, run, started)
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning exits on a second Ctrl-C, and with code 0 on SIGTERM
        summary = unfinished(cfg, "stopped", error)
    except Exception as error:
        print_error(error)
        summary = unfinished(cfg, "failed", error)
    leave(run, summary, started)
    return summary


@rank_zero_only
def claim(run: Path, cfg: DictConfig, overrides: list[str]) -> None:
    """Make the folder this run's own, or refuse one that holds a run."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with (run / "config.yaml").open("x", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True))
    except FileExistsError:
        raise ValueError(
            f"hydra.run.dir must be a folder without a run in it, got {run}. "
            f"To go on with that run choose a new folder and pass ckpt_path={run / 'checkpoints' / 'last.ckpt'}."
        ) from None
    (run / "overrides.yaml").write_text(OmegaConf.to_yaml(overrides), encoding="utf-8")


def unfinished(cfg: DictConfig, status: Literal["stopped", "failed"], error: BaseException) -> dict[str, Any]:
    """Make the summary of a run that came to no result."""
    why = "stopped by a signal before the end" if status == "stopped" else f"{type(error).__name__}: {error}"
    return {"status": status, "model": cfg.model.name, "seed": cfg.seed, "test": None, "error": why}


@rank_zero_only
def leave(run: Path, summary: dict[str, Any], started: float) -> None:
    write_summary(run, **summary, seconds={"total": time.time() - started})
    print(run)


def print_error(error: Exception) -> None:
    """One message for what a user gave; the whole trace for what is our own fault."""
    if isinstance(error, ValueError | MisconfigurationException):
        print(f"Error: {sentence(error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def fit_and_test(cfg: DictConfig, run: Path, started: float) -> dict[str, Any]:
    # Imports stay: to look through them for garbage takes a quarter of a second. Once: what a sweep's first job leaves
    # behind must not stay.
    if gc.get_freeze_count() == 0:
        gc.freeze()
    quiet()
    if cfg.ckpt_path is not None:
        found = Path(cfg.ckpt_path)
        check_resumable(read_checkpoint(found, "ckpt_path"), found)  # before any work
    if cfg.compute.budget is not None:
        raise ValueError(
            f"compute.budget must stay null in training, got {cfg.compute.budget}: compute.target is what a model "
            "trains for, scripts/evaluate.py run=<run folder> compute.budget=... asks a trained one for other budgets."
        )
    seed_everything(cfg.seed, verbose=False)
    trainer = build_trainer(cfg, build_callbacks(cfg), [*build_loggers(cfg), MetricsLog(run)])
    if trainer.strategy.root_device.type == "cpu":
        warn_if_crowded()
    data = build_data(cfg)
    data.setup("fit")
    model = build_model(cfg, data.num_classes)
    task = build_task(cfg, model, data)
    if cfg.ckpt_path is None:
        model.frontend.measure(data.statistics_batches())
    else:  # a resumed model brings its scale along; Lightning loads it once more, and says less of what does not fit
        load_weights(task, Path(cfg.ckpt_path), "ckpt_path")
    interrupt = Interrupt(trainer)
    fit_started = time.time()
    with interrupt:
        trainer.fit(task, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    fit_seconds = time.time() - fit_started
    in_training = trainer.callback_metrics.get(f"train/{task.primary.name}")  # the test forgets it
    best = load_best(task, trainer)
    trainer.test(task, datamodule=data, verbose=False)
    test = gather_everywhere(task.steps["test"])
    status: Ended = "stopped" if interrupt.came else "finished"
    if not trainer.is_global_zero:
        return {"status": status, "test": {}}
    return finish(
        run,
        trainer,
        task,
        test,
        best,
        in_training=None if in_training is None else float(in_training),
        explain=partial(explain_run, run, task.model, data),
        status=status,
        model=cfg.model.name,
        seed=cfg.seed,
        started=datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        seconds={
            "to_first_step": (task.first_step_at or fit_started) - started,
            "fit": fit_seconds,
            "total": time.time() - started,
        },
    )


def quiet() -> None:
    """Keep what is no news out of the terminal."""
    quiet_lightning()
    for message in (
        ".*does not have many workers.*",  # clips wait in memory: workers cost time
        ".*smaller than the logging interval.*",
        "`isinstance.treespec, LeafSpec.` is deprecated.*",  # Lightning's use of torch, until it catches up
    ):
        warnings.filterwarnings("ignore", message=message)


def load_best(task: AudioTask, trainer: Trainer) -> Best | None:
    """Take the best weights by validation; where no checkpoint was kept, as in fast_dev_run, leave them as they are.

    Not by trainer.test(ckpt_path=...): where weights are averaged, Lightning would test those that were not validated.
    """
    callback = checkpoint_of(trainer)
    if callback is None:
        return None
    path = Path(callback.best_model_path)
    checkpoint = read_checkpoint(path)
    take_weights(task, checkpoint["state_dict"], path)
    score = callback.best_model_score
    return Best(
        epoch=checkpoint["epoch"],
        step=checkpoint["global_step"],
        monitor=callback.monitor,
        value=None if score is None else float(score),
        validation=checkpoint.get("validation", {}),
    )


def checkpoint_of(trainer: Trainer) -> ModelCheckpoint | None:
    """Find the callback that kept the best weights; None if none were kept."""
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return kept[0] if kept and kept[0].best_model_path else None


class Interrupt:
    """Ctrl-C once ends training in order (validate, keep, test); twice ends it at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.came = False

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGINT, self._stop)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        self.trainer.should_stop = True
        print("\nStopping after this step, then testing the best checkpoint. Ctrl-C again: at once.", file=sys.stderr)
