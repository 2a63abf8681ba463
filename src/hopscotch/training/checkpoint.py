"""Read a checkpoint and give its weights to a module, or say in one message why that cannot be.

A checkpoint may come from a stranger. It is a zip file of tensors and of one pickle that says how they belong together:
before anything is loaded the zip must not be larger than the file is, and the pickle must name nothing but tensors.
"""

import math
import os
import pickletools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hopscotch.data.clips import some
from hopscotch.plain import as_written, shown
from hopscotch.training.calibration import Budget, is_table
from hopscotch.training.whole import content_of, hash_file, is_as_written, not_finite, write_whole

MAX_PICKLE = 2**24  # bytes; a model of 100 tensors with its optimizer has 65,000
MAX_STEPS, STEPS_OF_A_TENSOR = 100_000, 100  # of the pickle: reading 600,000 steps takes seconds; a tensor has about 30
LISTS, MAPS = ("optimizer_states", "lr_schedulers"), ("loops", "callbacks")
NEEDED = ("epoch", "global_step", "pytorch-lightning_version", *MAPS, *LISTS)
BUDGETS = "budgets"  # rows of a bias and its fraction, of a checkpoint that a run has ended with
MAX_CLASSES = 100_000
MAX_CLASS_NAME = 1_000  # characters
TYPES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
PICKLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {name}Storage" for name in TYPES),
}


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
    try:
        _check_zip(path, reads_all=not has_hash)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever comes of bytes that nobody checked; MemoryError: a size that somebody made up
        checkpoint = None
    if not isinstance(checkpoint, dict) or not _is_weights(checkpoint.get("state_dict")):
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


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout is torch.strided
        for name, tensor in value.items()
    )


def _check_zip(path: Path, *, reads_all: bool) -> None:
    """Refuse a file that takes more memory than it has bytes, names more than tensors, or breaks a sum of its parts."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed")
        if sum(member.file_size for member in members) > os.path.getsize(path):
            raise ValueError("larger than the file")
        if reads_all and file.testzip() is not None:
            raise ValueError("changed")
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            raise ValueError("not one pickle of a usual size")
        names = _names(file.read(pickles[0]), most=MAX_STEPS + STEPS_OF_A_TENSOR * len(members))
    if not set(names) <= PICKLED:
        raise ValueError("names what is no tensor")


def _names(content: bytes, most: int) -> Iterable[str]:
    """List the names that a pickle of at most so many steps imports, without loading it.

    torch writes names out, and takes none from the stack.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= most:
            raise ValueError("more steps than its tensors need")
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
            yield opcode.name
