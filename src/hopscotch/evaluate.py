"""A finished run, loaded again: its data, and the model that its test judged."""

from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.build import build_data, build_model, build_task
from hopscotch.config import register
from hopscotch.config_check import check
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.report.budgets import print_budgets, write_budgets
from hopscotch.tasks.base import AudioTask
from hopscotch.tasks.budget_curve import BudgetPoint, budget_curve

CHECKPOINT = Path("checkpoints") / "best.ckpt"


class Loaded(NamedTuple):
    cfg: DictConfig
    task: AudioTask  # in evaluation mode
    data: AudioDataModule


def load(run: Path, overrides: list[str]) -> Loaded:
    """`overrides` change single keys of the run's own configuration: data.root=F, compute.budget=[0.8,1.0]."""
    for needed in ("config.yaml", CHECKPOINT):
        if not (run / needed).is_file():
            raise ValueError(f"run must be the folder of a run that kept a checkpoint, got {run}: no {needed} there.")
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    as_trained = cfg.copy()
    OmegaConf.set_struct(cfg, True)
    for override in overrides:
        key, equals, _ = override.partition("=")
        try:
            if not equals:
                raise ValueError
            cfg.merge_with_dotlist([override])
        except (OmegaConfBaseException, ValueError):
            raise ValueError(
                f"An override must be key=value with a key of {run / 'config.yaml'}, got {key!r}."
            ) from None
    register()
    cfg.run_dir = "${run_dir:}"  # as it was typed: the rules know no other
    check(cfg, as_trained)
    if missing := OmegaConf.missing_keys(cfg):
        keys = ", ".join(sorted(missing))
        raise ValueError(f"{run / 'config.yaml'} must have every key of this version of Hopscotch, it lacks {keys}.")
    data = build_data(cfg)
    data.setup()
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    checkpoint = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    task.load_state_dict(checkpoint["state_dict"])
    return Loaded(cfg, task.eval(), data)


def evaluate_budgets(run: Path, overrides: list[str]) -> list[BudgetPoint]:
    """Print the curve of compute.budget, and leave it in the run's report folder."""
    cfg, task, data = load(run, overrides)
    budgets = cfg.compute.budget
    if budgets is None:
        raise ValueError("compute.budget must name a fraction or a list of them, such as compute.budget=[0.8,0.9,1.0].")
    if not task.model.decides:
        raise ValueError(f"compute.budget must go to a model that decides something, got {task.model.name}.")
    listed = [float(budget) for budget in ([budgets] if isinstance(budgets, int | float) else budgets)]
    points = budget_curve(task.model, task.calibration_batches(data), list(data.test_dataloader()), listed)
    write_budgets(points, run / "report")
    print_budgets(points)
    return points
