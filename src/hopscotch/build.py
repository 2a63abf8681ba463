"""Make objects from a configuration that was typed: the one place that follows any `_target_`.

A `_target_` may name anything that can be imported, because the user typed it or wrote it into a configuration folder.
The configuration of a run folder passes through `hopscotch.registry.check_stored` first.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from omegaconf import DictConfig, ListConfig, OmegaConf

from hopscotch.config.check import refuse_arguments
from hopscotch.config.errors import plain_config
from hopscotch.config.schema import ADDED, OF_LIGHTNING
from hopscotch.config.targets import find
from hopscotch.data.datamodule import AudioDataModule, Labels
from hopscotch.data.index import user_cache
from hopscotch.data.recordings import MAX_IMPULSE_SECONDS, Recordings
from hopscotch.models.assemble import assemble
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.cascade import Cascade
from hopscotch.plain import as_written, shown
from hopscotch.registry import check_stored, stages_of
from hopscotch.report.run_folder import PROFILE
from hopscotch.training.calibration import resolve_target
from hopscotch.training.freeze import Freeze
from hopscotch.training.remember import Remember
from hopscotch.training.schedules import Warmed
from hopscotch.training.task import AudioTask

SHARES = {"noise": "noise_probability", "impulse_responses": "impulse_probability"}  # of the clips that are mixed
OF_PARTS: dict[str, Labels] = {"clips": "one", "background": "several"}  # sources of a source; a label need not be one
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def make(node: DictConfig, **more: Any) -> Any:
    """Make the object that `node._target_` names with the node's keys and `more`; nested nodes are made first."""
    return maker(node)(**more)


def maker(node: DictConfig) -> Callable[..., Any]:
    """Return the callable that `make` calls with `more`, which Hydra would copy if it passed through Hydra."""
    parts = _parts(node)
    for part in parts:
        find(str(part["_target_"]))
    for part in parts:
        refuse_arguments(part, part._get_full_key(None), str(part["_target_"]), list(map(str, part)))
    try:
        return instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:  # of a nested node: its own error says more
        raise error.__cause__ or error from None


def _parts(node: Any) -> list[DictConfig]:
    """List the node and those below it, as far as they name what is to be made."""
    if isinstance(node, ListConfig):
        return [part for child in node for part in _parts(child)]
    if not isinstance(node, DictConfig):
        return []
    own = [node] if "_target_" in node else []
    return own + [part for key in node for part in _parts(node[key])]


def build_data(cfg: DictConfig) -> AudioDataModule:
    mixed = recordings_of(cfg)
    waveform = None if cfg.augment.waveform is None else make(cfg.augment.waveform, **mixed)
    parts = {key: node for key, node in cfg.data.items() if isinstance(node, DictConfig) and "_target_" in node}
    sources = {
        str(key): make(node, seed=cfg.seed, augment=None, labels=OF_PARTS[str(key)]) for key, node in parts.items()
    }
    own = OmegaConf.masked_copy(cfg.data, [key for key in cfg.data if key not in parts]) if parts else cfg.data
    data = make(own, **sources, seed=cfg.seed, augment=waveform, labels=task_of(cfg).labels)
    assert isinstance(data, AudioDataModule)
    return data


def recordings_of(cfg: DictConfig) -> dict[str, Recordings]:
    """List the folders that training clips are mixed with; warn of one that no clip would be mixed with."""
    found, waveform = {}, cfg.augment.waveform
    for key, share in SHARES.items():
        if (folder := cfg.augment.get(key)) is None:
            continue
        if waveform is None or not waveform.get(share):
            rule = "augment.waveform is null" if waveform is None else f"augment.waveform.{share} is {waveform[share]}"
            rank_zero_warn(f"augment.{key}={shown(folder)} has no effect: {rule}.")
            continue
        longest = MAX_IMPULSE_SECONDS if key == "impulse_responses" else math.inf
        found[key] = Recordings(f"augment.{key}", folder, cfg.data.sample_rate, longest=longest)
    return found


def build_stored_data(cfg: DictConfig, file: Path, trust: Sequence[str] = ()) -> AudioDataModule:
    """Build the data source of a stored configuration, if its classes are known."""
    check_stored(plain_config(cfg), shown(file), trust)
    with as_written(file):
        return build_data(cfg)


def build_model(cfg: DictConfig, num_classes: int) -> AudioModel:
    """Build the model with the head of its task. Weights are drawn from the global generator: seed it first."""
    if stages := stages_of(plain_config(cfg), "the configuration"):
        models = [build_model(OmegaConf.create(stage), num_classes) for stage in stages]
        return Cascade(name=cfg.model.name, stages=models)
    model = assemble(
        cfg.model,
        cfg.gate,
        make_encoder=partial(make, cfg.model.encoder),
        frontend=make(cfg.frontend),
        spectrogram_augment=None if cfg.augment.spectrogram is None else make(cfg.augment.spectrogram),
        make_head=task_of(cfg).make_head,
        num_outputs=num_classes,
    )
    if cfg.trainer.compile:
        compile_static_parts(model, cfg.model.name)
    return model


def task_of(cfg: DictConfig) -> type[AudioTask]:
    """Return the class of the task, checked."""
    kind = find(cfg.task._target_)
    if not (isinstance(kind, type) and issubclass(kind, AudioTask)):
        raise ValueError(f"task._target_ must be a subclass of AudioTask, got {cfg.task._target_}.")
    return kind


def compile_static_parts(model: AudioModel, name: str) -> None:
    """Have static parts compiled at their first call; the names of weights, and so checkpoints, do not change."""
    parts = [*model.stem_layers, *model.encoder.static_parts()]
    if not parts:
        raise ValueError(
            f"trainer.compile must be false for model={name}: its encoder names no part that computes the same "
            "for every clip (Encoder.static_parts)."
        )
    compiler = os.environ.get("CXX", "g++")
    if not torch.cuda.is_available() and shutil.which(compiler) is None:
        raise ValueError(f"trainer.compile=true needs a C++ compiler on the CPU, and {compiler!r} is not found.")
    if not torch.cuda.is_available() and " " in torch.__file__:
        raise ValueError(
            f"trainer.compile=true needs torch in a folder without blanks on the CPU, got {torch.__file__}."
        )
    for part in parts:
        part.compile(dynamic=True)  # batches differ in length, and visits in clips


def build_task(cfg: DictConfig, model: AudioModel, data: AudioDataModule) -> AudioTask:
    if cfg.compute.dense_weight > 0 and not model.decides:
        rank_zero_warn(
            f"compute.dense_weight={cfg.compute.dense_weight} has no effect: {model.name} makes no decisions."
        )
    refuse_all_dense(cfg, model)
    if data.balance is not None and cfg.task.get("class_weights") == "balanced":
        rank_zero_warn(
            f"task.class_weights=balanced and data.balance={data.balance} make up for rare classes twice: one will do."
        )
    samples = data.mean_samples()
    target = resolve_target(cfg.compute.target, model, samples, cfg.compute.level)
    cost = model.cost(round(samples))
    if target is not None and target > (most := cost.trained / cost.dense) and cfg.compute.dense_share < 1:
        rank_zero_warn(
            f"compute.target={target:.3f} is more than the {most:.3f} that "
            f"model.open_rate={cfg.model.open_rate} leaves of the dense compute, and will not be met: tests keep no "
            "more tokens than training does at its end. Lower the target, or raise model.open_rate."
        )
    task = make(
        cfg.task,
        model=model,
        optimizer=maker(without_ours(cfg.optimizer, "optimizer")),
        scheduler=scheduler_of(cfg.scheduler),
        classes=data.classes,
        seed=cfg.seed,
        target=target,
        budget_weight=cfg.compute.weight,
        budget_warmup=cfg.compute.warmup,
        entropy_weight=cfg.compute.entropy_weight,
        dense_weight=cfg.compute.dense_weight,
        dense_share=cfg.compute.dense_share,
        layer_decay=cfg.optimizer.get("layer_decay", 1.0),
        head_rate=cfg.optimizer.get("head_rate", 1.0),
        mixup=cfg.augment.mixup,
        nonfinite_patience=cfg.trainer.nonfinite_patience,
    )
    task.look_at(data)
    return task


def refuse_all_dense(cfg: DictConfig, model: AudioModel) -> None:
    """Refuse a training in which nothing is ever skipped for a test that skips; warn where nothing could be."""
    if cfg.compute.dense_share == 1 and cfg.compute.target != 1:
        raise ValueError(
            "compute.target must be 1 with compute.dense_share=1, in which nothing learns to skip, "
            f"got {cfg.compute.target}."
        )
    if cfg.compute.dense_share > 0 and not model.deciders:
        rank_zero_warn(
            f"compute.dense_share={cfg.compute.dense_share} has no effect: {model.name} decides nothing in training."
        )


def scheduler_of(node: DictConfig) -> Callable[[torch.optim.Optimizer, float], dict[str, Any]]:
    """Return what makes a scheduler, with Lightning's keys beside it, once optimizer and number of steps are known."""
    own = {str(key): value for key, value in node.items() if key not in OF_LIGHTNING}
    counts = [key for key, value in own.items() if value == "auto"]
    make_one = maker(DictConfig({key: value for key, value in own.items() if key not in counts}, key="scheduler"))
    rest = {key: node[key] for key in OF_LIGHTNING if key in node}
    kind = find(node._target_)
    has_clock = isinstance(kind, type) and issubclass(kind, Warmed)

    def made(optimizer: torch.optim.Optimizer, steps: float) -> dict[str, Any]:
        if counts and math.isinf(steps) and not has_clock:
            raise ValueError(
                f"scheduler.{counts[0]} must be a number of steps where a clock ends the training "
                "(trainer.max_epochs=-1), got auto. scheduler=cosine, linear and constant go by the clock."
            )
        return {"scheduler": make_one(optimizer, **dict.fromkeys(counts, steps)), **rest}

    return made


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    callbacks: list[Callback] = [make(node) for node in _nodes(cfg.callbacks)]
    if cfg.trainer.freeze:
        callbacks.append(Freeze(cfg.trainer.freeze, cfg.trainer.unfreeze_every))
        folder = Path(cfg.data.get("cache_dir") or user_cache()) / "states"
        if cfg.trainer.unfreeze_every is None:
            callbacks.append(Remember(folder, cfg.data.cache_gib, cfg.data.get("disk_cache_gib") or 0.0))
    elif cfg.trainer.unfreeze_every is not None:
        rank_zero_warn(f"trainer.unfreeze_every={cfg.trainer.unfreeze_every} has no effect: trainer.freeze is empty.")
    if cfg.trainer.enable_progress_bar:
        return callbacks
    return [callback for callback in callbacks if not isinstance(callback, ProgressBar)]  # Lightning would refuse both


def build_loggers(cfg: DictConfig) -> list[Logger]:
    return [make(node) for node in _nodes(cfg.logger)]


def _nodes(group: Mapping[str, Any]) -> list[DictConfig]:
    return [node for node in group.values() if node is not None]


def build_trainer(cfg: DictConfig, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    if cfg.trainer.strategy.startswith("fsdp"):
        raise ValueError(
            f"trainer.strategy must leave each process its whole model, which meets budgets and is timed outside of "
            f"the training step, got {cfg.trainer.strategy}: use trainer=ddp, on several GPUs or on the CPU."
        )
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={cfg.trainer.accelerator} needs a CUDA device, and torch {torch.__version__} finds "
            "none: use trainer=cpu, or trainer=default, which uses what is available."
        )
    _refuse_conflicts(cfg)
    kind = None if cfg.trainer.profiler is None else PROFILERS[cfg.trainer.profiler]
    profiler = None if kind is None else kind(dirpath=Path(cfg.run_dir) / PROFILE, filename="profile")
    more = {"logger": loggers or False, "profiler": profiler, "default_root_dir": cfg.run_dir}
    return make_trainer(cfg.trainer, callbacks=callbacks, **more)


def _refuse_conflicts(cfg: DictConfig) -> None:
    """Refuse keys that are valid alone but not together."""
    trainer, fused = cfg.trainer, cfg.optimizer.get("fused")
    if trainer.precision == "16-mixed" and trainer.gradient_clip_val and fused:
        raise ValueError(
            "optimizer.fused must be false under trainer.precision=16-mixed with trainer.gradient_clip_val, got "
            "true: it steps on gradients that are still scaled. bf16-mixed scales none."
        )
    every, step = trainer.val_check_interval, trainer.accumulate_grad_batches
    if isinstance(every, int) and every % step:
        raise ValueError(
            f"trainer.val_check_interval must be a multiple of trainer.accumulate_grad_batches, {step}, got {every}: "
            "a checkpoint in the middle of a step forgets its first batches."
        )
    if trainer.max_epochs == -1 and trainer.max_time is None and trainer.max_steps == -1:
        raise ValueError("trainer.max_epochs=-1 needs trainer.max_time or trainer.max_steps, which end the training.")
    if trainer.check_val_every_n_epoch is None and not isinstance(every, int):
        raise ValueError(
            "trainer.check_val_every_n_epoch=null, validation by steps across epochs, needs a whole number of batches "
            f"as trainer.val_check_interval, got {every}."
        )


def make_trainer(node: DictConfig, **more: Any) -> Trainer:
    """Make Lightning's Trainer from the keys of `trainer` except those that concern the model."""
    return make(without_ours(node, "trainer"), **more)


def without_ours(node: DictConfig, group: str) -> DictConfig:
    """Leave out the keys of a group that its class does not take: Hopscotch reads them itself."""
    return DictConfig({key: value for key, value in node.items() if key not in ADDED[group]}, key=group)
