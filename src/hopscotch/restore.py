"""Restore a trained model from its run's folder, without the data that it was trained on.

config.yaml            how to build it
checkpoints/best.ckpt  weights; the names of its classes and how long clips were (training/classify.py puts them there)
summary.json           the same of a run whose checkpoint is older than that
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch import plain
from hopscotch.build import build_data, build_model, make
from hopscotch.config.check import check_trained
from hopscotch.config.compose import register
from hopscotch.data.clips import some
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.models.audio_model import AudioModel
from hopscotch.registry import check_stored, is_registered, without_cache
from hopscotch.report.run_folder import BEST, SUMMARY, RunFolder, config_of
from hopscotch.training.checkpoint import check_classes, read_checkpoint, take_weights

OF_THE_MODEL = "model."  # how the task calls its model's weights
SMALLEST_WEIGHT = 2  # bytes


class Restored(NamedTuple):
    cfg: DictConfig
    model: AudioModel  # in evaluation mode, on the CPU
    classes: list[str]
    mean_seconds: float | None  # of a training clip; None where neither checkpoint nor summary tells
    longest_seconds: float | None  # of all clips of the run's data


def restore(run: Path, ckpt: Path | None = None, trust: Sequence[str] = ()) -> Restored:
    """Load the model of a run's best checkpoint, or of another one of the same configuration.

    A run may come from a stranger: classes other than ours are refused, but for those of the modules in `trust`.
    """
    cfg = read_config(run, trust)
    path = checkpoint_of(run, ckpt)
    checkpoint = read_checkpoint(path)
    classes = checkpoint.get("classes") or trained_classes(run)
    if not classes:
        raise ValueError(
            f"{path} must hold the names of its classes, or {run / SUMMARY} as data.classes; neither does. "
            "A checkpoint of an older version has none: let its run come to its end."
        )
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix(OF_THE_MODEL): value for name, value in state if name.startswith(OF_THE_MODEL)}
    outputs = weights.get("head.linear.bias")
    if outputs is not None and (outputs.ndim != 1 or len(outputs) != len(classes)):
        names = plain.shown(some(classes))
        raise ValueError(f"{path} must have a name for each of its {outputs.numel()} classes, got {names}.")
    check_size(cfg, len(classes), path)
    uncompiled = cfg.copy()  # clips of every length come, and there may be no compiler
    uncompiled.trainer.compile = False
    with plain.as_written(run):
        model = build_model(uncompiled, len(classes))
    take_weights(model, weights, path)
    return Restored(cfg, model.eval(), list(classes), *_clip_seconds(checkpoint, run))


def check_size(cfg: DictConfig, num_classes: int, path: Path) -> None:
    """Refuse a model larger than its checkpoint, before it takes any memory: a configuration may claim any size."""
    most = path.stat().st_size // SMALLEST_WEIGHT
    needed = int(cfg.model.dim) * max(int(cfg.model.dim), num_classes)  # of the stem, and of the head
    if is_registered(str(cfg.model.encoder._target_)):
        with plain.as_written(path.parent), torch.device("meta"):
            encoder = make(cfg.model.encoder)
        needed = max(needed, sum(parameter.numel() for parameter in encoder.parameters()))
    if needed > most:
        raise ValueError(
            f"ckpt must be a checkpoint of the run's own model, got {path}: the model has {needed:,} weights or more, "
            f"the file cannot hold more than {most:,}."
        )


def checkpoint_of(run: Path, ckpt: Path | None) -> Path:
    """Return the path of `ckpt`, or of the run's best checkpoint."""
    if ckpt is None and not (run / BEST).is_file():
        raise ValueError(
            f"run must be the folder of a run that kept a checkpoint, got {run}: no {BEST} there yet; "
            "it is written after the first validation. ckpt=<file> takes another one."
        )
    return ckpt or run / BEST


def stored_config(run: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration of a run as plain data; every class in it is a known one."""
    path = config_of(run)
    config = plain.read_config(path)
    check_stored(config, plain.shown(path), trust)
    return OmegaConf.create(without_cache(config))


def build_stored_data(cfg: DictConfig, file: Path, trust: Sequence[str] = ()) -> AudioDataModule:
    """Build the data source of a stored configuration, if its classes are known."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    check_stored({str(key): value for key, value in config.items()}, plain.shown(file), trust)
    with plain.as_written(file):
        return build_data(cfg)


def read_config(run: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration of a run and hold it to every rule."""
    cfg = stored_config(run, trust)
    hold_to_rules(cfg, cfg.copy(), config_of(run))
    return cfg


def hold_to_rules(cfg: DictConfig, as_trained: DictConfig, file: Path) -> None:
    """Check a configuration of a run by the rules for one that is typed."""
    register()
    try:
        with plain.as_written(file):
            check_trained(cfg, as_trained, file)
    except OmegaConfBaseException as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{file} must be as a run of this version writes it: {plain.sentence(error)}") from None


def trained_classes(run: Path) -> list[str] | None:
    """Read the classes from the run's summary, in the order of the outputs; None where it does not have them."""
    known = RunFolder(run).data.get("classes")
    return None if known is None else check_classes(known, plain.shown(run / SUMMARY))


def _clip_seconds(checkpoint: dict[str, Any], run: Path) -> tuple[float | None, float | None]:
    """Return mean and longest seconds; what an older run left knows the longest of its test clips alone."""
    if "clip_seconds" in checkpoint:
        return checkpoint["clip_seconds"]["mean"], checkpoint["clip_seconds"]["longest"]
    folder = RunFolder(run)
    with plain.as_written(run):
        data = folder.data
        mean = data["seconds"]["train"] / data["clips"]["train"] if "seconds" in data else None
        return mean, max((row.seconds for row in folder.clips), default=None)
