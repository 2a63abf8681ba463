"""Read the words of a command line as people type them, before Hydra does.

A path may have any sign in it: where Hydra's grammar would take one for its own (`a (b)`, `a&b`, `it's`, `ünï`, `a=b`,
`~`) the value is put in quotes. A comma is part of the path; under -m it parts the values of a sweep, as for every key,
unless the whole names something that exists. Recorded paths are absolute, so that a run is read from any folder.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from hopscotch.config.absent import RECORDINGS, TABLES
from hopscotch.config.errors import ConfigError, flat, plain_config, synonym
from hopscotch.known import OF_A_PATH, refuse_unknown
from hopscotch.plain import read_config, read_yaml, shown
from hopscotch.registry import SOURCE_KEYS, check_stored, trusted

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
PATTERNS = tuple(f"{source}.group_by" for source in SOURCE_KEYS)  # may have the same signs, and are no paths
CACHES = tuple(f"{source}.cache_dir" for source in SOURCE_KEYS)
PATHS = (
    *(f"{source}.root" for source in SOURCE_KEYS),
    *CACHES,
    *TABLES,
    *RECORDINGS,
    "ckpt_path",
    "init_from",
    "compute.teacher",
    "resume",
    "backbone.weights",
    *FOLDERS,
)
AGAIN, RESUME = "again=", "resume="
OF_RESUMING = ("resume", "resume_anyway")  # of one call, and not of the run


def quoted(value: object) -> str:
    """Quote the value of an override, so that signs of Hydra's grammar in it mean themselves."""
    return QuotedString(str(value), Quote.double).with_quotes()


def absolute(path: str) -> str:
    """Make a path absolute, as seen from the folder where the command was typed, with ~ as the home folder."""
    return os.path.abspath(os.path.expanduser(path))


def prepare(words: Sequence[str], sweeps: bool = False) -> list[str]:
    """Quote the values of paths that Hydra's grammar would not take as they are; a second call changes nothing."""
    return [_prepared(word, sweeps) for word in words]


def _prepared(word: str, sweeps: bool) -> str:
    key, equals, value = word.partition("=")
    if key.lstrip("+") not in (*PATHS, *PATTERNS) or not value:
        return word
    if sweeps and key not in FOLDERS and not os.path.exists(absolute(value)):
        parsed = _parsed(word)
        if parsed is not None and parsed.is_sweep_override():
            return word
        parts = re.split(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", value)  # commas outside of double quotes
        return f"{key}={','.join(_as_path(part) for part in parts)}"
    return f"{key}{equals}{_as_path(value)}"


def _as_path(value: str) -> str:
    parsed = _parsed(f"path={value}")
    read = None if parsed is None or parsed.is_sweep_override() else parsed.value()
    is_plain = isinstance(read, str | QuotedString) or value.lower() == "null" or value.startswith("${")
    return value if parsed is not None and is_plain and value == value.strip() else quoted(value)


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def is_made_of(made_of: Sequence[str], words: Sequence[str]) -> bool:
    """Tell whether a run has these overrides: in any order, paths in quotes or not, absolute or as seen from here."""
    return set(map(with_yaml_path, map(_unquoted, words))) <= set(map(with_yaml_path, map(_unquoted, made_of)))


def _unquoted(word: str) -> str:
    parsed = _parsed(word)
    value = None if parsed is None or parsed.is_delete() or parsed.is_sweep_override() else parsed.value()
    return f"{word.partition('=')[0]}={value.text}" if isinstance(value, QuotedString) else word


def with_yaml_path(override: str) -> str:
    """Write the path in data.root=... and its like as YAML reads it, absolute; other overrides stay as they are."""
    key, _, value = override.partition("=")
    is_path = key in PATHS and value not in ("", "null")
    return f"{key}={json.dumps(escaped(absolute(value)), ensure_ascii=False)}" if is_path else override


def in_order(words: Sequence[str]) -> list[str]:
    """Put Hydra's flags first and the overrides last, whose paths are quoted; `help` is --help.

    Raises:
        ConfigError: If a word is neither a flag nor an override, with what it would be called.
    """
    given, unknown = get_args_parser().parse_known_intermixed_args(list(words))
    if given.overrides == ["help"]:
        return ["--help"]
    if unknown:
        name, _, value = unknown[0].lstrip("-").partition("=")
        value = value or next((word for word in given.overrides if "=" not in word), "<value>")
        key = synonym(name.replace("-", "_"))
        hint = f"{key}={value}" if key else "key=value, such as trainer.max_epochs=3"
        raise ConfigError(f"{unknown[0]}: there is no such flag. Keys have no dashes: {hint}. --help lists them.")
    for word in given.overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word}: an override must be key=value, such as trainer.max_epochs=3. See --help.")
    rest, flags = list(given.overrides), []
    for before, word in zip(["", *words], words, strict=False):
        if rest and word == rest[0] and before != "--config-dir":
            rest.pop(0)
        else:
            flags.append(re.sub(r"^(--config-dir=)?~", lambda found: (found[1] or "") + os.path.expanduser("~"), word))
    sweeps = given.multirun or any(word.startswith(("hparams_search=", "hydra.mode=MULTI")) for word in given.overrides)
    return [*flags, *prepare(given.overrides, sweeps)]


def with_absolute_paths(cfg: DictConfig) -> None:
    """Write the absolute path of every file and folder into `cfg`, in place; of a run's folder, only its ~."""
    for key in PATHS:
        try:
            path = OmegaConf.select(cfg, key)
        except OmegaConfBaseException:  # known only once the job runs
            continue
        if not isinstance(path, str) or (key in FOLDERS and not path.startswith("~")):
            continue
        with open_dict(cfg):
            OmegaConf.update(cfg, key, escaped(absolute(path)))


def escaped(path: str) -> str:
    """Keep OmegaConf from reading ${ in a path as a reference."""
    return path.replace("${", "\\${")


class Again:
    """Repeat a run from what its folder says was typed, and compare what becomes of that with what it was trained with.

    To go on with a run is to type its words again, and that its folder is the same. The folder may be a stranger's: its
    words name classes only from modules in trust=, and paths only of data.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Take again=<folder of a run> or resume=<folder> out of the words; without them there is nothing to repeat."""
        named = [word for word in words if word.startswith((AGAIN, RESUME)) and word != f"{RESUME}null"]
        if "LOCAL_RANK" in os.environ:  # of a further process: its words have been found by the first one
            named = []
        if len(named) > 1:
            raise ConfigError(f"{' and '.join(map(shown, named))}: one run alone can be repeated or gone on with.")
        self.folder = Path(named[0].partition("=")[2]).expanduser() if named else None
        self.trust = trusted(words) if named else []
        self.own = [word for word in words if word not in named and not (named and word.startswith("trust="))]
        self.stored: Mapping[str, Any] = {}
        self.resumes = bool(named) and named[0].startswith(RESUME)
        if self.resumes:
            refused = ("-m", "--multirun", "hydra.run.dir=", "hydra.mode=", "hparams_search=")
            if wrong := [word for word in self.own if word.startswith(refused)]:
                raise ConfigError(f"{shown(named[0])}: goes on in the folder of the run, without {shown(wrong[0])}.")
            folder = quoted(escaped(absolute(str(self.folder))))
            self.own += [f"{RESUME}{folder}", f"hydra.run.dir={folder}"]

    def words(self) -> list[str]:
        """List the words of the run, without those that are one's own."""
        if self.folder is None:
            return []
        file = self.folder / "overrides.yaml"
        self.stored, found = read_config(self.folder / "config.yaml"), read_yaml(file)
        refuse_unknown(self.stored, self.folder / "config.yaml", self.own)
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise ValueError(f"{shown(file)} must be a list of what was typed.")
        typed = {word.partition("=")[0] for word in self.own}
        return [word for one in found if one.partition("=")[0] not in typed for word in self._stored(one, file)]

    def _stored(self, word: str, file: Path) -> list[str]:
        key, _, value = word.partition("=")
        name = key.lstrip("+~")
        if name.startswith(("hydra.", "hydra/", "hparams_search")):  # its folder and its sweep are not repeated
            return []
        if name in OF_RESUMING:
            return []
        if name in PATTERNS:
            return [word]
        if name in CACHES:  # clips are kept in our own
            return []
        if name in PATHS:  # as typed it may be relative to a folder that is not known
            node: Any = self.stored
            for part in name.split("."):
                node = node.get(part) if isinstance(node, Mapping) else None
            return [f"{key}={quoted(node)}"] if isinstance(node, str) else [f"{key}=null"]
        is_trusted = any(value.startswith(f"{module}.") for module in self.trust)
        is_path = OF_A_PATH.search(value) or name.endswith(("dir", "path", "dirpath"))
        if is_path or word.startswith("-") or ("_target_" in word and not is_trusted):
            raise ValueError(
                f"{shown(file)} has {shown(word)}, and what comes with a run names neither a class nor a path: "
                "type it yourself, without again=, if you know what it does. trust=<module> allows the classes of one."
            )
        return [word]

    def check(self, cfg: DictConfig) -> None:
        """Refuse what the words of a run come to today if that is not its configuration, but for keys typed now."""
        config = plain_config(cfg)
        check_stored(config, shown(self.folder), self.trust)
        if self.resumes:  # its checkpoint says what it was trained with
            return
        own = {word.partition("=")[0].lstrip("+~") for word in self.own}
        before, now = flat(OmegaConf.create({**self.stored})), flat(OmegaConf.create(config))
        was = str(self.stored.get("run_dir"))
        changed = [
            key
            for key in sorted({*before, *now})
            if key not in CACHES
            and not any(f"{key}.".startswith(f"{name}.") for name in own)
            and not isinstance(now.get(key), dict)
            and not str(before.get(key)).startswith(was)
            and before.get(key) != now.get(key)
        ]
        if changed:
            key, more = changed[0], f", and {len(changed) - 1} more keys" if changed[1:] else ""
            raise ConfigError(
                f"{shown(self.folder)} cannot be as it was: conf/ has changed, {key} was "
                f"{shown(before.get(key))} and is {shown(now.get(key))}{more}. "
                f"Type {key}={shown(before.get(key))} too, or start a new run without it."
            )
