"""Say which classes a stored configuration may name, and how large its arguments may be.

What is typed, or stands in one's own conf/, may name anything that can be imported. What comes with a run's folder is
data: at each place one of a few classes by exact name, checked before anything is called, with arguments of a bounded
size. Nothing is built of the callbacks and loggers that a run was trained with, so that they are not looked at.

A model with a class of your own: `trust=<module>` on the command line allows the classes of that module for one call.
"""

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Say what may stand at a key: these classes, and subclasses of `base` in modules that are trusted."""

    base: str
    names: tuple[str, ...]
    may_be_null: bool = False


PLACES = {
    "data": Place(
        "hopscotch.data.datamodule.AudioDataModule",
        (
            "hopscotch.data.folder.Folder",
            "hopscotch.data.fsdd.Fsdd",
            "hopscotch.data.synthetic.source.SyntheticScenes",
            "hopscotch.data.synthetic.source.SyntheticWords",
        ),
    ),
    "augment.waveform": Place(
        "hopscotch.data.augment.WaveformAugment", ("hopscotch.data.augment.WaveformAugment",), may_be_null=True
    ),
    "augment.spectrogram": Place(
        "hopscotch.data.augment.SpecAugment", ("hopscotch.data.augment.SpecAugment",), may_be_null=True
    ),
    "frontend": Place("hopscotch.frontend.LogMel", ("hopscotch.frontend.LogMel",)),
    "model": Place("hopscotch.models.audio_model.AudioModel", ("hopscotch.models.audio_model.AudioModel",)),
    "model.encoder": Place(
        "hopscotch.models.encoder.Encoder",
        (
            "hopscotch.models.jumps.JumpAttention",
            "hopscotch.models.jumps.JumpStack",
            "hopscotch.models.stack.Stack",
            "hopscotch.models.strides.LearnedStack",
        ),
    ),
    "model.encoder.block": Place(
        "hopscotch.layers.block.BlockSpec", ("hopscotch.layers.block.BlockSpec",), may_be_null=True
    ),
    "task": Place("hopscotch.training.task.AudioTask", ("hopscotch.training.classify.ClassificationTask",)),
    "task.optimizer": Place("torch.optim.Optimizer", ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")),
    "trainer": Place("lightning.pytorch.Trainer", ("lightning.pytorch.Trainer",)),
}
MAPS = (*(key for key, place in PLACES.items() if not place.may_be_null), "augment", "compute", "gate")
NEVER_BUILT = ("callbacks", "logger")  # again, once the run is trained

# The largest number under a key, wherever it stands. A number under another key is at most MAX_NUMBER in magnitude.
LIMITS: dict[str, float] = {
    "attention_depth": 256,
    "batch_size": 65_536,
    "cache_gib": 1_024,
    "convolution_width": 1_023,
    "depth": 256,
    "dim": 8_192,
    "expansion": 64,
    "ffn_ratio": 64,
    "first": 4_096,
    "heads": 1_024,
    "hidden_ratio": 64,
    "hop_seconds": 10,
    "max_stride": 4_096,
    "num_heads": 1_024,
    "num_keys": 4_096,
    "num_mel_masks": 1_000,
    "num_mels": 1_024,
    "num_test": 1_000_000,
    "num_time_masks": 1_000,
    "num_train": 1_000_000,
    "num_val": 1_000_000,
    "num_workers": 256,
    "plain_dim": 8_192,
    "sample_rate": 768_000,
    "scene_seconds": 3_600,
    "silence_seconds": 3_600,
    "stem_stride": 64,
    "token_dim": 8_192,
    "window_seconds": 10,
}
LEAST = {"hop_seconds": 0.0005, "sample_rate": 1_000}
MAX_NUMBER = 1e12
MAX_WINDOW = 2**16  # samples of the front end's window
MAX_ITEMS = 10_000  # of a list or map
MAX_TEXT = 4_096  # characters


def trusted(words: Sequence[str]) -> list[str]:
    """List the modules of trust=<module>,<module> among the words typed; it may be given more than once."""
    given = [word.removeprefix("trust=") for word in words if word.startswith("trust=")]
    modules = [name for names in given for name in names.split(",")]
    if wrong := [name for name in modules if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(f"trust must be the name of a module, or several parted by commas, got {wrong[0]!r}.")
    return modules


def check_stored(config: Mapping[str, Any], file: object, trust: Sequence[str] = ()) -> None:
    """Refuse a configuration out of a run's folder that names what it must not, or has arguments out of bounds.

    `config` is plain data, `file` where it came from, `trust` the modules whose classes are allowed besides ours.
    """
    for key in MAPS:
        if not isinstance(_at(config, key), Mapping):
            raise ValueError(f"{file} must have a map at {key}, as every run writes it.")
    _check_bounds(config, "", file)
    frontend = config["frontend"]
    sizes = [frontend.get(key) for key in ("window_seconds", "sample_rate")]
    if all(isinstance(size, int | float) for size in sizes) and math.prod(sizes) > MAX_WINDOW:
        raise ValueError(f"frontend.window_seconds in {file} must come to at most {MAX_WINDOW} samples.")
    found = {path: node for path, node in _nodes(config, "") if path.partition(".")[0] not in NEVER_BUILT}
    for path, node in found.items():
        if specials := [key for key in node if key.startswith("_") and key.endswith("_") and key != "_target_"]:
            raise ValueError(
                f"{file} must have no {specials[0]!r} at {path}: a stored configuration names classes alone."
            )
        if "_target_" in node:
            class_at(path, node["_target_"], file, trust)
    for path, place in PLACES.items():
        if not (place.may_be_null and _at(config, path) is None) and "_target_" not in found.get(path, {}):
            raise ValueError(f"{file} must name a class at {path}._target_, it does not.")


def without_cache(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drop data.cache_dir, a folder of whoever trained the run: clips are kept in our own."""
    data = config.get("data")
    if not (isinstance(data, Mapping) and "cache_dir" in data):
        return dict(config)
    return {**config, "data": {**data, "cache_dir": None}}


def class_at(path: str, target: Any, file: object, trust: Sequence[str] = ()) -> type:
    """Find the class that `target` names and check that it fits at `path`; nothing is called."""
    place = PLACES.get(path)
    given = f"{file} names {str(target)[:200]} at {path}._target_"
    is_trusted = any(str(target).startswith(f"{module}.") for module in trust)
    if not (is_trusted or (place is not None and target in place.names)):
        allowed = f"{', '.join(place.names)} are allowed there" if place is not None else "no class is allowed there"
        raise ValueError(
            f"{given}, and what comes with a run is not called unless it is known: {allowed}. "
            "trust=<module> allows the classes of a module of your own, if you know what it does."
        )
    named = _resolve(str(target), trust if is_trusted else ())
    if named is None:
        raise ValueError(f"{given}, which must be a class that is defined where it is named, and is none.")
    if place is not None and not issubclass(named, _known(place.base)):
        raise ValueError(f"{given}, which must be a subclass of {place.base}, and is none.")
    return named


def is_registered(target: str) -> bool:
    return any(target in place.names for place in PLACES.values())


def _resolve(target: str, trust: Sequence[str]) -> type | None:
    """Find a class by name; in a trusted module it must be defined, not imported."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"trust={','.join(trust)} must name a module that can be imported: {error}.") from None
    if not inspect.isclass(found):
        return None
    is_at_home = not trust or any(f"{found.__module__}.".startswith(f"{own}.") for own in trust)
    return found if is_at_home else None


def _known(path: str) -> type:
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert inspect.isclass(found)
    return found


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every map below a node with the path of its keys."""
    if isinstance(node, Mapping):
        yield path, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _nodes(child, _join(path, key))


def _check_bounds(node: Any, path: str, file: object) -> None:
    if isinstance(node, Mapping | list):
        if len(node) > MAX_ITEMS:
            raise ValueError(f"{file} must have at most {MAX_ITEMS} items at {path}, it has {len(node)}.")
        for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            _check_bounds(child, _join(path, key), file)
    elif isinstance(node, str):
        if len(node) > MAX_TEXT:
            raise ValueError(f"{file} must have at most {MAX_TEXT} characters at {path}, it has {len(node)}.")
    elif isinstance(node, int | float):
        key = path.rpartition(".")[2]
        least, most = LEAST.get(key, -MAX_NUMBER), LIMITS.get(key, MAX_NUMBER)
        if node < least:
            raise ValueError(f"{path} in {file} must be at least {least:g} in a run that is loaded, got {node:g}.")
        if not (math.isfinite(node) and abs(node) <= most):
            raise ValueError(f"{path} in {file} must be at most {most:g} in a run that is loaded, got {node:g}.")


def _at(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
