"""One run, from a composed configuration to a folder with everything in it."""

import json
import logging
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hopscotch.build import build_callbacks, build_data, build_loggers, build_model, build_task, build_trainer
from hopscotch.config import STARTED
from hopscotch.report.figures import draw_report
from hopscotch.report.findings import find_warnings
from hopscotch.report.metrics_log import MetricsLog
from hopscotch.report.quiet import quiet_lightning
from hopscotch.report.summary import print_summary, write_summary
from hopscotch.report.sweep import append_ledger
from hopscotch.report.traces import TraceCollector
from hopscotch.tasks.base import AudioTask

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, test on the best checkpoint, and write the run's folder; the summary is returned.

    What a user gave wrong ends with one message and exit code 1. In a sweep nothing is raised: Hydra would lose the jobs that
    follow, so the job writes status "failed" and returns.
    """
    hydra_config = HydraConfig.get()
    run = Path(cfg.run_dir).absolute()
    is_job = hydra_config.mode == RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    try:
        claim(run, cfg, overrides)
        summary = fit_and_test(cfg, run)
    except KeyboardInterrupt:
        summary = unfinished(run, cfg, "stopped", "stopped by Ctrl-C before the end")
    except Exception as error:
        summary = unfinished(run, cfg, "failed", f"{type(error).__name__}: {error}")
        print_error(error)
        print(run)
    if is_job:
        append_ledger(run.parent, {"folder": run.name, "overrides": overrides, **summary})
    elif summary["status"] == "failed":
        raise SystemExit(1)
    if summary["status"] == "stopped" and not summary["test"]:
        raise SystemExit(130)  # as a shell reports SIGINT
    return summary


def claim(run: Path, cfg: DictConfig, overrides: list[str]) -> None:
    """Make the folder this run's own, or refuse one that holds a run."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with (run / "config.yaml").open("x", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True))
    except FileExistsError:
        raise ValueError(
            f"hydra.run.dir must be a folder without a run in it, got {run}. To go on with that run choose a new folder and "
            f"pass ckpt_path={run / 'checkpoints' / 'last.ckpt'}."
        ) from None
    (run / "overrides.yaml").write_text(OmegaConf.to_yaml(overrides), encoding="utf-8")


def unfinished(run: Path, cfg: DictConfig, status: Literal["stopped", "failed"], why: str) -> dict[str, Any]:
    """The summary of a run that came to no result."""
    if (run / "config.yaml").exists() and not (run / "summary.json").exists():
        seconds = {"total": time.time() - STARTED}
        write_summary(run, status=status, model=cfg.model.name, seed=cfg.seed, seconds=seconds, error=why)
    return {"status": status, "model": cfg.model.name, "seed": cfg.seed, "test": None, "error": why}


def print_error(error: Exception) -> None:
    """One message for what a user gave; the whole trace for what is our own fault."""
    if isinstance(error, ValueError):
        print(f"Error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def fit_and_test(cfg: DictConfig, run: Path) -> dict[str, Any]:
    quiet_lightning()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # clips wait in memory: workers cost time
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    if cfg.ckpt_path is not None and not Path(cfg.ckpt_path).is_file():
        raise ValueError(f"ckpt_path must be a checkpoint file, got {cfg.ckpt_path}, which is not there.")
    seed_everything(cfg.seed, verbose=False)
    traces = TraceCollector()
    trainer = build_trainer(cfg, [*build_callbacks(cfg), traces], [*build_loggers(cfg), MetricsLog(run)])
    data = build_data(cfg)
    data.setup("fit")
    model = build_model(cfg, data.num_classes)
    task = build_task(cfg, model, data)
    if cfg.ckpt_path is None:  # a resumed model brings its scale along
        model.frontend.measure(data.statistics_batches())
    interrupt = Interrupt(trainer)
    fit_started = time.time()
    with interrupt:
        trainer.fit(task, datamodule=data, ckpt_path=cfg.ckpt_path)
    fit_seconds = time.time() - fit_started
    best = best_checkpoint(trainer)
    trainer.test(task, datamodule=data, ckpt_path=best, verbose=False)
    if not trainer.is_global_zero:
        return {"status": "finished", "test": {}}
    return finish(cfg, run, trainer, task, traces, "stopped" if interrupt.came else "finished", fit_seconds)


def best_checkpoint(trainer: Trainer) -> str | None:
    """The best by validation; None (the weights as they are) where none was kept, as in fast_dev_run."""
    checkpoint = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)), None)
    return None if checkpoint is None or not checkpoint.best_model_path else checkpoint.best_model_path


def finish(
    cfg: DictConfig,
    run: Path,
    trainer: Trainer,
    task: AudioTask,
    traces: TraceCollector,
    status: Literal["finished", "stopped"],
    fit_seconds: float,
) -> dict[str, Any]:
    """Write the summary and the pictures, and tell the terminal."""
    test = traces.test
    assert test is not None
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    floor = task.model.floor(round(data.mean_samples()))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    findings = find_warnings(
        test, decides=task.model.decides, floor=floor, target=task.target, train_accuracy=metrics.get("train/acc")
    )
    summary: dict[str, Any] = {
        "status": status,
        "model": cfg.model.name,
        "seed": cfg.seed,
        "test": {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")},
        "compute": {
            "fraction": test.compute_fraction,
            "macs": test.trace.macs.double().mean().item(),
            "dense_macs": test.trace.dense_macs.double().mean().item(),
            "floor": floor,
        }
        | ({} if task.target is None else {"target": task.target}),
        "parameters": task.num_parameters,
        "seconds": {
            "to_first_step": (task.first_step_at or time.time()) - STARTED,
            "fit": fit_seconds,
            "total": time.time() - STARTED,
        },
        "warnings": findings,
        "epochs": trainer.current_epoch,
        "data": data.summary(),
    }
    write_summary(run, **summary)
    draw_report(run, test)
    print_summary(run, test, parameters=task.num_parameters, warnings=findings)
    return json.loads(json.dumps(summary))


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
        print("\nStopping after this step, then testing the best checkpoint. Ctrl-C again ends at once.", file=sys.stderr)


