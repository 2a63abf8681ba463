"""Write checkpoints whole or not at all, each with its SHA-256, and tell whether one is still what was written.

A checkpoint is staged beside its target, handed to the disk and renamed. `<name>.ckpt.sha256`, as `sha256sum -c` reads
it, is removed before the checkpoint gets its name and written after: a kill in between leaves a whole checkpoint
without a hash, never one with that of another. Of what has no hash the sums within the zip file are compared.

Nothing here imports Lightning, which takes longer to load than a prediction takes to make.
"""

import copy
import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from hopscotch.files import DiskError, disk_error
from hopscotch.plain import shown

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # the state before the last one is kept, too
MAX_HASH_FILE = 4096  # bytes
MAX_STRETCHED = 2**24  # elements of a tensor that repeats what is stored
TRAINED = ("state_dict", "current_model_state", "optimizer_states")  # parts of a checkpoint that must be finite


def snapshot(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint into the memory of the CPU, so that training may go on while the copy is written."""
    copies = {id(tensor): tensor.detach().to("cpu", copy=True) for _, tensor in _tensors(checkpoint, "")}
    return copy.deepcopy(checkpoint, copies)


def content_of(checkpoint: Mapping[str, Any]) -> memoryview:
    """Serialise a checkpoint as torch does."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    return content.getbuffer()


def copy_whole(path: Path, to: Path) -> None:
    """Copy a checkpoint."""
    write_whole(memoryview(path.read_bytes()), to)


def write_whole(content: memoryview, path: Path) -> None:
    """Write a checkpoint and its hash; an earlier `last.ckpt` becomes `previous.ckpt`.

    Raises:
        DiskError: If the disk does not take it, with the file and its size; what was there before still is.
    """
    previous = path.with_name(PREVIOUS) if path.name == LAST and path.exists() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _stage(content, path)
        _stage_hash(hashlib.sha256(content).hexdigest(), path)
        if previous is not None:
            _stage_hash(_hash_of(path), previous)
            _name(path, previous)
        _name(_staging(path), path)
    except OSError as error:
        for target in (path, hash_file(path), hash_file(path.with_name(PREVIOUS))):
            with suppress(OSError):
                _staging(target).unlink(missing_ok=True)
        raise DiskError(f"{disk_error(path, len(content), error)} What was kept before is still there.") from error
    _sync(path.parent)


def _name(path: Path, to: Path) -> None:
    """Give a checkpoint its name, and then the hash that is staged for it: never does one have that of another."""
    for one in (to, path):
        hash_file(one).unlink(missing_ok=True)
    os.replace(path, to)
    os.replace(_staging(hash_file(to)), hash_file(to))


def hash_file(path: Path) -> Path:
    """Name the file that has the hash of a checkpoint."""
    return path.with_name(f"{path.name}.sha256")


def is_as_written(path: Path) -> bool | None:
    """Tell whether a checkpoint has the hash that stands beside it; None where there is none."""
    if not (wanted := _hash_of(path)):
        return None
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == wanted


def _hash_of(path: Path) -> str:
    """Read what stands beside a checkpoint; empty where nothing does."""
    with suppress(OSError), hash_file(path).open("rb") as file:
        return next(iter(file.read(MAX_HASH_FILE).decode(errors="replace").split()), "")
    return ""


def not_finite(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Name weights and states of the optimizer that are not finite, or larger by far than what is stored of them."""
    for part in TRAINED:
        parts = [(name, tensor) for name, tensor in _tensors(checkpoint.get(part), "") if tensor.is_floating_point()]
        if not _are_finite(*(tensor for _, tensor in parts)):  # in one call: there are hundreds
            yield from (shown(f"{part} {name}") for name, tensor in parts if not _are_finite(tensor))


def _are_finite(*tensors: Tensor) -> bool:
    filled = [tensor for tensor in tensors if tensor.numel() > 0]
    stretched = any(each.numel() > max(MAX_STRETCHED, each.untyped_storage().nbytes()) for each in filled)
    return not stretched and bool(get_total_norm(filled, math.inf).isfinite())


def _tensors(node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _tensors(child, f"{name}.{key}" if name else str(key))


def _staging(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _stage(content: memoryview | bytes, path: Path) -> None:
    with _staging(path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _stage_hash(digest: str, path: Path) -> None:
    """Stage the hash of a checkpoint; an empty file where it has none."""
    _stage(f"{digest}  {path.name}\n".encode() if digest else b"", hash_file(path))


def _sync(folder: Path) -> None:
    """Hand the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
