"""Read a file that torch wrote, and nothing but tensors in lists and maps out of it. Only reading loads torch.

It may come from a stranger. It is a zip file of tensors and of one pickle that says how they belong together: before
anything is loaded the zip must not be larger than the file is, and the pickle must name nothing but tensors.
"""

import os
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE = 2**24  # bytes; a model of 100 tensors with its optimizer has 65,000
MAX_STEPS, STEPS_OF_A_TENSOR = 100_000, 100  # of the pickle: reading 600,000 steps takes seconds; a tensor has about 30
TYPES = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
PICKLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {name}Storage" for name in TYPES),
}


def read_torch(path: Path, *, reads_all: bool = True) -> Any:
    """Return what the file holds, its tensors mapped from it; None if it is no such file.

    Tensors that are never looked at, such as an optimizer's, take no memory. `reads_all` holds every part to its sum.
    """
    import torch

    try:
        _check_zip(path, reads_all=reads_all)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever comes of bytes that nobody checked; MemoryError: a size that somebody made up
        return None


def is_tensors(value: Any) -> TypeGuard[Mapping[str, "Tensor"]]:
    """Tell whether this is a map of names to tensors that lie in memory as usual."""
    import torch

    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
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
