"""Name the parts of a model alike, however its encoder nests them, so that one model can start from another.

encoder.blocks.0.ffn.0.weight                    of a stack; the others are named after it
encoder.block.layers.0.ffn.0.weight              of a jump block
encoder.attention.blocks.0.ffn.0.weight          behind a jump block
encoder.encoder.blocks.0.ffn.0.weight            behind a token gate
encoder.blocks.0.attention.attention.query...    of a layer whose stride is chosen: encoder.blocks.0.attention.query
stem_layers.0.ffn.0.weight                       of the stem: it is the first layer, and those of the encoder follow
"""

import difflib
import re
from collections.abc import Iterable
from itertools import accumulate

from torch import nn

LAYERS = re.compile(r"^encoder\.(?:block\.layers|attention\.blocks)(?=\.|$)")
LAYER = re.compile(r"^(?:stem_layers|encoder\.(?:\w+\.)*?(?:layers|blocks))\.\d+(?=\.|$)")
BLOCK = re.compile(r"^encoder\.blocks\.(\d+)")
OF_STEM = re.compile(r"^stem_layers\.(\d+)")


def common(name: str, stem_layers: int = 0) -> str:
    """Return the name that a part, parameter or buffer has in every model; its own has so many layers in the stem."""
    name = re.sub(r"^encoder\.encoder(?=\.|$)", "encoder", name)
    name = LAYERS.sub("encoder.blocks", name).replace(".attention.attention.", ".attention.")
    name = BLOCK.sub(lambda found: f"encoder.blocks.{int(found[1]) + stem_layers}", name)
    return OF_STEM.sub(r"encoder.blocks.\1", name)


def common_names(names: Iterable[str]) -> dict[str, str]:
    """Map the names of a model's parts to the common ones."""
    own = list(names)
    stem_layers = len({found[1] for name in own if (found := OF_STEM.match(name))})
    return {name: common(name, stem_layers) for name in own}


def layer_of(name: str) -> str | None:
    """Return the layer that a parameter belongs to; None for stem, head, and what decides for all layers."""
    found = LAYER.match(name)
    return None if found is None else found[0]


def whole_parts(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Name the largest parts that hold some of `names` and none of `others`."""
    shared = {part for name in others for part in _prefixes(name)}
    return list(dict.fromkeys(next(part for part in _prefixes(name) if part not in shared) for name in names))


def _prefixes(name: str) -> list[str]:
    return list(accumulate(name.split("."), "{}.{}".format))


def find_parts(model: nn.Module, names: Iterable[str], key: str) -> list[nn.Module]:
    """Find the parts of a model that have parameters, by their own names or by the common ones.

    Raises:
        ValueError: Names the first that is not there with `key`, where it was given, and the nearest one.
    """
    own = {name: part for name, part in model.named_modules() if name and next(part.parameters(), None) is not None}
    known = {name: own[part] for part, name in common_names(own).items()} | own
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or [part for part in known if "." not in part]
            raise ValueError(
                f"{key} must name parts of the model that have weights, got {name}. Did you mean {' or '.join(close)}?"
            )
    return [known[name] for name in names]
