"""Give a task the weights of a checkpoint, or say in one message why they do not fit."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from hopscotch.data.some import some


def load_weights(task: nn.Module, path: Path) -> None:
    """Every parameter and buffer, from a file that Lightning's ModelCheckpoint wrote."""
    weights = read_weights(path)
    own = task.state_dict()
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
        raise ValueError(f"ckpt must be a checkpoint of the run's own model, got {path}: {'; '.join(faults)}.")
    task.load_state_dict(weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"ckpt must be a checkpoint file, got {path}, which is not there.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError):
        raise ValueError(f"ckpt must be a checkpoint that train.py wrote, got {path}, which is none.") from None
