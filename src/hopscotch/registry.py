"""Say which classes a stored configuration may name, and how large its arguments may be.

What is typed, or stands in one's own conf/, may name anything that can be imported. What comes with a run's folder is
data: at each place one of a few classes by exact name, checked before anything is called, with arguments of a bounded
size. Nothing is built of the callbacks and loggers that a run was trained with, so that they are not looked at.

A model with a class of your own: `trust=<module>` on the command line allows the classes of that module for one call.
"""

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hopscotch.plain import joined, nodes

SOURCE_KEYS = ("data", "data.clips", "data.background")  # where a data source may stand: some are made of two others


class Place(NamedTuple):
    """Say what may stand at a key: these classes, and subclasses of `base` in modules that are trusted."""

    base: str
    own: tuple[str, ...] = ()  # `base` itself if there are none
    may_be_null: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return self.own or (self.base,)


SOURCES = (
    "hopscotch.data.esc50.Esc50",
    "hopscotch.data.folder.Folder",
    "hopscotch.data.fsdd.Fsdd",
    "hopscotch.data.hugging_face.HuggingFace",
    "hopscotch.data.manifest.Manifest",
    "hopscotch.data.noise.Noise",
    "hopscotch.data.speech_commands.SpeechCommands",
    "hopscotch.data.synthetic.source.SyntheticScenes",
    "hopscotch.data.synthetic.source.SyntheticWords",
    "hopscotch.data.table.Table",
    "hopscotch.data.words20.Words20",
)
OF_EVENTS = ("hopscotch.data.event_files.EventFiles", "hopscotch.data.streams.Streams")
ENCODERS = (
    "hopscotch.models.jumps.JumpAttention",
    "hopscotch.models.jumps.JumpStack",
    "hopscotch.models.stack.Stack",
    "hopscotch.models.strides.LearnedStack",
)
TASKS = (
    "hopscotch.training.classify.ClassificationTask",
    "hopscotch.training.detect.DetectionTask",
    "hopscotch.training.regress.RegressionTask",
    "hopscotch.training.tag.TaggingTask",
)
FRONTENDS = ("hopscotch.frontend.LogMel", "hopscotch.whisper_mel.WhisperMel")
OPTIMIZERS = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.NAdam", "torch.optim.RAdam", "torch.optim.SGD")
SCHEDULERS = (
    "hopscotch.training.schedules.Constant",
    "hopscotch.training.schedules.Cosine",
    "hopscotch.training.schedules.Linear",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.optim.lr_scheduler.OneCycleLR",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torch.optim.lr_scheduler.StepLR",
)
PLACES = {
    "data": Place("hopscotch.data.datamodule.AudioDataModule", SOURCES + OF_EVENTS),
    "data.clips": Place("hopscotch.data.datamodule.AudioDataModule", SOURCES, may_be_null=True),
    "data.background": Place("hopscotch.data.datamodule.AudioDataModule", SOURCES, may_be_null=True),
    "augment.waveform": Place("hopscotch.data.augment.WaveformAugment", may_be_null=True),
    "augment.spectrogram": Place("hopscotch.data.augment.SpecAugment", may_be_null=True),
    "frontend": Place("hopscotch.frontend.LogMel", FRONTENDS),
    "model": Place("hopscotch.models.audio_model.AudioModel"),
    "model.encoder": Place("hopscotch.models.encoder.Encoder", ENCODERS),
    "model.encoder.block": Place("hopscotch.layers.block.BlockSpec", may_be_null=True),
    "task": Place("hopscotch.training.task.AudioTask", TASKS),
    "optimizer": Place("torch.optim.Optimizer", OPTIMIZERS),
    "scheduler": Place("torch.optim.lr_scheduler.LRScheduler", SCHEDULERS),
    "trainer": Place("lightning.pytorch.Trainer"),
}
MAPS = (*(key for key, place in PLACES.items() if not place.may_be_null), "augment", "compute", "gate")
OF_A_STAGE = ("frontend", "gate", "model")  # what a model of a cascade has of its own
NEVER_BUILT = ("callbacks", "logger")  # again, once the run is trained
OURS = {
    **{key: {"cache_dir": None, "fetch": False} for key in SOURCE_KEYS},
    "augment": {"noise": None, "impulse_responses": None},
}

# The largest number under keys, wherever they stand. A number under another key is at most MAX_NUMBER in magnitude.
KEYS_BY_LIMIT: dict[float, str] = {
    10: "hop_seconds window_seconds",
    64: "expansion ffn_ratio hidden_ratio stem_stride",
    100: "after before context longest",
    256: "attention_depth depth num_workers",
    1_000: "folds num_mel_masks num_time_masks",
    1_023: "convolution_width width",
    1_024: "cache_gib disk_cache_gib heads num_heads num_mels",
    600: "distractors_per_minute events_per_minute",
    3_600: "scene_seconds seconds segment_seconds silence_seconds",
    4_096: "channels first max_stride num_keys",
    8_192: "dim plain_dim token_dim",
    65_536: "batch_size",
    768_000: "sample_rate",
    1_000_000: "num_test num_train num_val",
}
LIMITS = {key: limit for limit, keys in KEYS_BY_LIMIT.items() for key in keys.split()}
LEAST = {"hop_seconds": 0.0005, "sample_rate": 1_000, "segment_seconds": 1.0}
MAX_NUMBER = 1e12
MAX_WINDOW = 2**16  # samples of the front end's window
MAX_ITEMS = 10_000  # of a list or map
MAX_STAGES = 8  # of a cascade
MAX_TEXT = 4_096  # characters


def stages_of(config: Mapping[str, Any], file: object) -> list[dict[str, Any]]:
    """List the configurations of the models that a cascade asks, each as that of a run; none of any other model."""
    stages = _at(config, "model.stages")
    if stages is None:
        return []
    if not isinstance(stages, list) or not 2 <= len(stages) <= MAX_STAGES:
        raise ValueError(f"{file} must have null or 2 to {MAX_STAGES} models as model.stages, it has not.")
    for stage in stages:
        keys = set(stage) if isinstance(stage, Mapping) else set()
        if keys != set(OF_A_STAGE) or not all(isinstance(part, Mapping) for part in stage.values()):
            raise ValueError(f"{file} must have maps of {', '.join(OF_A_STAGE)} as model.stages, it has not.")
        if stage["model"].get("stages") is not None:
            raise ValueError(f"{file} must have no cascade within model.stages, it has.")
    return [{**config, **stage} for stage in stages]


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
    if _at(config, "task.optimizer") is not None:
        raise ValueError(f"{file} was written by an older version of Hopscotch: task.optimizer is now optimizer.")
    for key in MAPS:
        if not isinstance(_at(config, key), Mapping):
            raise ValueError(f"{file} must have a map at {key}, as every run writes it.")
    for stage in (stages := stages_of(config, file)):
        check_stored(stage, file, trust)
    if stages:
        config = {**config, "model": {**config["model"], "stages": None}}
    for path, node in nodes(config):
        _check_bounds(node, path, file)
    frontend = config["frontend"]
    sizes = [frontend.get(key) for key in ("window_seconds", "sample_rate")]
    if all(isinstance(size, int | float) for size in sizes) and math.prod(sizes) > MAX_WINDOW:
        raise ValueError(f"frontend.window_seconds in {file} must come to at most {MAX_WINDOW} samples.")
    maps = ((path, node) for path, node in nodes(config) if isinstance(node, Mapping))
    found = {path: node for path, node in maps if path.partition(".")[0] not in NEVER_BUILT}
    for path, node in found.items():
        if specials := [key for key in node if key.startswith("_") and key.endswith("_") and key != "_target_"]:
            raise ValueError(
                f"{file} must have no {specials[0]!r} at {path}: a stored configuration names classes alone."
            )
        if "_target_" in node and (path not in PLACES or node["_target_"] not in PLACES[path].names):
            class_at(path, node["_target_"], file, trust)  # only a module that is trusted is imported to find out
    for path, place in PLACES.items():
        if not (place.may_be_null and _at(config, path) is None) and "_target_" not in found.get(path, {}):
            raise ValueError(f"{file} must name a class at {path}._target_, it does not.")


def without_cache(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Drop folders of whoever trained the run that only training needs, as clips are kept in our own; fetch nothing."""
    own = OURS.get(path, {})
    return {
        key: own[key] if key in own else without_cache(node, joined(path, key)) if isinstance(node, Mapping) else node
        for key, node in config.items()
    }


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
    base = None if place is None else _resolve(place.base, ())
    if place is not None and not (base is not None and issubclass(named, base)):
        raise ValueError(f"{given}, which must be a subclass of {place.base}, and is none.")
    return named


def make(node: Any, path: str, file: object, trust: Sequence[str] = ()) -> Any:
    """Make what a node of a stored configuration describes: every class in it is one that may stand at its place."""
    if isinstance(node, list):
        return [make(child, joined(path, number), file, trust) for number, child in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    values = {key: make(child, joined(path, key), file, trust) for key, child in node.items() if key != "_target_"}
    return class_at(path, node["_target_"], file, trust)(**values) if "_target_" in node else values


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


def _check_bounds(node: Any, path: str, file: object) -> None:
    if isinstance(node, Mapping | list):
        if len(node) > MAX_ITEMS:
            raise ValueError(f"{file} must have at most {MAX_ITEMS} items at {path}, it has {len(node)}.")
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
