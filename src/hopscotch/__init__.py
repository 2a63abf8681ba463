"""Train audio models that learn what to skip, and see what they skipped."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopscotch.layers.adapter import MiniHyperConnection
    from hopscotch.layers.attention import SkipAttention
    from hopscotch.layers.block import BlockSpec, TransformerBlock
    from hopscotch.layers.gate import Gate
    from hopscotch.layers.jump import SkipLayer
    from hopscotch.layers.stride import LearnedSkip
    from hopscotch.models.audio_model import AudioModel
    from hopscotch.models.encoder import Encoder
    from hopscotch.predict import Predictor, load
    from hopscotch.training.task import AudioTask
    from hopscotch.types import AudioBatch, Decisions, ModelOutput, SkipTrace

__version__ = "0.1.0"

_HOMES = {  # public name -> its module, which is imported when the name is first read
    "AudioBatch": "types",
    "AudioModel": "models.audio_model",
    "AudioTask": "training.task",
    "BlockSpec": "layers.block",
    "Decisions": "types",
    "Encoder": "models.encoder",
    "Gate": "layers.gate",
    "LearnedSkip": "layers.stride",
    "MiniHyperConnection": "layers.adapter",
    "ModelOutput": "types",
    "Predictor": "predict",
    "SkipAttention": "layers.attention",
    "SkipLayer": "layers.jump",
    "SkipTrace": "types",
    "TransformerBlock": "layers.block",
    "load": "predict",
}

__all__ = [  # spelt out for type checkers; a test holds it to `_HOMES`
    "AudioBatch",
    "AudioModel",
    "AudioTask",
    "BlockSpec",
    "Decisions",
    "Encoder",
    "Gate",
    "LearnedSkip",
    "MiniHyperConnection",
    "ModelOutput",
    "Predictor",
    "SkipAttention",
    "SkipLayer",
    "SkipTrace",
    "TransformerBlock",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hopscotch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hopscotch.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
