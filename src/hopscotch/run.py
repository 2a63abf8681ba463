"""One run, from a composed configuration to a folder with everything in it."""

import contextlib
import errno
import gc
import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import DictConfig, OmegaConf

from hopscotch.above import Dearer, warn_of
from hopscotch.build import build_callbacks, build_data, build_loggers, build_model, build_task, build_trainer
from hopscotch.conditions import time_test
from hopscotch.config.absent import refuse_absent_targets
from hopscotch.config.compose import STARTED
from hopscotch.config.errors import plain_config
from hopscotch.config.monitors import refuse_unlogged
from hopscotch.config.typed import is_made_of
from hopscotch.data.datamodule import BAD_AUDIO, AudioDataModule
from hopscotch.dearer import dearer_budgets
from hopscotch.detection_figures import as_facts, detection_facts, write_detection
from hopscotch.explain import explain_run
from hopscotch.files import DiskError, refuse_links, write_file
from hopscotch.intervals import Interval
from hopscotch.known import remember
from hopscotch.metrics import class_facts
from hopscotch.plain import sentence, shown
from hopscotch.recommend import before
from hopscotch.report.clips import ClipRow
from hopscotch.report.collect import gather_everywhere
from hopscotch.report.metrics_log import MetricsLog
from hopscotch.report.paint import use_letters_of
from hopscotch.report.progress import opening, print_profiles, quiet_lightning
from hopscotch.report.run_folder import METRICS, OVERRIDES, PROFILE, SUMMARY, Kept, RunFolder
from hopscotch.report.run_page import CARD
from hopscotch.report.split_logger import SplitLogger
from hopscotch.report.summary import Best, finish, write_summary
from hopscotch.resume import From, find_start, goes_on, has_checkpoint, refuse_strange, resolved, take_over, typed
from hopscotch.start import Start, start_from, start_from_backbone, teacher_of
from hopscotch.sweep import append_ledger
from hopscotch.system import LOCK, core_seconds, lock, warn_if_crowded
from hopscotch.training.alive import Alive
from hopscotch.training.calibration import resolve_target
from hopscotch.training.checkpoint import keep_budgets, read_checkpoint, take_weights
from hopscotch.training.freeze import check_frozen
from hopscotch.training.idle import idle_layers
from hopscotch.training.resume import Resume, compare, refuse_other_data
from hopscotch.training.stopping import SIGNALS, Stopping, exit_at, handle, is_stop, signal_of
from hopscotch.training.task import AudioTask

PYTHONS_WARNING = warnings.formatwarning
# Into a run.
WRITTEN = (OVERRIDES, METRICS, CARD, f"{SUMMARY}.unfinished", "report", "checkpoints", "csv", PROFILE, LOCK, BAD_AUDIO)
EARLY = 0.5  # of the training steps: before, a budget is not yet met and little is learnt
Ended = Literal["finished", "stopped"]
REFUSALS = (ValueError, MisconfigurationException, DiskError)  # of what a user gave
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
ANY_CLASSES = 2  # before the data are read; their number hardly changes what a model costs
WORD_SECONDS, FILE_SECONDS = (1.0, 0.5), (1.0, 0.1, 0.3, 3.0, 10.0, 60.0)  # likewise; their mean is one of these, about


class Ready(NamedTuple):
    """Hold what a run is made of, once everything that was given has been checked."""

    trainer: Trainer
    task: AudioTask
    data: AudioDataModule
    origin: Start | None  # the trained model that it starts from
    ckpt: Path | None  # that it goes on from
    stopping: Stopping


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, test on the best checkpoint, and write the run's folder; the summary is returned.

    What a user gave wrong ends with one message and exit code 1. In a sweep nothing is raised, for Hydra would lose the
    jobs that follow: the job writes status "failed" and returns. Only being stopped at once ends a sweep too. A run
    that was stopped by a signal ends with exit code 128 + its number, also after its test.
    """
    hydra_config = HydraConfig.get()
    run = Path(cfg.run_dir).absolute()
    in_sweep = is_in_sweep()
    is_job = in_sweep or not OmegaConf.is_missing(hydra_config.job, "num")
    overrides = list(hydra_config.overrides.task)
    if in_sweep and is_made_of(RunFolder(run).overrides, overrides):  # in the same sweep, before
        if RunFolder(run).status == "finished":
            return RunFolder(run).summary
        with contextlib.suppress(ValueError):  # another process trains there, and the claim is refused
            if rank_zero_only(goes_on, default=has_checkpoint(run))(run):  # all processes of a job find the same
                cfg.resume = str(run)
    handle(SIGNALS, exit_at)  # training has its own
    summary = attempt(cfg, run, overrides, time.time() if in_sweep else STARTED, is_job=is_job)
    if in_sweep:
        sweep = Path(hydra_config.sweep.dir).absolute()
        row = {"folder": os.path.relpath(run, sweep), "overrides": overrides, **summary}
        rank_zero_only(append_ledger)(sweep, row)
    elif summary["status"] == "failed":
        raise SystemExit(1)
    if summary["status"] == "stopped" and not (in_sweep and summary["test"]):
        # As a shell reports it; the jobs that follow one stopped in order still run.
        raise SystemExit(128 + signal.Signals[summary["signal"]])
    return summary


def attempt(cfg: DictConfig, run: Path, overrides: list[str], started: float, *, is_job: bool) -> dict[str, Any]:
    """Run, and return the summary however the run ends.

    The folder is claimed when all that was given is known to be right: a refusal leaves none behind. That of a job of a
    sweep is claimed first, for the sweep's table names what failed and why.
    """
    claimed, start, in_place = False, None, cfg.resume is not None
    with contextlib.ExitStack() as held:
        try:
            (refuse_strange if in_place else refuse_taken)(run)
            if in_place:
                hold(run, held)
            elif is_job:
                refuse_links(run.parent, [run.name])
                claim(run, cfg, overrides, held)
            claimed = is_job
            start = find_start(cfg)
            ready = prepare(cfg, run, start)
            if in_place:
                take_over(run, cfg, overrides, start)
            elif not is_job:
                claim(run, cfg, overrides, held)
            claimed = True
            return fit_and_test(cfg, run, ready, started)
        except (KeyboardInterrupt, SystemExit) as error:  # Lightning exits on a second Ctrl-C
            caught, summary = error, unfinished(cfg, "stopped" if is_stop(error) else "failed", error)
        except Exception as error:
            print_error(error)
            caught, summary = error, unfinished(cfg, "failed", error)
        if not (claimed or in_place) and not isinstance(caught, REFUSALS):  # a stop, or our fault, is worth a record
            claim(run, cfg, overrides, held)
            claimed = True
        leave(run, summary, started) if claimed else release(run)
        return summary


@rank_zero_only
def hold(run: Path, held: contextlib.ExitStack) -> None:
    """Keep other processes from training in the folder, as long as `held`."""
    held.enter_context(lock(run, "is being trained by another process: wait for it, or stop it"))


@rank_zero_only
def refuse_taken(run: Path) -> None:
    """Refuse a folder that holds a run, or links in place of the files of one."""
    refuse_links(run, WRITTEN)
    if (run / "config.yaml").exists():
        last = run / "checkpoints" / "last.ckpt"
        hint = f" To go on with that run: hopscotch train resume={shlex.quote(str(run))}" if last.is_file() else ""
        raise ValueError(f"hydra.run.dir must be a folder without a run in it, got {run}.{hint}")


@rank_zero_only
def claim(run: Path, cfg: DictConfig, overrides: list[str], held: contextlib.ExitStack) -> None:
    """Make the folder this run's own, or refuse one that holds a run."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        (run / "config.yaml").touch(exist_ok=False)
    except FileExistsError:
        refuse_taken(run)
    write_file(run / "config.yaml", resolved(cfg))
    hold(run, held)
    write_file(run / OVERRIDES, OmegaConf.to_yaml(typed(overrides)))
    remember(plain_config(cfg))


@rank_zero_only
def release(run: Path) -> None:
    """Remove the folder that Hydra made, unless there is something in it."""
    with contextlib.suppress(OSError):
        run.rmdir()


def unfinished(cfg: DictConfig, status: Literal["stopped", "failed"], error: BaseException) -> dict[str, Any]:
    """Make the summary of a run that came to no result."""
    facts = {"status": status, "model": cfg.model.name, "seed": cfg.seed, "test": None}
    if status == "failed":
        return {**facts, "error": f"{type(error).__name__}: {error}"}
    name = signal_of(error).name
    return {**facts, "signal": name, "error": f"stopped by {name} before the end: hopscotch train resume=<run> goes on"}


@rank_zero_only
def leave(run: Path, summary: dict[str, Any], started: float) -> None:
    try:
        write_summary(run, **summary, seconds={"total": time.time() - started})
    except OSError as error:  # the disk may be what the run failed by
        print_error(error)
    print(run)


def print_error(error: Exception) -> None:
    """One message for what a user gave; the whole trace for what is our own fault."""
    if isinstance(error, REFUSALS) or (isinstance(error, OSError) and error.errno in OF_THE_DISK):
        print(f"Error: {sentence(error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def prepare(cfg: DictConfig, run: Path, start: From | None) -> Ready:
    """Check what was given, what needs no data first, and build what trains; nothing is written."""
    if gc.get_freeze_count() == 0:  # once, for what a sweep's first job leaves may go
        gc.freeze()  # spares imports the search for garbage, a quarter of a second
    quiet()
    config = plain_config(cfg)
    changed = None if start is None else compare(start.checkpoint, config, start.key)  # before any work
    if cfg.compute.budget is not None:
        raise ValueError(
            f"compute.budget must stay null in training, got {cfg.compute.budget}: compute.target is what a model "
            "trains for, hopscotch evaluate <run> compute.budget=... asks a trained one for other budgets."
        )
    if cfg.model.stages is not None:
        raise ValueError("model.stages must stay null in training: `hopscotch cascade RUN RUN` joins trained models.")
    refuse_target(cfg)
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    resume, stopping = Resume(config, data.content, changed.used if changed else None), Stopping()
    trainer = build_trainer(cfg, [resume, *build_callbacks(cfg), stopping], [*build_loggers(cfg), MetricsLog(run)])
    refuse_to_multiply(trainer)
    if trainer.strategy.root_device.type == "cpu":
        warn_if_crowded()
    data.bad_audio = run / BAD_AUDIO
    data.setup("fit")
    if start is not None and changed is not None:
        refuse_other_data(start.checkpoint, data, changed, anyway=cfg.resume_anyway, key=start.key)
    use_letters_of([*data.classes, *(clip.name for clips in data.clips.values() for clip in clips)])
    model = build_model(cfg, data.num_classes)
    task = build_task(cfg, model, data)
    refuse_unlogged(cfg, task.tags)
    origin = None
    if start is not None:  # it brings its scale along; Lightning loads it once more, and says less of what does not fit
        take_weights(task, start.checkpoint["state_dict"], start.path, start.key)
        if start.key == "resume":
            go_on(trainer, start)
    elif cfg.init_from is not None:
        origin = start_from(Path(cfg.init_from), model, data.classes, config)
    else:
        if cfg.backbone:
            origin = start_from_backbone(Path(cfg.backbone.weights), model)
        model.frontend.measure(data.statistics_batches())
    if cfg.compute.teacher is not None:
        task.teacher = teacher_of(Path(cfg.compute.teacher), data, cfg.compute.teacher_weight)
    return Ready(trainer, task, data, origin, None if start is None else start.path, stopping)


def refuse_to_multiply(trainer: Trainer) -> None:
    """Refuse to start the processes of a job from that of its sweep: each would run the whole sweep."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or trainer.world_size == 1 or not is_in_sweep():
        return
    if not launcher.cluster_environment.creates_processes_externally:
        raise ValueError(
            f"trainer.devices must be 1 where one process runs a whole sweep, got {trainer.num_devices}: a job of "
            "several processes needs one of its own, as hydra/launcher=processes gives it."
        )


def is_in_sweep() -> bool:
    """Tell whether this process runs the jobs of a sweep, one after another."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def go_on(trainer: Trainer, start: From) -> None:
    """Say where the run goes on, and continue its curves."""
    for logger in trainer.loggers:
        if isinstance(logger, SplitLogger):
            logger._kwargs["purge_step"] = start.step  # what an earlier process wrote of later steps is not shown
    rank_zero_only(print)(f"going on from step {start.step}, {shown(start.path)}", flush=True)


def refuse_target(cfg: DictConfig) -> None:
    """Refuse a model that cannot be built, a compute.target out of its reach, and parts to freeze that it has not."""
    refuse_absent_targets(cfg)
    model, errors = build_model(cfg, ANY_CLASSES), []
    check_frozen(model, cfg.trainer.freeze)
    lengths = (cfg.data.scene_seconds,) if "scene_seconds" in cfg.data else WORD_SECONDS
    for seconds in lengths if "num_train" in cfg.data else FILE_SECONDS:
        try:
            resolve_target(cfg.compute.target, model, seconds * cfg.data.sample_rate, cfg.compute.level)
            return
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def fit_and_test(cfg: DictConfig, run: Path, ready: Ready, started: float) -> dict[str, Any]:
    """Train, test on the best checkpoint, and write what the run leaves."""
    trainer, task, data, origin, ckpt, stopping = ready
    tell_loggers(trainer, cfg)
    rank_zero_only(print)(opening(trainer, task, data, run), *filter(None, [origin]), sep="\n", flush=True)
    alive = Alive(lambda problem: leave(run, unfinished(cfg, "failed", RuntimeError(problem)), started))
    trainer.callbacks.append(alive)  # pyright: ignore[reportAttributeAccessIssue]  # it is set by a connector
    fit_started, cores_started = time.time(), core_seconds()
    with stopping:
        trainer.fit(task, datamodule=data, ckpt_path=ckpt, weights_only=True)
    fit_seconds, fit_core_seconds = time.time() - fit_started, core_seconds() - cores_started
    early = bool(cfg.trainer.fast_dev_run) or (stopping.came and task.progress < EARLY)
    in_training = trainer.callback_metrics.get(f"train/{task.primary.name}")  # the test forgets it
    best, dearer = load_best(task, trainer), list[Dearer]()
    if best is not None and trainer.is_global_zero:
        task.to(trainer.strategy.root_device)
        if table := task.measure_budgets():
            keep_budgets(best.path, table)
            dearer = dearer_budgets(task, list(islice(data.val_dataloader(), int(trainer.num_val_batches[0]))), table)
    trainer.test(task, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        print_profiles(run)
    test = gather_everywhere(task.steps["test"])
    alive.leave()
    status: Ended = "stopped" if stopping.came else "finished"
    if not trainer.is_global_zero:
        return {"status": status, "test": {}, "signal": signal.SIGINT.name}
    times, detected = time_test(task, data, trainer), detection_facts(test, data)
    return finish(
        run,
        trainer,
        task,
        test,
        best,
        in_training=None if in_training is None else float(in_training),
        early=early,
        told=[] if early else told_at_end(task, dearer),
        explain=partial(draw_pages, run, task, data, detected),
        status=status,
        **({"signal": signal.SIGINT.name} if stopping.came else {}),
        budgets_above=[budget._asdict() for budget in dearer],
        steps_left_out=task.guard.num_left_out,
        init_from=None if origin is None else origin.facts(),
        model=cfg.model.name,
        seed=cfg.seed,
        started=datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        seconds={
            "to_first_step": (task.first_step_at or fit_started) - started,
            "fit": fit_seconds,
            "fit_cores": fit_core_seconds,  # seconds of all cores, those of loading processes that have ended too
            "test_clip": times.own,
            "test_clip_dense": times.dense,
            "total": time.time() - started,
        },
        **class_facts(test, data),
        **as_facts(detected),
        **before(task, run),
    )


def told_at_end(task: AudioTask, dearer: Sequence[Dearer]) -> list[str]:
    """Warn of what validation clips say: of gates, of layers that none of them runs, and of other budgets."""
    of_gates = [] if task.calibration is None else task.calibration.warnings()
    idle = idle_layers(task.steps["val"], "validation") if task.model.decides else []
    return [*of_gates, *idle, *warn_of(dearer)]


def draw_pages(
    run: Path, task: AudioTask, data: AudioDataModule, detected: Mapping[str, Interval], rows: Sequence[ClipRow]
) -> None:
    """Draw single test clips and, of a detector, single recordings and its figures, `detected`."""
    explain_run(run, task.model, data, rows)
    write_detection(run / "report", task, data, detected)


def tell_loggers(trainer: Trainer, cfg: DictConfig) -> None:
    """Give the configuration to all loggers but TensorBoard's, for which our dashboard chooses some of it."""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(plain_config(cfg))


def quiet() -> None:
    """Keep what is no news out of the terminal."""
    quiet_lightning()
    for message in (
        ".*does not have many workers.*",  # clips wait in memory: workers cost time
        ".*smaller than the logging interval.*",
        "Checkpoint directory .* exists and is not empty",  # a run that goes on has been there before
        "`isinstance.treespec, LeafSpec.` is deprecated.*",  # Lightning's use of torch, until it catches up
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = in_one_line


def in_one_line(message: Warning | str, category: type[Warning], file: str, line: int, code: str | None = None) -> str:
    """Write what a user should know without the place in the code that says it; other warnings keep their form."""
    if issubclass(category, UserWarning):
        return f"warning: {sentence(str(message))}\n"
    return PYTHONS_WARNING(message, category, file, line, code)


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
    value = None if score is None else float(score)
    kept = Kept(checkpoint["epoch"], checkpoint["global_step"], callback.monitor, value)
    return Best(path, kept, checkpoint.get("validation", {}))


def checkpoint_of(trainer: Trainer) -> ModelCheckpoint | None:
    """Find the callback that kept the best weights; None if none were kept."""
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return kept[0] if kept and kept[0].best_model_path else None
