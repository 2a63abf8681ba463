"""Build the encoder of Whisper (Radford et al. 2022) of parts of ours, so that any model can take its weights.

    mel -> GELU(convolution) -> GELU(convolution of stride 2) + positions -> transformer blocks -> norm

Its blocks are those of models/stack.py without a convolution, its norm is that of the head. Padding is masked: the
first T positions serve a clip of T, which needs no filling up to 30 s. Its keys have no bias; ours have one that
changes no attention, as it adds the same to all scores of a query.

Names are those of Hugging Face; those of OpenAI's files are translated to them.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hopscotch.compute import convolution_macs
from hopscotch.layers.block import over_time
from hopscotch.models.stem import Positioned, Stem, strided
from hopscotch.types import Lengths, valid_mask

KERNEL = 3  # frames
POSITIONS = 1500  # 30 s of 20 ms
LONGEST_WAVELENGTH = 10_000.0  # of the positions
OPENAI = {  # its names to those of Hugging Face
    r"^encoder\.positional_embedding$": "encoder.embed_positions.weight",
    r"^encoder\.ln_post\.": "encoder.layer_norm.",
    r"^encoder\.blocks\.": "encoder.layers.",
    r"\.attn_ln\.": ".self_attn_layer_norm.",
    r"\.mlp_ln\.": ".final_layer_norm.",
    r"\.mlp\.0\.": ".fc1.",
    r"\.mlp\.2\.": ".fc2.",
    r"\.attn\.(q|k|v)(?:uery|ey|alue)\.": r".self_attn.\1_proj.",
    r"\.attn\.out\.": ".self_attn.out_proj.",
}
WHOLE = {  # names of Hugging Face to the common ones of models/names.py
    "conv1.weight": "stem.convolutions.0.weight",
    "conv1.bias": "stem.convolutions.0.bias",
    "conv2.weight": "stem.convolutions.1.weight",
    "conv2.bias": "stem.convolutions.1.bias",
    "embed_positions.weight": "stem.table",
    "layer_norm.weight": "head.norm.weight",
    "layer_norm.bias": "head.norm.bias",
}
OF_A_LAYER = {
    "self_attn.q_proj": "attention.query",
    "self_attn.out_proj": "attention.output",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "ffn_norm",
    "fc1": "ffn.0",
    "fc2": "ffn.2",
}
LAYER = re.compile(r"layers\.\d+(?=\.)")
KEY, VALUE = "self_attn.k_proj", "self_attn.v_proj"  # one layer of ours


class WhisperStem(Stem):
    """Convolve over time, twice, and add positions."""

    table: Tensor

    def __init__(self, num_mels: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.strides, self.widths = (1, 2), (num_mels, dim)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, dim, KERNEL) for width in self.widths)  # weights alone
        self.dropout = nn.Dropout(dropout)
        half = -(-dim // 2)
        rates = torch.exp(torch.arange(half) * (-math.log(LONGEST_WAVELENGTH) / max(1, half - 1)))
        angles = torch.arange(POSITIONS)[:, None] * rates
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim])

    def step(self, number: int, x: Tensor, frames: Lengths) -> tuple[Tensor, Lengths]:
        convolution, stride = self.convolutions[number], self.strides[number]
        assert isinstance(convolution, nn.Conv1d)
        frames = strided(frames, stride)
        x = nn.functional.gelu(over_time(x, convolution.weight[:, :, None], convolution.bias, stride=stride))
        return x * valid_mask(frames, x.shape[1])[:, :, None], frames

    def end(self, x: Tensor) -> Positioned:
        if x.shape[1] > POSITIONS:
            raise ValueError(
                f"model.backbone=whisper has positions for 30 s, {POSITIONS} of them, got a clip of {x.shape[1]}: "
                "data.max_seconds=30 cuts longer ones."
            )
        return self.dropout(x + self.table[: x.shape[1]])

    def width(self, number: int) -> int:
        return self.widths[-1]

    def macs_each(self) -> list[int]:
        return [convolution_macs(1, width, self.widths[-1], KERNEL) for width in self.widths]


def common_weights(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of an encoder, named as Hugging Face does below `encoder.`, the common names."""
    found = {ours: theirs[name] for name, ours in WHOLE.items() if name in theirs}
    layers = {match[0] for name in theirs if (match := LAYER.match(name))}
    for own in layers:
        ours = own.replace("layers", "encoder.blocks")
        for name, part in OF_A_LAYER.items():
            for kind in ("weight", "bias"):
                if f"{own}.{name}.{kind}" in theirs:
                    found[f"{ours}.{part}.{kind}"] = theirs[f"{own}.{name}.{kind}"]
        key, value, bias = (
            theirs.get(f"{own}.{name}") for name in (f"{KEY}.weight", f"{VALUE}.weight", f"{VALUE}.bias")
        )
        if key is not None and value is not None:
            found[f"{ours}.attention.key_value.weight"] = torch.cat([key, value])
        if bias is not None:
            found[f"{ours}.attention.key_value.bias"] = torch.cat([torch.zeros_like(bias), bias])
    return found


def hugging_face_name(name: str) -> str:
    """Translate a name of OpenAI's files."""
    for pattern, other in OPENAI.items():
        name = re.sub(pattern, other, name)
    return name
