"""Name the parts of a model alike, however its encoder nests them, so that one model can start from another.

encoder.blocks.0.ffn.0.weight                    of a stack; the others are named after it
encoder.block.layers.0.ffn.0.weight              of a jump block
encoder.attention.blocks.0.ffn.0.weight          behind a jump block
encoder.encoder.blocks.0.ffn.0.weight            behind a token gate
encoder.blocks.0.attention.attention.query...    of a layer whose stride is chosen: encoder.blocks.0.attention.query
"""

import difflib
import re
from collections.abc import Iterable
from itertools import accumulate

from torch import nn

LAYERS = re.compile(r"^encoder\.(?:block\.layers|attention\.blocks)(?=\.|$)")
LAYER = re.compile(r"^encoder\.(?:\w+\.)*?(?:layers|blocks)\.\d+(?=\.|$)")


def common(name: str) -> str:
    """Return the name of a part, parameter or buffer that it has in every model."""
    name = re.sub(r"^encoder\.encoder(?=\.|$)", "encoder", name)
    return LAYERS.sub("encoder.blocks", name).replace(".attention.attention.", ".attention.")


def layer_of(name: str) -> str | None:
    """Return the encoder layer that a parameter belongs to; None for stem, head, and what decides for all layers."""
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
    known = {common(name): part for name, part in own.items()} | own
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or [part for part in known if "." not in part]
            raise ValueError(
                f"{key} must name parts of the model that have weights, got {name}. Did you mean {' or '.join(close)}?"
            )
    return [known[name] for name in names]
