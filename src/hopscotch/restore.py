"""Restore a trained model from its run's folder, without the data that it was trained on.

config.yaml            how to build it
checkpoints/best.ckpt  weights; the names of its classes and how long clips were (training/classify.py puts them there)
summary.json           the same of a run whose checkpoint is older than that

Nothing here imports Lightning or Hydra, which take longer to load than a prediction takes to make.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from hopscotch import plain
from hopscotch.config.check import check_trained
from hopscotch.config.errors import plain_config
from hopscotch.data.clips import some
from hopscotch.models.assemble import assemble
from hopscotch.models.audio_model import AudioModel, OutputHead
from hopscotch.models.cascade import Cascade
from hopscotch.models.heads import HEADS
from hopscotch.registry import check_stored, class_at, make, stages_of, without_cache
from hopscotch.report.run_folder import BEST, SUMMARY, RunFolder, config_of
from hopscotch.training.calibration import Budget, bias_for
from hopscotch.training.checkpoint import BUDGETS, check_classes, read_checkpoint, take_weights

OF_THE_MODEL = "model."  # how the task calls its model's weights
SMALLEST_WEIGHT = 2  # bytes


class Restored(NamedTuple):
    cfg: DictConfig
    model: AudioModel  # in evaluation mode, on the CPU
    classes: list[str]
    mean_seconds: float | None  # of a training clip; None where neither checkpoint nor summary tells
    longest_seconds: float | None  # of all clips of the run's data
    budgets: list[Budget]  # what biases come to; empty where the checkpoint has no table


def restore(run: Path, ckpt: Path | None = None, trust: Sequence[str] = ()) -> Restored:
    """Load the model of a run's best checkpoint, or of another one of the same configuration.

    A run may come from a stranger: classes other than ours are refused, but for those of the modules in `trust`.
    """
    cfg = read_config(run, trust)
    path = checkpoint_of(run, ckpt)
    checkpoint = read_checkpoint(path)
    classes = checkpoint.get("classes") or trained_classes(run)
    if not classes:
        raise ValueError(
            f"{path} must hold the names of its classes, or {run / SUMMARY} as data.classes; neither does. "
            "A checkpoint of an older version has none: let its run come to its end."
        )
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix(OF_THE_MODEL): value for name, value in state if name.startswith(OF_THE_MODEL)}
    outputs = weights.get("head.linear.bias")
    if outputs is not None and (outputs.ndim != 1 or len(outputs) != len(classes)):
        names = plain.shown(some(classes))
        raise ValueError(f"{path} must have a name for each of its {outputs.numel()} classes, got {names}.")
    with no_larger_than(path):
        model = build_stored_model(cfg, len(classes), config_of(run), trust)
    take_weights(model, weights, path)
    budgets = [Budget(*row) for row in checkpoint.get(BUDGETS, [])]
    return Restored(cfg, model.eval(), list(classes), *_clip_seconds(checkpoint, run), budgets)


def set_budget(restored: Restored, budget: float) -> None:
    """Set the model to a share of the dense compute, by the table of its checkpoint."""
    if not restored.model.decides:
        raise ValueError(f"budget has no meaning for model={restored.model.name}, which makes no decisions. Remove it.")
    if not restored.budgets:
        raise ValueError(
            f"budget={budget} needs a checkpoint with a table of budgets, which a run writes at its end, and this one "
            f"has none: hopscotch evaluate RUN compute.budget={budget} measures it on validation clips instead."
        )
    restored.model.decision_bias.fill_(bias_for(restored.budgets, budget))


def build_stored_model(cfg: DictConfig, num_classes: int, file: Path, trust: Sequence[str] = ()) -> AudioModel:
    """Build the model of a stored configuration; no part is compiled: clips of every length come."""
    config = plain_config(cfg)
    if stages := stages_of(config, plain.shown(file)):
        with plain.as_written(file):
            models = [build_stored_model(OmegaConf.create(stage), num_classes, file, trust) for stage in stages]
            return Cascade(name=config["model"]["name"], stages=models)

    def part(key: str, node: Any, **more: Any) -> Any:
        return make({**node, **more} if more else node, key, plain.shown(file), trust)

    with plain.as_written(file):
        return assemble(
            config["model"],
            config["gate"],
            make_encoder=partial(part, "model.encoder", config["model"]["encoder"]),
            frontend=part("frontend", config["frontend"]),
            spectrogram_augment=part("augment.spectrogram", config["augment"]["spectrogram"]),
            make_head=head_of(config["task"]["_target_"], file, trust),
            num_outputs=num_classes,
        )


def head_of(target: str, file: Path, trust: Sequence[str] = ()) -> Callable[..., OutputHead]:
    """Find what makes the head of a task. Those of our tasks are known: none is imported to ask it."""
    if target in HEADS:
        return HEADS[target]
    kind: Any = class_at("task", target, plain.shown(file), trust)
    return kind.make_head


class _TooLargeError(Exception):
    pass


@contextmanager
def no_larger_than(path: Path) -> Iterator[None]:
    """Refuse to build a model larger than its checkpoint: a configuration may claim any size.

    Parameters are counted when a module gets them, before they are filled: until then they take no memory.
    """
    most, seen = path.stat().st_size // SMALLEST_WEIGHT, {}

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            seen[id(parameter)] = parameter.numel()
        if sum(seen.values()) > most:
            raise _TooLargeError

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except _TooLargeError:
        raise ValueError(
            f"ckpt must be a checkpoint of the run's own model, got {plain.shown(path)}: the model has "
            f"{sum(seen.values()):,} weights or more, the file cannot hold more than {most:,}."
        ) from None
    finally:
        hook.remove()


def checkpoint_of(run: Path, ckpt: Path | None) -> Path:
    """Return the path of `ckpt`, or of the run's best checkpoint."""
    if ckpt is None and not (run / BEST).is_file():
        raise ValueError(
            f"run must be the folder of a run that kept a checkpoint, got {run}: no {BEST} there yet; "
            "it is written after the first validation. ckpt=<file> takes another one."
        )
    return ckpt or run / BEST


def stored_config(run: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration of a run as plain data; every class in it is a known one."""
    path = config_of(run)
    config = plain.read_config(path)
    check_stored(config, plain.shown(path), trust)
    return OmegaConf.create(without_cache(config))


def read_config(run: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration of a run and hold it to every rule."""
    cfg = stored_config(run, trust)
    hold_to_rules(cfg, cfg.copy(), config_of(run))
    return cfg


def hold_to_rules(cfg: DictConfig, as_trained: DictConfig, file: Path) -> None:
    """Check a configuration of a run by the rules for one that is typed."""
    try:
        with plain.as_written(file):
            check_trained(cfg, as_trained, file)
            for stage in map(OmegaConf.create, stages_of(plain_config(cfg), plain.shown(file))):
                check_trained(stage, stage.copy(), file)
    except OmegaConfBaseException as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{file} must be as a run of this version writes it: {plain.sentence(error)}") from None


def trained_classes(run: Path) -> list[str] | None:
    """Read the classes from the run's summary, in the order of the outputs; None where it does not have them."""
    known = RunFolder(run).data.get("classes")
    return None if known is None else check_classes(known, plain.shown(run / SUMMARY))


def _clip_seconds(checkpoint: dict[str, Any], run: Path) -> tuple[float | None, float | None]:
    """Return mean and longest seconds; what an older run left knows the longest of its test clips alone."""
    if "clip_seconds" in checkpoint:
        return checkpoint["clip_seconds"]["mean"], checkpoint["clip_seconds"]["longest"]
    folder = RunFolder(run)
    with plain.as_written(run):
        data = folder.data
        mean = data["seconds"]["train"] / data["clips"]["train"] if "seconds" in data else None
        return mean, max((row.seconds for row in folder.clips), default=None)
