"""Start a new model from a trained one: weights by name, its front end, and a new head where classes differ.

A trained one is a run of ours, or an encoder as people download it (training/backbone.py).

A checkpoint may come from a stranger: weights are read as evaluation reads them, the configuration beside them as plain
data, and nothing in it is built. What the trained model has not is new, and where it can it begins by choosing what a
dense model does: new policies go on from layer to layer, new gates of strides choose 1, new token gates open.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hopscotch.config.backbone import KEY as BACKBONE
from hopscotch.data.clips import some
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.layers.stride import StrideGate
from hopscotch.models.audio_model import AudioModel, OutputHead
from hopscotch.models.names import common_names, whole_parts
from hopscotch.plain import nodes, read_config, shown
from hopscotch.report.run_folder import BEST, CONFIG
from hopscotch.restore import OF_THE_MODEL, restore
from hopscotch.training.backbone import read_backbone
from hopscotch.training.calibration import MAX_BIAS
from hopscotch.training.checkpoint import read_checkpoint, take_weights
from hopscotch.training.teacher import Teacher
from hopscotch.whisper_mel import WhisperMel

KEY, TEACHER = "init_from", "compute.teacher"
SETTINGS = (
    "frontend.",
    "model.heads",
    "model.stem_stride",
    "model.stem_channels",
    "model.positions",
    "model.backbone",
)  # that no shape of a weight tells
OF_THE_HEAD = "model.pooling"


class Start(NamedTuple):
    """Say what a model has started from."""

    path: Path  # of the checkpoint
    epoch: int | None  # that it was kept after, from 0; None where it does not say
    loaded: int  # tensors
    new: list[str]  # parts that the trained model has not
    left: list[str]  # parts of the trained model that this one has not
    key: str = KEY  # that named it

    def __str__(self) -> str:
        kept = "" if self.epoch is None else f", epoch {self.epoch + 1}"
        new, left = some(self.new) or "none", some(self.left) or "none"
        return f"{self.key}: {shown(self.path)}{kept}: loaded {self.loaded} tensors, new: {new}, left: {left}"

    def facts(self) -> dict[str, Any]:
        """Return what the summary of a run says of it."""
        return self._asdict() | {"path": str(self.path)}


def start_from(given: Path, model: AudioModel, classes: Sequence[str], config: Mapping[str, Any]) -> Start:
    """Give a new model the weights of the best checkpoint of a run, or of a checkpoint file.

    `config` is the configuration of the new model, its values resolved.

    Raises:
        ValueError: If names, shapes or settings of the two do not fit, with those that differ.
    """
    path = given / BEST if given.is_dir() else given
    checkpoint = read_checkpoint(path, KEY)
    has_same_classes = checkpoint.get("classes") == list(classes)
    _refuse_other_settings(path, config, (*SETTINGS, OF_THE_HEAD) if has_same_classes else SETTINGS)
    state = checkpoint["state_dict"].items()
    theirs = {name.removeprefix(OF_THE_MODEL): tensor for name, tensor in state if name.startswith(OF_THE_MODEL)}
    epoch = checkpoint.get("epoch")
    start = _start(path, model, theirs, KEY, with_head=has_same_classes)
    return start._replace(epoch=epoch if isinstance(epoch, int) else None)


def start_from_backbone(path: Path, model: AudioModel) -> Start:
    """Give a new model the weights of a trained encoder; where it has fewer layers, the first ones.

    Raises:
        ValueError: If names or shapes of the two do not fit, or the front end is another.
    """
    if not isinstance(model.frontend, WhisperMel):
        raise ValueError(f"frontend must be whisper with {BACKBONE}, as its weights know no other.")
    theirs, own = read_backbone(path), set(common_names(model.state_dict()).values())
    is_cut = any(name not in own for name in theirs if name.startswith("encoder."))
    if is_cut:  # the last norm is for the last layer
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("head.")}
    return _start(path, model, theirs, BACKBONE, with_head=True)


def teacher_of(run: Path, data: AudioDataModule, weight: float) -> Teacher:
    """Restore a trained model that teaches; nothing in its run is built but known classes.

    Raises:
        ValueError: If it speaks of other classes, or hears clips of another sample rate.
    """
    restored = restore(run)
    if restored.classes != list(data.classes):
        raise ValueError(
            f"{TEACHER} must know the classes of the data in their order, {shown(some(data.classes))}, got "
            f"{shown(run)}, which knows {shown(some(restored.classes))}."
        )
    if (rate := restored.cfg.data.sample_rate) != data.sample_rate:
        raise ValueError(
            f"{TEACHER} must have been trained at data.sample_rate={data.sample_rate}, got {shown(run)}, of {rate} Hz."
        )
    return Teacher(restored.model, weight)


def _start(path: Path, model: AudioModel, theirs: Mapping[str, Tensor], key: str, *, with_head: bool) -> Start:
    named = {name: part for part, name in common_names(theirs).items()}
    own = model.state_dict()
    common = common_names(own)
    heads = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, OutputHead))
    wanted = [name for name in own if with_head or not name.startswith(heads)]
    loaded = {name: theirs[named[common[name]]] for name in wanted if common[name] in named}
    used = {named[common[name]] for name in loaded}
    new = whole_parts([name for name in own if name not in loaded], loaded)
    left = whole_parts([name for name in theirs if name not in used], used)
    rule = "a model of the same parts and widths"
    needed = "encoder." if any(name.startswith("encoder.") for name in own) else "stem."  # of model.depth=0
    if not any(name.startswith(needed) for name in loaded):
        raise ValueError(
            f"{key} must be {rule}, got {shown(path)}: it lacks all of {some(new)}, and has {shown(some(left))}."
        )
    take_weights(model, own | loaded, path, key, rule)
    decides_anew = any(name.startswith("encoder.") for name in new)
    if decides_anew or model.decision_bias >= math.sinh(MAX_BIAS) / 2:  # of a model in which nothing is skipped
        model.decision_bias.zero_()
    for name, part in model.named_modules():
        if isinstance(part, StrideGate) and f"{name}.net.0.weight" not in loaded:
            part.prefer_every_key()
    return Start(path, None, len(loaded), new, left, key)


def _refuse_other_settings(path: Path, config: Mapping[str, Any], settings: tuple[str, ...]) -> None:
    """Refuse a model whose weights fit in shape but meant something else; without its configuration nobody can tell."""
    is_of_a_run = path.parent.name == BEST.parent.name and (path.parents[1] / CONFIG).is_file()
    file = path.parents[1] / CONFIG
    was = dict(nodes(read_config(file))) if is_of_a_run else {}
    for key, value in nodes(dict(config)):
        if key.startswith(settings) and key in was and was[key] != value:
            raise ValueError(
                f"{key} must be that of the model that {KEY} names, {shown(was[key])} in {shown(file)}, got {value}."
            )
