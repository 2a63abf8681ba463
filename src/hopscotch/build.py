"""Make objects from a configuration: the one place that follows a `_target_`.

A `_target_` may name anything that can be imported, because the user typed it or wrote it into a configuration folder.
`hopscotch.restore` passes the configuration of a run folder through `hopscotch.registry.check_stored` first.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, ListConfig

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.layers.block import DepthwiseConvolution
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.encoder import Encoder
from hopscotch.models.token_gate import GatedEncoder
from hopscotch.training.calibration import resolve_target
from hopscotch.training.task import AudioTask


def make(node: DictConfig, **more: Any) -> Any:
    """Make the object that `node._target_` names with the node's keys and `more`; nested nodes are made first."""
    return maker(node)(**more)


def maker(node: DictConfig) -> Callable[..., Any]:
    """Return the callable that `make` calls with `more`, which Hydra would copy if it passed through Hydra."""
    for path in _targets(node):
        _refuse_absent(path)
    try:
        return instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:  # of a nested node: its own error says more
        raise error.__cause__ or error from None


def _targets(node: Any) -> list[str]:
    if isinstance(node, ListConfig):
        return [path for child in node for path in _targets(child)]
    if not isinstance(node, DictConfig):
        return []
    own = [str(node["_target_"])] if "_target_" in node else []
    return own + [path for key in node for path in _targets(node[key])]


def _refuse_absent(path: str) -> None:
    try:
        found = get_object(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_ must name what can be imported; {path} is not there: {error}") from error
    if not callable(found):
        raise ValueError(f"_target_ must name a class or function, got {path}, which is none.")


def refuse_absent(cfg: DictConfig) -> None:
    """Refuse a `_target_` anywhere in the configuration that cannot be imported, before anything is built."""
    for path in _targets(cfg):
        _refuse_absent(path)


def build_data(cfg: DictConfig) -> AudioDataModule:
    waveform = None if cfg.augment.waveform is None else make(cfg.augment.waveform)
    data = make(cfg.data, seed=cfg.seed, augment=waveform)
    assert isinstance(data, AudioDataModule)
    return data


def build_model(cfg: DictConfig, num_classes: int) -> AudioModel:
    """Build the model with the head of its task. Weights are drawn from the global generator: seed it first."""
    head = partial(
        task_of(cfg).make_head, num_outputs=num_classes, pooling=cfg.model.pooling, dropout=cfg.model.dropout
    )
    encoder = make_encoder(cfg)
    if cfg.trainer.compile:
        compile_static_parts(encoder, cfg.model.name)
    own = {key: cfg.model[key] for key in ("name", "dim", "dropout", "stem_stride", "positions")}
    with named("model"):
        return AudioModel(
            frontend=make(cfg.frontend),
            spectrogram_augment=None if cfg.augment.spectrogram is None else make(cfg.augment.spectrogram),
            encoder=encoder,
            head=head,
            **own,
        )


def make_encoder(cfg: DictConfig) -> Encoder:
    """Build the encoder, with a token gate in front if `model.open_rate` is given."""
    with named("model.encoder"):
        encoder = make(cfg.model.encoder)
    assert isinstance(encoder, Encoder)
    if cfg.model.positions == "none" and not any(isinstance(part, DepthwiseConvolution) for part in encoder.modules()):
        raise ValueError(
            "model.positions=none needs layers that convolve (model.convolution_width > 0, and no adapters), got "
            f"model={cfg.model.name}, convolution_width={cfg.model.convolution_width}: nothing would encode the order "
            "of sounds."
        )
    if cfg.model.open_rate is None:
        return encoder
    keys = ("num_keys", "hidden_ratio", "rule", "rate_floor", "rate_ceiling", "detach")
    gate = {key: cfg.gate[key] for key in keys} | {"open_rate": cfg.model.open_rate}
    with named("model.open_rate"):
        return GatedEncoder(encoder, cfg.model.dim, gate=gate)


@contextlib.contextmanager
def named(group: str) -> Iterator[None]:
    """Prefix a layer's error about its own arguments with the group of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{group}: {error}") from error


def task_of(cfg: DictConfig) -> type[AudioTask]:
    """Return the class of the task, checked."""
    _refuse_absent(cfg.task._target_)
    kind = get_object(cfg.task._target_)
    if not (isinstance(kind, type) and issubclass(kind, AudioTask)):
        raise ValueError(f"task._target_ must be a subclass of AudioTask, got {cfg.task._target_}.")
    return kind


def compile_static_parts(encoder: Encoder, name: str) -> None:
    """Have static parts compiled at their first call; the names of weights, and so checkpoints, do not change."""
    parts = encoder.static_parts()
    if not parts:
        raise ValueError(
            f"trainer.compile must be false for model={name}: its encoder names no part that computes the same "
            "for every clip (Encoder.static_parts)."
        )
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ValueError(f"trainer.compile=true needs a C++ compiler on the CPU, and {compiler!r} is not found.")
    for part in parts:
        part.compile(dynamic=True)  # batches differ in length, and visits in clips


def build_task(cfg: DictConfig, model: AudioModel, data: AudioDataModule) -> AudioTask:
    if cfg.compute.dense_weight > 0 and not model.decides:
        rank_zero_warn(
            f"compute.dense_weight={cfg.compute.dense_weight} has no effect: {model.name} makes no decisions."
        )
    samples = data.mean_samples()
    target = resolve_target(cfg.compute.target, model, samples, cfg.compute.level)
    cost = model.cost(round(samples))
    if target is not None and target > (most := cost.trained / cost.dense):
        rank_zero_warn(
            f"compute.target={target:.3f} is more than the {most:.3f} that "
            f"model.open_rate={cfg.model.open_rate} leaves of the dense compute: tests will keep more tokens than "
            "training does at its end. Lower the target, or raise model.open_rate."
        )
    rest = DictConfig({key: value for key, value in cfg.task.items() if key != "optimizer"})
    return make(
        rest,
        model=model,
        optimizer=maker(cfg.task.optimizer),
        classes=data.classes,
        seed=cfg.seed,
        target=target,
        budget_weight=cfg.compute.weight,
        budget_warmup=cfg.compute.warmup,
        entropy_weight=cfg.compute.entropy_weight,
        dense_weight=cfg.compute.dense_weight,
    )


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    callbacks: list[Callback] = [make(node) for node in _nodes(cfg.callbacks)]
    if cfg.trainer.enable_progress_bar:
        return callbacks
    return [callback for callback in callbacks if not isinstance(callback, ProgressBar)]  # Lightning would refuse both


def build_loggers(cfg: DictConfig) -> list[Logger]:
    return [make(node) for node in _nodes(cfg.logger)]


def _nodes(group: Mapping[str, Any]) -> list[DictConfig]:
    return [node for node in group.values() if node is not None]


def build_trainer(cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={cfg.trainer.accelerator} needs a CUDA device, and torch {torch.__version__} finds "
            "none: use trainer=cpu, or trainer=default, which uses what is available."
        )
    _refuse_conflicts(cfg)
    return make_trainer(cfg.trainer, callbacks=callbacks, logger=loggers or False, default_root_dir=cfg.run_dir)


def _refuse_conflicts(cfg: DictConfig) -> None:
    """Refuse keys that are valid alone but not together."""
    trainer, fused = cfg.trainer, cfg.task.optimizer.get("fused")
    if trainer.precision == "16-mixed" and trainer.gradient_clip_val and fused:
        raise ValueError(
            "task.optimizer.fused must be false under trainer.precision=16-mixed with trainer.gradient_clip_val, got "
            "true: it steps on gradients that are still scaled. bf16-mixed scales none."
        )
    every, step = trainer.val_check_interval, trainer.accumulate_grad_batches
    if isinstance(every, int) and every % step:
        raise ValueError(
            f"trainer.val_check_interval must be a multiple of trainer.accumulate_grad_batches, {step}, got {every}: "
            "a checkpoint in the middle of a step forgets its first batches."
        )


def make_trainer(node: DictConfig, **more: Any) -> Trainer:
    """Make Lightning's Trainer from the keys of `trainer` except `compile`, which concerns the model."""
    return make(DictConfig({key: value for key, value in node.items() if key != "compile"}), **more)
