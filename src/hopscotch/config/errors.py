"""Say what is wrong with what a user gave: key, rule, value and the nearest valid name, in one message."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.system import CONF, IS_CHECKOUT

PLUGINS = {  # choice -> package, extra that installs it
    "hydra/sweeper/optuna": ("hydra-optuna-sweeper", "sweep"),
    "hydra/launcher/joblib": ("hydra-joblib-launcher", "sweep"),
    "hydra/launcher/submitit_local": ("hydra-submitit-launcher", "cluster"),
    "hydra/launcher/submitit_slurm": ("hydra-submitit-launcher", "cluster"),
    "hydra/launcher/ray": ("hydra-ray-launcher", ""),  # wants cloudpickle below 3, and no extra can have it
}
OPEN = ("trainer.", "callbacks.", "logger.", "optimizer.", "scheduler.")  # nodes that take any argument of their class
# Names of older versions, as typed or as stored in a run: a group, a key, or one value of either.
RENAMED = {
    "control": "baseline",
    "gate=sketch": "gate=original",
    "callbacks=probe": "callbacks=decision_value",
    "experiment=frontier_controls": "experiment=frontier_baselines",
    "experiment=scenes_controls": "experiment=scenes_baselines",
    "experiment=study_fsdd": "experiment=parts/study_fsdd",
    "compute.reach": "compute.level",
    "frontend.range_db": "frontend.top_db",
    "model.branch_start": "model.residual_init_scale",
    "model.encoder.heads=shared": "model.encoder.tied=true",
    "model.encoder.heads=per_layer": "model.encoder.tied=false",
    "model.encoder.policy.heads=shared": "model.encoder.policy.tied=true",
    "model.encoder.policy.heads=per_layer": "model.encoder.policy.tied=false",
    "callbacks.adaptation": "callbacks.decision_value",
    "callbacks.adaptation.reaches": "callbacks.decision_value.levels",
    "data.on_bad_file=error": "data.on_bad=raise",
    "data.on_bad_file": "data.on_bad",
    "task.optimizer": "optimizer",
    "task.optimizer.lr": "optimizer.lr",
    "task.warmup": "scheduler.warmup",
}

SYNONYMS = {  # as other programs call them
    "epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "batch": "data.batch_size",
    "batch_size": "data.batch_size",
    "workers": "data.num_workers",
    "device": "trainer.accelerator",
    "gpus": "trainer.devices",
    "budget": "compute.target",
    "target": "compute.target",
    "out": "hydra.run.dir",
    "output_dir": "hydra.run.dir",
    "resume_from": "resume",
    "continue": "resume",
    "pretrained": "init_from",
    "ckpt": "ckpt_path",
    "root": "data.root",
}
OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir")  # that people type


class ConfigError(ValueError):
    """The configuration breaks a rule; the text is complete and meant for the person who typed it."""


def renamed(key: str, value: object = None) -> str:
    """Return " <old> is now <new>." if `key`, or this value of it, had another name, else an empty text."""
    old = next((old for old in (f"{key}={value}", key) if old in RENAMED), None)
    return f" {old} is now {RENAMED[old]}." if old else ""


def synonym(name: str) -> str:
    """Return the key that is meant by a name of other programs, such as epochs, or an empty text."""
    return SYNONYMS.get(name, name if name in SYNONYMS.values() else "")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean <x>?" for the name closest to `name`, its new name, or an empty text.

    Beside keys of the same parent the last part alone is compared: what they share says nothing.
    """
    names = [known for known in names if not name.startswith(f"{known}.")]
    parent, _, leaf = name.rpartition(".")
    beside = {known.rpartition(".")[2]: known for known in names if known.rpartition(".")[0] == parent}
    close = [beside[other] for other in difflib.get_close_matches(leaf, beside, n=1)]
    close = close or [known for known in (synonym(leaf),) if known in names]
    if not close:  # the right leaf at the wrong place: max_epochs for trainer.max_epochs
        leaves = {known.rpartition(".")[2]: known for known in reversed(names)}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)]
    if not close:
        others = [known for known in names if known not in beside.values()]
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.7)
    close = close or [known for known in names if len(leaf) > 2 and known.startswith(name)][:3]
    return renamed(name) or (f" Did you mean {' or '.join(close)}?" if close else "")


def elsewhere(key: str) -> str:
    """Return " It is a key of model=<x>." for a key that other choices of its group have, or an empty text."""
    group, _, rest = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if rest and group.isidentifier() else []
    having = [file.stem for file in files if any(f"{known}.".startswith(f"{rest}.") for known in _keys(file))]
    return f" It is a key of {group}={', '.join(having)}." if having else ""


def _keys(file: Path) -> set[str]:
    """List the keys of a file of conf/, and of those of its group that its defaults name."""
    own = OmegaConf.load(file)
    if not isinstance(own, DictConfig):
        return set()
    found = set(flat(own))
    for default in own.get("defaults") or ():
        name, _, package = str(default).partition("@")
        part = file.parent / f"{name}.yaml"
        if isinstance(default, str) and name != "_self_" and part.is_file():
            prefix = f"{package}." if package and package != "_here_" else ""
            found |= {f"{prefix}{key}" for key in _keys(part)}
    return found


def unknown_key(key: str, value: object, names: Iterable[str]) -> ConfigError:
    """Make the error for a key that does not exist; `value` is None if there is none to show."""
    given = "" if value is None else f"={value}"
    hint = renamed(key, value) or elsewhere(key) or nearest(key, [*names, *OF_HYDRA])
    return ConfigError(f"{key}{given}: there is no key {key}.{hint}")


def unknown_choice(group: str, choice: str, choices: Iterable[str]) -> ConfigError:
    """Make the error for a choice that its group does not have."""
    known = sorted({*choices, *(name.rpartition("/")[2] for name in PLUGINS if name.rpartition("/")[0] == group)})
    hint = renamed(group, choice) or nearest(choice, known)
    return ConfigError(f"{group}={choice}: {group} must be one of {', '.join(known)}.{hint}")


def wrong_value(key: str, words: str, value: object, choices: Iterable[str] = ()) -> ConfigError:
    """Make the error for a value that breaks the rule `words` of its key."""
    given = {"None": "null", "True": "true", "False": "false"}.get(str(value), value)  # as YAML writes them
    return ConfigError(f"{key} must be {words}, got {given}.{nearest(str(value), choices)}")


def absent_package(what: str, package: str, extra: str) -> ConfigError:
    """Make the error for a choice whose package is not there, with the command that installs it."""
    if not extra:
        return ConfigError(f"{what} needs the package {package}, which no extra has: python -m pip install {package}")
    place = f'-e ".[{extra}]" -c constraints.txt' if IS_CHECKOUT else f'"hopscotch[{extra}]"'
    return ConfigError(f"{what} needs the package {package}, of the extra {extra}: python -m pip install {place}")


def flat(cfg: DictConfig) -> dict[str, Any]:
    """List every key as it is typed on the command line with its unresolved value, the shallow keys first."""
    found: dict[str, Any] = {}
    level = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    level.pop("hydra", None)
    while level:
        found |= level
        maps = {path: node for path, node in level.items() if isinstance(node, dict)}
        level = {f"{path}.{key}": value for path, node in maps.items() for key, value in node.items()}
    return found


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a configuration into plain data."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def explain(error: Exception, overrides: list[str], loader: Any) -> ConfigError:
    """Translate an error of Hydra or OmegaConf about what was typed into one of ours; `loader` is Hydra's."""
    from hydra.errors import MissingConfigException, OverrideParseException  # what is stored is checked without Hydra

    if isinstance(error, OverrideParseException):
        key = error.override.partition("=")[0]
        return ConfigError(
            f"{error.override}: has a sign that Hydra's grammar keeps for itself. Put the value in double quotes, "
            f"and all of it in single ones: '{key}=\"...\"'."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        if plugin := PLUGINS.get(error.missing_cfg_file):
            return absent_package(error.missing_cfg_file, *plugin)
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown_choice(group, choice, error.options)
    groups = loader.list_groups("")
    typed = {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        root = OmegaConf.create() if cause.parent_node is None else cause.parent_node._get_root()
        inside = (key for key in typed if key.startswith(f"{cause.full_key}.") and renamed(key, typed[key]))
        below = (key for key in typed if key.startswith(f"{cause.full_key}.") and elsewhere(key))
        key = next(inside, next(below, cause.full_key))  # the one that was typed: of a new name, all of it
        wrong = unknown_key(key, typed.get(key), [*groups, *flat(root)])
        if not key.startswith(OPEN) or renamed(key, typed.get(key)):
            return wrong
        return ConfigError(f"{wrong} A further argument is added with a plus: +{key}={typed.get(key)}")
    # model=5 and model=null, which Hydra meets with a bare ValueError
    for group in {key for key in typed if f"~{key}" not in overrides}.intersection(groups):
        if typed[group] not in loader.get_group_options(group):
            return unknown_choice(group, typed[group], loader.get_group_options(group))
    return ConfigError(" ".join(str(error).split()))
