"""Read the weights of a trained encoder as people download them, by the names that a model of ours has for them.

They may come from a stranger: a safetensors file holds no code, its header is checked against its size, and of that
header first; an OpenAI file is read as torch_file.py says. What is read is checked against the model by `take_weights`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hopscotch.config.backbone import KEY, weights_file
from hopscotch.models.whisper import common_weights, hugging_face_name
from hopscotch.plain import shown
from hopscotch.torch_file import is_tensors, read_torch

FLOATS = ("F16", "BF16", "F32", "F64")
OF_THE_ENCODER = "encoder."


def read_backbone(path: Path) -> dict[str, Tensor]:
    """Return the encoder's tensors in single precision, by the common names of models/names.py.

    Raises:
        ValueError: If the file holds no encoder.
    """
    file = weights_file(path)
    found = _of_openai(file) if file.suffix == ".pt" else _of_hugging_face(file)
    weights = common_weights({name: tensor.float() for name, tensor in found.items()})
    if not any(name.startswith(OF_THE_ENCODER) for name in weights):
        raise ValueError(f"{KEY} must have the layers of an encoder, got {shown(file)}, which has none.")
    return weights


def _of_hugging_face(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            names = {
                inner.removeprefix(OF_THE_ENCODER): name
                for name in content.keys()  # noqa: SIM118 - it is no map
                if (inner := name.removeprefix("model.")).startswith(OF_THE_ENCODER)
            }
            for name in names.values():
                if (kind := content.get_slice(name).get_dtype()) not in FLOATS:
                    raise ValueError(f"{KEY} must be floats, got {shown(name)} of {kind} in {shown(file)}.")
            return {inner: content.get_tensor(name) for inner, name in names.items()}
    except (SafetensorError, OSError):
        raise ValueError(f"{KEY} must have a file of safetensors, got {shown(file)}, which is none.") from None


def _of_openai(file: Path) -> dict[str, Tensor]:
    content = read_torch(file)
    state = content.get("model_state_dict") if isinstance(content, Mapping) else None
    if not is_tensors(state):
        raise ValueError(f"{KEY} must be a checkpoint of OpenAI's Whisper, got {shown(file)}, which is none.")
    names = {name: hugging_face_name(name) for name in state}
    found = {
        inner.removeprefix(OF_THE_ENCODER): state[name]
        for name, inner in names.items()
        if inner.startswith(OF_THE_ENCODER)
    }
    if wrong := [name for name, tensor in found.items() if not torch.is_floating_point(tensor)]:
        raise ValueError(f"{KEY} must be floats, got {shown(wrong[0])} in {shown(file)}.")
    return found
