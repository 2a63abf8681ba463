"""Check a composed configuration against its schemas, and nodes without a schema against their own YAML file."""

import dataclasses
import functools
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, InterpolationToMissingValueError, OmegaConfBaseException

from hopscotch.config.errors import ConfigError, flat, renamed, unknown_key, wrong_value
from hopscotch.config.monitors import KNOWN, LOGGED, refuse_unlogged
from hopscotch.config.schema import (
    ADDED,
    ENCODER_RULES,
    GIVEN,
    MODEL_RULES,
    OPTIMIZER_RULES,
    SCHEMAS,
    Config,
    Rule,
    Source,
    Trainer,
)
from hopscotch.config.targets import arguments, find
from hopscotch.plain import joined

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list", dict: "a map"}
CLOSED = ("data", "model.encoder")  # take what their YAML file has, unless another class is typed
ABSENT = object()  # stands for a value that cannot be checked yet: ???, or an interpolation of one


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Copy the configuration of a run without that of Hydra itself."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def check(cfg: DictConfig, defaults: DictConfig, is_typed: bool = True) -> None:
    """Give the nodes of `cfg` their schemas, in place, and check every rule.

    Args:
        cfg: the composed configuration.
        defaults: the same choice of files without overrides, which nodes without a schema are compared with.
        is_typed: whether a user typed it, and not a run left it: then new nodes and arguments may name anything, which
            is imported to see what it takes.

    Raises:
        ConfigError: names the first broken rule.
    """
    names = list(flat(defaults))
    given = without_hydra(cfg)
    if is_typed:
        defaults = _with_additions(given, defaults)
    further = _take_further(given)
    typed = _typed(given, Config, "", names)
    with open_dict(typed.trainer):
        typed.trainer.update(further)
    if not OmegaConf.is_interpolation(typed, "run_dir"):
        raise ConfigError(f"run_dir must not be given, got {typed.run_dir}: the folder is hydra.run.dir=<folder>")
    _hold(typed, defaults, "", names)
    rules = {f"model.encoder.{key}": rule for key, rule in ENCODER_RULES.get(_target(typed.model.encoder), {}).items()}
    shared = {key: field.metadata["rule"] for key, field in _fields(Source).items() if field.metadata}
    rules |= {f"data.{key}": rule for key, rule in shared.items() if key in typed.data}  # without a schema, too
    for key, rule in (rules | MODEL_RULES | OPTIMIZER_RULES).items():
        _keep(rule, key, OmegaConf.select(typed, key))
    if is_typed and (logged := LOGGED.get(_target(typed.task))):
        refuse_unlogged(typed, logged)
    with open_dict(cfg):
        for key in typed:
            cfg[key] = typed._get_node(key)  # the node, so that interpolations stay


def check_trained(cfg: DictConfig, as_trained: DictConfig, file: object) -> None:
    """Check the configuration that a run left in `file`, whose keys may be those of another version of Hopscotch."""
    if old := "".join(renamed(key, value) for key, value in flat(cfg).items()):
        raise ConfigError(f"{file} was written by an older version of Hopscotch:{old}")
    if not OmegaConf.has_resolver("run_dir"):  # there is no run in progress, see hopscotch.config.compose
        OmegaConf.register_new_resolver("run_dir", lambda: "<run folder>")
    cfg.run_dir = "${run_dir:}"  # as it was typed: the rules know no other
    check(cfg, as_trained, is_typed=False)
    if missing := OmegaConf.missing_keys(cfg):
        keys = ", ".join(sorted(missing))
        raise ValueError(f"{file} must have every key of this version of Hopscotch, it lacks {keys}.")


def refuse_missing(cfg: DictConfig) -> None:
    """Refuse a configuration in which a key without default was not given, such as data.root."""
    for key, value in flat(cfg).items():
        if value == "???":
            raise ConfigError(f"{key} must be given, it has no default: add {key}=<value>")


def _target(node: DictConfig) -> str:
    return "" if "_target_" not in node or OmegaConf.is_missing(node, "_target_") else str(node._target_)


def _with_additions(cfg: DictConfig, defaults: DictConfig) -> DictConfig:
    """Return the defaults with what a user may add to them: callbacks, loggers, arguments of an open class.

    Raises:
        ConfigError: names an argument that its `_target_` does not take.
    """
    defaults = defaults.copy()
    groups = [(group, OmegaConf.select(cfg, group)) for group in ("callbacks", "logger")]
    paths = [f"{group}.{key}" for group, node in groups if isinstance(node, DictConfig) for key in node]
    for path in ("trainer", "optimizer", "scheduler", *paths, *CLOSED):
        node, before = OmegaConf.select(cfg, path), OmegaConf.select(defaults, path)
        if not isinstance(node, DictConfig) or not (target := _target(node)):
            continue
        is_same = isinstance(before, DictConfig) and _target(before) == target
        if is_same and path in CLOSED:
            continue
        is_ours = is_same and target.startswith(KNOWN)  # of a user's own class all keys are looked at
        known = set(before) if is_ours else set()
        if not (more := [str(key) for key in node if key not in known]):
            continue
        refuse_arguments(node, path, target, more)
        for key in more:
            OmegaConf.update(defaults, f"{path}.{key}", node._get_node(key), force_add=True)
    return defaults


def refuse_arguments(node: DictConfig, path: str, target: str, keys: list[str]) -> None:
    """Refuse those of the keys of the node at `path` that `target` does not take, which is imported."""
    taken = arguments(find(target))
    if taken is None:
        return
    taken = (taken | ADDED.get(path, set())) - GIVEN.get(path, set())
    for key in keys:
        if key not in taken and not key.startswith("_"):
            value = node._get_node(key)
            shown = None if OmegaConf.is_config(value) else value
            raise unknown_key(joined(path, key), shown, [joined(path, name) for name in sorted(taken)])


def _take_further(cfg: DictConfig) -> dict[str, Any]:
    """Take those arguments of Lightning's Trainer out of a configuration that have no schema."""
    trainer = cfg._get_node("trainer")
    if not isinstance(trainer, DictConfig):
        return {}
    keys = [str(key) for key in trainer if key not in _fields(Trainer)]
    with open_dict(trainer):
        return {key: trainer.pop(key) for key in keys}


def _typed(node: DictConfig, schema: type, path: str, names: list[str]) -> DictConfig:
    """Give `node` the types of `schema`, and the nodes below it those of SCHEMAS."""
    for key, field in _fields(schema).items():  # OmegaConf does not say which one it was
        if dataclasses.is_dataclass(field.type) and not isinstance(node._get_node(key), DictConfig | None):
            raise wrong_value(joined(path, key), "a map", node[key])
    try:
        typed = OmegaConf.merge(_structured(schema), node)
    except OmegaConfBaseException as error:
        inner = (error.full_key or "").partition("[")[0]  # speeds[0] is a fault of speeds
        key, value = joined(path, inner), OmegaConf.select(node, inner)
        if isinstance(error, ConfigKeyError):
            raise unknown_key(key, value, names) from error
        raise wrong_value(key, _words(schema, inner), value) from error
    assert isinstance(typed, DictConfig)
    _type_below(typed, path, names)
    return typed


@functools.cache
def _structured(schema: type) -> DictConfig:
    """Make a schema once; merging copies it."""
    return OmegaConf.structured(schema)


def _type_below(node: DictConfig, path: str, names: list[str]) -> None:
    for key in node:
        if OmegaConf.is_missing(node, key) or not isinstance(child := node._get_node(key), DictConfig) or not child:
            continue
        below = joined(path, str(key))
        schema = SCHEMAS.get(_target(child))
        if schema is not None and not dataclasses.is_dataclass(OmegaConf.get_type(child)):
            node[key] = _typed(child, schema, below, names)
        else:
            _type_below(child, below, names)


def _words(schema: Any, key: str) -> str:
    """Say in words what the field at `key` takes: its type, and its rule where it has one."""
    *parents, name = key.split(".")
    for parent in parents:
        schema = _fields(schema)[parent].type
    field = _fields(schema)[name]
    origin = get_origin(field.type)
    kinds = [kind for kind in get_args(field.type) or (field.type,) if kind is not type(None)]
    words = "a map" if origin is dict else " or ".join(WORDS.get(kind, "a map") for kind in kinds)
    if origin is list:
        words = f"a list, each item {words}"
    return f"{words}, {field.metadata['rule'].words}" if "rule" in field.metadata else words


def _fields(schema: Any) -> dict[str, dataclasses.Field[Any]]:
    """Map the names of a schema's fields to them; a node without a schema has none."""
    return {field.name: field for field in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else {}


def _value(node: DictConfig, key: str, path: str) -> Any:
    if OmegaConf.is_missing(node, key):
        return ABSENT
    try:
        return node[key]
    except InterpolationToMissingValueError:
        return ABSENT
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ValueError):  # of what reads a file, which says more
            raise ConfigError(str(error.__cause__)) from error
        raw = node._get_node(key)
        raise ConfigError(f"{path}={raw}: {str(error).splitlines()[0]}") from error


def _hold(node: DictConfig, default: DictConfig, path: str, names: list[str]) -> None:
    """Check every value below `node` against its rule, or against its default where it has no schema."""
    declared = _fields(OmegaConf.get_type(node))
    for key in map(str, node):
        here = joined(path, key)
        value = _value(node, key, here)
        if not declared and key not in set(default):  # `in default` overlooks ???
            raise unknown_key(here, None if isinstance(value, DictConfig) else value, names)
        before = _value(default, key, here) if key in set(default) else ABSENT
        rule = declared[key].metadata.get("rule") if key in declared else None
        if value is ABSENT:
            continue
        if rule is not None:
            _keep(rule, here, value)
        elif (key not in declared or declared[key].type is Any) and not _same_reference(node, default, key):
            _like_default(here, value, before)
        if isinstance(value, DictConfig):
            _hold(value, before if isinstance(before, DictConfig) else value, here, names)


def _same_reference(node: DictConfig, default: DictConfig, key: str) -> bool:
    """Tell whether the value still comes from the other key that its YAML file names, where it is checked."""
    return OmegaConf.is_interpolation(default, key) and str(node._get_node(key)) == str(default._get_node(key))


def _keep(rule: Rule, key: str, value: Any) -> None:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value is not None and not rule.holds(value):
        raise wrong_value(key, rule.words, value, rule.choices)


def _like_default(key: str, value: Any, default: Any) -> None:
    """Check that a value has the type of its default in YAML; a default of null takes anything.

    A value of null turns a map off, but not within a model, which needs all of its parts.
    """
    is_off = value is None and isinstance(default, DictConfig) and not key.startswith("model.encoder.")
    if default is ABSENT or default is None or default == "auto" or is_off:
        return
    if not _same_kind(value, default):
        example = "" if isinstance(default, DictConfig) else f" like its default, {default}"
        raise wrong_value(key, WORDS[_kind(default)] + example, value)
    if isinstance(default, ListConfig) and len(default) > 0:
        for item in [] if value is None else value:
            if not any(_same_kind(item, other) for other in default):
                raise wrong_value(key, f"a list of values such as {default[0]}", value)


def _kind(value: Any) -> type:
    return dict if isinstance(value, DictConfig) else list if isinstance(value, ListConfig) else type(value)


def _same_kind(value: Any, default: Any) -> bool:
    return _kind(value) is _kind(default) or (_kind(value) is int and _kind(default) is float)
