"""Join the parts of a model as its configuration says: the one place for those who train it and those who restore it.

Who makes the parts differs. `hopscotch.build` follows any `_target_` that a user typed, `hopscotch.restore` those few
classes that a stored configuration may name.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from hopscotch.frontend import LogMel
from hopscotch.layers.block import BlockSpec, DepthwiseConvolution, TransformerBlock
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel, OutputHead, Parts
from hopscotch.models.encoder import Encoder
from hopscotch.models.exits import EarlyExit
from hopscotch.models.slimmable import Slimmable
from hopscotch.models.stem import Conv2dStem, ConvStem, Stem
from hopscotch.models.token_gate import GatedEncoder
from hopscotch.models.whisper import WhisperStem

DENSE = "hopscotch.models.stack.Stack"  # the encoder that may have no layer
KINDS = ("stage", "exits", "widths")  # keys of model that name another kind than AudioModel


@contextlib.contextmanager
def named(group: str) -> Iterator[None]:
    """Prefix a layer's error about its own arguments with the group of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{group}: {error}") from error


def assemble(
    model: Mapping[str, Any],
    gate: Mapping[str, Any],
    *,
    make_encoder: Callable[..., Encoder],
    frontend: LogMel,
    spectrogram_augment: nn.Module | None,
    make_head: Callable[..., OutputHead],
    num_outputs: int,
) -> AudioModel:
    """Build the model; `model` and `gate` are groups of the configuration.

    Weights are drawn from the global generator, those of the encoder first: seed it before.
    """
    num_first, depth = model["stem_layers"], model["depth"]
    if depth == 0 and (model["encoder"]["_target_"] != DENSE or any(model[key] is not None for key in KINDS)):
        raise ValueError(f"model.depth must be at least 1 for model={model['name']}, got 0: only model=dense has none.")
    if num_first >= max(1, depth):
        raise ValueError(f"model.stem_layers must be below model.depth, {depth}, got {num_first}.")
    with named("model.encoder"):
        encoder = make_encoder(depth=depth - num_first) if num_first else make_encoder()
    assert isinstance(encoder, Encoder)
    encoder = behind_gate(encoder, model, gate)

    def head(dim: int) -> OutputHead:
        return make_head(dim, num_outputs, pooling=model["pooling"], dropout=model["dropout"])

    options = {key: value for key, value in model["encoder"]["block"].items() if key != "_target_"}
    layers = [TransformerBlock(BlockSpec(**options)) for _ in range(num_first)]
    parts: dict[str, Any] = {"frontend": frontend, "spectrogram_augment": spectrogram_augment, "stem_layers": layers}
    with named("model"):
        parts["stem"] = stem_of(model, frontend.num_mels)
        parts |= {"name": model["name"], "dim": model["dim"], "encoder": encoder, "head": head}
        slimmable = partial(Slimmable, make_parts=partial(narrow_parts, model, make_encoder, head, frontend.num_mels))
        kinds: dict[str, Callable[..., AudioModel]] = dict(zip(KINDS, (AlwaysOn, EarlyExit, slimmable), strict=True))
        given = [key for key in KINDS if model[key] is not None]
        if len(given) > 1:
            raise ValueError(f"one of {' and '.join(given)} must be null.")
        return kinds[given[0]](**model[given[0]], **parts) if given else AudioModel(**parts)


def narrow_parts(
    model: Mapping[str, Any],
    make_encoder: Callable[..., Encoder],
    head: Callable[[int], OutputHead],
    num_mels: int,
    share: float,
) -> Parts:
    """Make the parts of a model of a share of the width."""
    sizes = narrowed(model, share)
    options = {key: value for key, value in model["encoder"]["block"].items() if key != "_target_"}
    spec = BlockSpec(**{**options, "dim": sizes["dim"], "num_heads": sizes["heads"]})
    layers = [TransformerBlock(spec) for _ in range(model["stem_layers"])]
    encoder = make_encoder(block=spec, depth=model["depth"] - model["stem_layers"])
    return Parts(stem_of({**model, **sizes}, num_mels), layers, encoder, head(sizes["dim"]))


def narrowed(model: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the sizes of a model of a share of the width, by key; none of them is below 1."""

    def narrow(size: int) -> int:
        return max(1, round(share * size))

    heads = narrow(model["heads"])
    dim = heads * max(1, round(share * model["dim"] / heads))
    return {
        "heads": heads,
        "dim": dim,
        "stem_channels": model["stem_channels"] and list(map(narrow, model["stem_channels"])),
    }


def stem_of(model: Mapping[str, Any], num_mels: int) -> Stem:
    """Make the stem: that of a backbone, over time and mel if `model.stem_channels` are given, or over time."""
    if model["backbone"] is not None:
        for key, only in {"stem_channels": None, "stem_stride": 2, "positions": "sinusoidal"}.items():
            if model[key] != only:
                raise ValueError(f"{key} must be {only or 'null'} with model.backbone, got {model[key]}.")
        return WhisperStem(num_mels, model["dim"], dropout=model["dropout"])
    keys = {"stride": "stem_stride", "dropout": "dropout", "positions": "positions"}
    own = {argument: model[key] for argument, key in keys.items()}
    if model["stem_channels"] is None:
        return ConvStem(num_mels, model["dim"], **own)
    return Conv2dStem(num_mels, model["dim"], channels=model["stem_channels"], **own)


def behind_gate(encoder: Encoder, model: Mapping[str, Any], gate: Mapping[str, Any]) -> Encoder:
    """Put a token gate in front of the encoder if `model.open_rate` is given."""
    convolves = any(isinstance(part, DepthwiseConvolution) for part in encoder.modules())
    if model["positions"] == "none" and model["depth"] > 0 and not convolves:
        raise ValueError(
            "model.positions=none needs layers that convolve (model.convolution_width > 0, and no adapters), got "
            f"model={model['name']}, convolution_width={model['convolution_width']}: nothing would encode the order "
            "of sounds."
        )
    if model["open_rate"] is None:
        return encoder
    keys = ("num_keys", "hidden_ratio", "rule", "rate_floor", "rate_ceiling", "detach")
    own = {key: gate[key] for key in keys} | {"open_rate": model["open_rate"]}
    with named("model.open_rate"):
        return GatedEncoder(encoder, model["dim"], gate=own)
