"""What a user gave is wrong: say key, rule, value and the nearest valid name, in one message."""

import difflib
from collections.abc import Iterable
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PLUGINS = {"hydra/sweeper/optuna": "hydra-optuna-sweeper", "hydra/launcher/joblib": "hydra-joblib-launcher"}


class ConfigError(ConfigCompositionException, ValueError):
    """The configuration breaks a rule; the text is complete and meant for the person who typed it."""


def nearest(name: str, names: Iterable[str]) -> str:
    """ " Did you mean x?", or nothing where no name comes near."""
    names = [known for known in names if not name.startswith(f"{known}.")]
    close = difflib.get_close_matches(name, names, n=1)
    if not close:  # the right leaf at the wrong place: max_epochs for trainer.max_epochs
        leaves = {known.rpartition(".")[2]: known for known in reversed(names)}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], leaves, n=1, cutoff=0.8)]
    return f" Did you mean {close[0]}?" if close else ""


def unknown_key(key: str, value: object, names: Iterable[str]) -> ConfigError:
    given = "" if value is None else f"={value}"
    return ConfigError(f"{key}{given}: there is no key {key}.{nearest(key, names)}")


def unknown_choice(group: str, choice: str, choices: Iterable[str]) -> ConfigError:
    known = sorted(choices)
    return ConfigError(f"{group}={choice}: {group} must be one of {', '.join(known)}.{nearest(choice, known)}")


def wrong_value(key: str, words: str, value: object, choices: Iterable[str] = ()) -> ConfigError:
    given = {"None": "null", "True": "true", "False": "false"}.get(str(value), value)  # as YAML writes them
    return ConfigError(f"{key} must be {words}, got {given}.{nearest(str(value), choices)}")


def flat(cfg: DictConfig) -> dict[str, Any]:
    """Every key as it is typed on the command line, and what stands there unresolved; the shallow keys first."""
    found: dict[str, Any] = {}
    level = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    level.pop("hydra", None)
    while level:
        found |= level
        maps = {path: node for path, node in level.items() if isinstance(node, dict)}
        level = {f"{path}.{key}": value for path, node in maps.items() for key, value in node.items()}
    return found


def explain(error: Exception, overrides: list[str], loader: ConfigLoader) -> ConfigError:
    """Hydra's or OmegaConf's complaint about what was typed, in our words."""
    if isinstance(error, OverrideParseException):
        return ConfigError(f"{error.override}: {error.message.splitlines()[0]}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        if plugin := PLUGINS.get(error.missing_cfg_file):
            return ConfigError(
                f"{error.missing_cfg_file} needs the package {plugin}, of the extra sweep: "
                'python -m pip install -e ".[sweep]" -c constraints.txt'
            )
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown_choice(group, choice, error.options)
    groups = loader.list_groups("")
    typed = {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        root = OmegaConf.create() if cause.parent_node is None else cause.parent_node._get_root()
        return unknown_key(cause.full_key, typed.get(cause.full_key), [*groups, *flat(root)])
    for group in set(typed).intersection(groups):  # model=5 and model=null, which Hydra meets with a bare ValueError
        if typed[group] not in loader.get_group_options(group):
            return unknown_choice(group, typed[group], loader.get_group_options(group))
    return ConfigError(" ".join(str(error).split()))
