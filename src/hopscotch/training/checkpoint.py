"""Read a checkpoint and give its weights to a module, or say in one message why that cannot be.

A checkpoint may come from a stranger, and is read as torch_file.py says.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hopscotch.data.clips import some
from hopscotch.plain import as_written, shown
from hopscotch.torch_file import is_tensors, read_torch
from hopscotch.training.calibration import Budget, is_table
from hopscotch.training.whole import content_of, hash_file, is_as_written, not_finite, write_whole

LISTS, MAPS = ("optimizer_states", "lr_schedulers"), ("loops", "callbacks")
NEEDED = ("epoch", "global_step", "pytorch-lightning_version", *MAPS, *LISTS)
BUDGETS = "budgets"  # rows of a bias and its fraction, of a checkpoint that a run has ended with
MAX_CLASSES = 100_000
MAX_CLASS_NAME = 1_000  # characters


def load_weights(task: nn.Module, path: Path, key: str = "ckpt") -> None:
    """Load every parameter and buffer from a file that Lightning's ModelCheckpoint wrote."""
    take_weights(task, read_checkpoint(path, key)["state_dict"], path, key)


def take_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    key: str = "ckpt",
    rule: str = "a checkpoint of the run's own model",
) -> None:
    """Give a module its weights; an error names `path`, where they came from, its `key` and the rule that it broke."""
    own = module.state_dict()
    faults = []
    if missing := [name for name in own if name not in weights]:
        faults.append(f"it lacks {some(missing)}")
    if unknown := [shown(name) for name in weights if name not in own]:
        faults.append(f"it has {some(unknown)}, which the model has not")
    both = [name for name in own if name in weights]
    if shapes := [
        f"{name} ({tuple(weights[name].shape)} there, {tuple(own[name].shape)} in the model)"
        for name in both
        if weights[name].shape != own[name].shape
    ]:
        faults.append(f"it differs in the shape of {some(shapes)}")
    elif types := [name for name in both if weights[name].is_floating_point() != own[name].is_floating_point()]:
        faults.append(f"it differs in the kind of numbers of {some(types)}")
    elif wrong := [name for name in both if not torch.isfinite(weights[name]).all()]:
        faults.append(f"it has numbers that are not finite in {some(wrong)}")
    if faults:
        raise ValueError(f"{key} must be {rule}, got {shown(path)}: {'; '.join(faults)}.")
    module.load_state_dict(weights)


def read_checkpoint(path: Path, key: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint of Lightning's ModelCheckpoint, and check that all parts that are used are well-formed.

    The tensors are mapped from the file: those that are never looked at, such as the optimizer's, take no memory.
    """
    if not path.is_file():
        raise ValueError(f"{key} must be a checkpoint file, got {shown(path)}, which is not there.")
    has_hash = is_as_written(path)
    if has_hash is False:
        raise ValueError(
            f"{key} must be a checkpoint as it was written, got {shown(path)}: it was changed or cut, for its SHA-256 "
            f"is not that of {hash_file(path).name}."
        )
    checkpoint = read_torch(path, reads_all=not has_hash)
    if not isinstance(checkpoint, dict) or not is_tensors(checkpoint.get("state_dict")):
        raise ValueError(f"{key} must be a checkpoint that train.py wrote, got {shown(path)}, which is none.")
    if "classes" in checkpoint:
        check_classes(checkpoint["classes"], f"{key}={shown(path)}")
    if "clip_seconds" in checkpoint:
        check_seconds(checkpoint["clip_seconds"], f"{key}={shown(path)}")
    if BUDGETS in checkpoint and not is_table(checkpoint[BUDGETS]):
        raise ValueError(f"{key} must have rising biases and fractions as {BUDGETS}, {shown(path)} has not.")
    return checkpoint


def keep_budgets(path: Path, table: Sequence[Budget]) -> None:
    """Add a table of budgets to a checkpoint."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    write_whole(content_of({**checkpoint, BUDGETS: [list(row) for row in table]}), path)


def check_resumable(checkpoint: Mapping[str, Any], path: Path, key: str = "ckpt_path") -> None:
    """Refuse weights without the state of a training run, and a state that is not finite."""
    missing = [name for name in NEEDED if name not in checkpoint]
    maps = [name for name in MAPS if not isinstance(checkpoint.get(name, {}), dict)]
    if "callbacks" not in missing + maps:
        maps += [str(name) for name, state in checkpoint["callbacks"].items() if not isinstance(state, dict)]
    lists = [name for name in LISTS if not isinstance(checkpoint.get(name, []), list)]
    if wrong := missing + maps + lists:
        raise ValueError(
            f"{key} must be a checkpoint that training can go on from, got {shown(path)}: it lacks "
            f"{some([shown(name) for name in wrong])}."
        )
    with as_written(path):
        poisoned = list(not_finite(checkpoint))
    if poisoned:
        raise ValueError(
            f"{key} must be a checkpoint of finite numbers, got {shown(path)}: it has others in {some(poisoned)}."
        )


def check_classes(classes: Any, where: str) -> list[str]:
    """Refuse what is no list of names, each of them once."""
    if not isinstance(classes, list) or not 0 < len(classes) <= MAX_CLASSES:
        raise ValueError(f"{where} must have a list of 1 to {MAX_CLASSES} names as classes, it has none.")
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_CLASS_NAME for name in classes):
        raise ValueError(
            f"{where} must have texts of 1 to {MAX_CLASS_NAME} characters as names of classes, it has not."
        )
    if len(set(classes)) < len(classes):
        twice = next(name for number, name in enumerate(classes) if name in classes[:number])
        raise ValueError(f"{where} must name each class once, it has {shown(twice)} twice.")
    return classes


def check_seconds(value: Any, where: str) -> tuple[float, float]:
    """Return mean and longest seconds of clips, or refuse what is none."""
    found: list[Any] = [value.get(name) for name in ("mean", "longest")] if isinstance(value, dict) else [None]
    if not all(map(_is_positive, found)):
        raise ValueError(f"{where} must have a mean and a longest of clip_seconds above 0, it has not.")
    return found[0], found[1]


def _is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < math.inf
