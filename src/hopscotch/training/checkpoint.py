"""Read a checkpoint and give its weights to a module, or say in one message why that cannot be."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hopscotch.data.clips import some


def load_weights(task: nn.Module, path: Path, key: str = "ckpt") -> None:
    """Every parameter and buffer, from a file that Lightning's ModelCheckpoint wrote."""
    take_weights(task, read_checkpoint(path, key)["state_dict"], path, key)


def take_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path, key: str = "ckpt") -> None:
    """`path` is where they came from, and `key` what named it, for the message."""
    own = module.state_dict()
    faults = []
    if missing := [name for name in own if name not in weights]:
        faults.append(f"it lacks {some(missing)}")
    if unknown := [name for name in weights if name not in own]:
        faults.append(f"it has {some(unknown)}, which the model has not")
    shapes = [
        f"{name} ({tuple(weights[name].shape)} there, {tuple(own[name].shape)} in the model)"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if shapes:
        faults.append(f"it differs in the shape of {some(shapes)}")
    if faults:
        raise ValueError(f"{key} must be a checkpoint of the run's own model, got {path}: {'; '.join(faults)}.")
    module.load_state_dict(weights)


def read_checkpoint(path: Path, key: str = "ckpt") -> dict[str, Any]:
    """What Lightning's ModelCheckpoint wrote; there is a `state_dict` in it."""
    if not path.is_file():
        raise ValueError(f"{key} must be a checkpoint file, got {path}, which is not there.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError):
        checkpoint = None
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{key} must be a checkpoint that train.py wrote, got {path}, which is none.")
    return checkpoint
