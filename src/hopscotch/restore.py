"""A trained model out of its run's folder, without the data that it was trained on.

config.yaml            how to build it
checkpoints/best.ckpt  weights; the names of its classes and how long clips were (tasks/classify.py puts them there)
summary.json           the same of a run whose checkpoint is older than that
"""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.build import build_model
from hopscotch.config.check import check_trained
from hopscotch.config.compose import register
from hopscotch.models.audio_model import AudioModel
from hopscotch.report.run_folder import BEST, SUMMARY, RunFolder, config_of
from hopscotch.training.checkpoint import read_checkpoint, take_weights

OF_THE_MODEL = "model."  # how the task calls its model's weights


class Restored(NamedTuple):
    cfg: DictConfig
    model: AudioModel  # in evaluation mode, on the CPU
    classes: list[str]
    mean_seconds: float | None  # of a training clip; None where neither checkpoint nor summary tells
    longest_seconds: float | None  # of all clips of the run's data


def restore(run: Path, ckpt: Path | None = None) -> Restored:
    """The model of the run's best checkpoint, or of another one of the same configuration."""
    cfg = read_config(run)
    path = checkpoint_of(run, ckpt)
    checkpoint = read_checkpoint(path)
    classes = checkpoint.get("classes") or RunFolder(run).data.get("classes")
    if not classes:
        raise ValueError(
            f"{path} must hold the names of its classes, or {run / SUMMARY} as data.classes; neither does. "
            "A checkpoint of an older version has none: let its run come to its end."
        )
    model = build_model(_for_prediction(cfg), len(classes))
    weights = {
        name.removeprefix(OF_THE_MODEL): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(OF_THE_MODEL)
    }
    outputs = weights.get("head.linear.bias")
    if outputs is not None and len(outputs) != len(classes):
        raise ValueError(f"{path} must have a name for each of its {len(outputs)} classes, got {', '.join(classes)}.")
    take_weights(model, weights, path)
    return Restored(cfg, model.eval(), list(classes), *_clip_seconds(checkpoint, run))


def checkpoint_of(run: Path, ckpt: Path | None) -> Path:
    """The best checkpoint of a run, or the one that was asked for."""
    if ckpt is None and not (run / BEST).is_file():
        raise ValueError(
            f"run must be the folder of a run that kept a checkpoint, got {run}: no {BEST} there yet; "
            "it is written after the first validation. ckpt=<file> takes another one."
        )
    return ckpt or run / BEST


def read_config(run: Path) -> DictConfig:
    """What the run was made of, every rule kept."""
    path = config_of(run)
    try:
        cfg = OmegaConf.load(path)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    assert isinstance(cfg, DictConfig)
    as_trained = cfg.copy()
    register()
    check_trained(cfg, as_trained, path)
    return cfg


def _for_prediction(cfg: DictConfig) -> DictConfig:
    """The same model, not compiled: clips of every length come, and a compiler may not be there."""
    plain = cfg.copy()
    plain.trainer.compile = False
    return plain


def _clip_seconds(checkpoint: dict[str, Any], run: Path) -> tuple[float | None, float | None]:
    """Mean of the training clips, and longest of all; what an older run left knows the longest of the test clips."""
    if "clip_seconds" in checkpoint:
        return checkpoint["clip_seconds"]["mean"], checkpoint["clip_seconds"]["longest"]
    folder = RunFolder(run)
    mean = folder.data["seconds"]["train"] / folder.data["clips"]["train"] if "seconds" in folder.data else None
    return mean, max((row.seconds for row in folder.clips), default=None)
