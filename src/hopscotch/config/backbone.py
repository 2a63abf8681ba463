"""Read the sizes of a trained encoder from its files, so that a configuration has them as those of its model.

Weights may come from a stranger: sizes are bounded, and such as the file can hold, before anything is built.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hopscotch.plain import read_json, shown
from hopscotch.registry import LIMITS
from hopscotch.torch_file import read_torch

KEY = "backbone.weights"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SMALLEST_WEIGHT = 1  # bytes
HUGGING_FACE = {
    "num_mels": "num_mel_bins",
    "dim": "d_model",
    "heads": "encoder_attention_heads",
    "depth": "encoder_layers",
    "ffn_dim": "encoder_ffn_dim",
}
OPENAI = {"num_mels": "n_mels", "dim": "n_audio_state", "heads": "n_audio_head", "depth": "n_audio_layer"}
FFN_RATIO = 4  # of OpenAI's models, which do not say


def backbone_size(path: str, name: str) -> int | float:
    """Return a size of the encoder whose weights lie at `path`: num_mels, dim, heads, depth or ffn_ratio.

    Raises:
        ValueError: If there are no such weights, or sizes that they cannot have.
    """
    return sizes(Path(path))[name]


def sizes(path: Path) -> dict[str, int | float]:
    """Return all sizes."""
    file = weights_file(path)
    if file.suffix == ".pt":
        content = read_torch(file)
        found = content.get("dims") if isinstance(content, dict) else None
        where, names = file, OPENAI
    else:
        where, names = path / CONFIG, HUGGING_FACE
        found = read_json(where)
        if found.get("model_type") != "whisper":
            raise ValueError(f"{KEY} must be those of Whisper, got {shown(where)} without model_type=whisper.")
    known: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    own = {name: known.get(theirs) for name, theirs in names.items()}
    for name, value in own.items():
        most = LIMITS.get(name, 8 * LIMITS["dim"])
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{names[name]} in {shown(where)} must be a whole number from 1 to {most:g}.")
    whole = {name: value for name, value in own.items() if isinstance(value, int)}
    ffn_dim = whole.pop("ffn_dim", FFN_RATIO * whole["dim"])
    least = whole["depth"] * whole["dim"] * (4 * whole["dim"] + 2 * ffn_dim)
    if SMALLEST_WEIGHT * least > file.stat().st_size:
        raise ValueError(
            f"{KEY} must have the sizes of its {shown(where)}, which come to {least:,} weights or more, and "
            f"{shown(file)} has {file.stat().st_size:,} bytes."
        )
    return {**whole, "ffn_ratio": ffn_dim / whole["dim"]}


def weights_file(path: Path) -> Path:
    """Return the file of the weights: OpenAI's, or the one in a folder of Hugging Face's."""
    if path.suffix == ".pt" and path.is_file():
        return path
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(
                f"{KEY} must be a folder of {CONFIG} and {WEIGHTS}, or a .pt file, got {shown(path)}, "
                f"which has no {name}."
            )
    return path / WEIGHTS
