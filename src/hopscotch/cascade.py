"""Join trained runs into one that asks the cheapest model first (models/cascade.py), in a run's folder of its own.

What is written is what training writes: config.yaml with the models' own configurations, a checkpoint with all weights,
summary and report of a test. The runs that were joined are not needed any more.
"""

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hopscotch.build import build_task
from hopscotch.conditions import time_test
from hopscotch.config.errors import plain_config
from hopscotch.data.clips import some
from hopscotch.evaluate import LoadedRun, core_seconds_of, load, tester
from hopscotch.metrics import class_facts
from hopscotch.models.cascade import Cascade
from hopscotch.plain import shown
from hopscotch.recommend import before
from hopscotch.registry import OF_A_STAGE
from hopscotch.report.collect import gather
from hopscotch.report.run_folder import BEST, Kept
from hopscotch.report.summary import Best, finish
from hopscotch.restore import Restored, restore
from hopscotch.run import claim, draw_pages, refuse_taken
from hopscotch.training.checkpoint import keep_budgets, read_checkpoint

NAME = "cascade"


def join(runs: Sequence[Path], out: Path, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Path:
    """Join runs, choose temperatures and thresholds on validation clips, test, and return the folder `out`.

    Clips, task and budget are those of the dearest run; `overrides` change its keys, such as data.root=F.

    Raises:
        ValueError: If a run cannot be restored, or the runs differ in task or classes, or decide themselves.
    """
    started = time.time()
    refuse_taken(out)
    restored = {run: restore(run, trust=trust) for run in dict.fromkeys(runs)}
    refuse_others(restored)
    ordered = sorted(restored, key=lambda run: cost_of_a_second(restored[run]))
    loaded = load(ordered[-1], overrides, trust=trust)
    model = Cascade(name=NAME, stages=[restored[run].model for run in ordered])
    cfg = joined_config(loaded.cfg, [restored[run].cfg for run in ordered], out)
    with contextlib.ExitStack() as held:
        claim(out, cfg, [f"model={NAME}", f"model.stages=[{','.join(run.name for run in ordered)}]", *overrides], held)
        cores = [core_seconds_of(run) for run in ordered]
        return test(LoadedRun(cfg, build_task(cfg, model, loaded.data), loaded.data), out, started, cores)


def cost_of_a_second(one: Restored) -> int:
    """Count the multiply-accumulates of a model for a clip of a second."""
    return one.model.cost(one.cfg.data.sample_rate).dearest


def refuse_others(restored: dict[Path, Restored]) -> None:
    """Refuse runs that are not of one task and the same classes."""
    (first, one), *others = restored.items()
    if not others:
        raise ValueError(f"cascade needs two different runs, or more, got {shown(first)} alone.")
    for run, other in others:
        if one.cfg.task._target_ != other.cfg.task._target_ or one.classes != other.classes:
            told = [f"{each.cfg.task._target_} of {shown(some(each.classes))}" for each in (one, other)]
            raise ValueError(
                "cascade needs runs of one task and the same classes in one order, got "
                f"{told[0]} in {shown(first)}, {told[1]} in {shown(run)}."
            )


def joined_config(cfg: DictConfig, stages: Sequence[DictConfig], out: Path) -> DictConfig:
    """Make the configuration of a cascade of that of its dearest run and of those of all its models."""
    config = plain_config(cfg)
    own = [{key: plain_config(stage)[key] for key in OF_A_STAGE} for stage in stages]
    config["model"] |= {"name": NAME, "stages": own}
    config |= {"run_dir": str(out), "init_from": None, "ckpt_path": None}
    config["compute"] |= {"teacher": None}
    return OmegaConf.create(config)


def test(loaded: LoadedRun, out: Path, started: float, cores: Sequence[float | None]) -> Path:
    """Fit the exits on validation clips, keep a checkpoint, and write the report of a test.

    `cores` are the core-seconds of training of each stage, as far as they are known.
    """
    cfg, task, data = loaded
    trainer = tester(cfg, out)
    trainer.validate(task, datamodule=data, verbose=False)
    path = out / BEST
    trainer.save_checkpoint(path, weights_only=True)
    task.to(trainer.strategy.root_device)
    if table := task.measure_budgets():
        keep_budgets(path, table)
    fitted = time.time()
    checkpoint = read_checkpoint(path)
    trainer.test(task, datamodule=data, verbose=False)
    tested = gather(task.steps["test"])
    times = time_test(task, data, trainer)
    finish(
        out,
        trainer,
        task,
        tested,
        Best(path, Kept(0, 0, None, None), checkpoint.get("validation", {})),
        in_training=None,
        early=False,
        explain=partial(draw_pages, out, task, data, {}),
        status="finished",
        model=NAME,
        seed=cfg.seed,
        started=datetime.fromtimestamp(started).astimezone().isoformat(timespec="seconds"),
        seconds={
            "fit": fitted - started,
            "stage_cores": list(cores),
            "fit_cores": None if None in cores else sum(each for each in cores if each is not None),
            "test_clip": times.own,
            "test_clip_dense": times.dense,
            "total": time.time() - started,
        },
        **class_facts(tested, data),
        **before(task, out),
    )
    return out
