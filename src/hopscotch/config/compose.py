"""From what was typed to a configuration that keeps every rule, or to one message.

Hydra composes the YAML files of conf/; `check` then holds the result against `config_schema`, before any folder is made
or any library is loaded. Every way in comes through `Loader`: a run, each job of a sweep (all of them before the first
one starts), `--cfg job`, and `compose` for scripts and tests.

Nothing heavy is imported here: `--help` has to answer within a second.

The part of `--help` that comes from conf/: groups, their choices, and what each is for.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.config.check import check, refuse_missing, without_hydra
from hopscotch.config.errors import ConfigError, explain
from hopscotch.system import PROJECT_ROOT

STARTED = time.time()  # as near to the start of the process as Python code gets
CONF = PROJECT_ROOT / "conf"
MAX_NAME = 100  # characters of a folder's name; file systems stop at 255 bytes
LAYERS_ON_TOP = (
    "experiment/",
    "baseline/",
    "hparams_search/",
    "debug/",
)  # groups that only override what other groups define


def file_name(given: str | Sequence[Any]) -> str:
    """A folder name that no shell has to quote: ["model=dense", "data.root=../x", "seed=1"] -> model-dense_seed-1."""
    parts = []
    for override in [given] if isinstance(given, str) else given:
        key, _, value = str(override).rpartition("=")
        if not re.search(r"[/\\]", value) or isinstance(given, str):  # a path says little and is long
            parts.append(re.sub(r"[^\w.+]+", "-", f"{key.rpartition('.')[2]} {value}").strip("-"))
    return "_".join(parts)[:MAX_NAME]


def quoted(value: object) -> str:
    """As the value of an override: as it stands, whatever signs of Hydra's grammar are in it."""
    return QuotedString(str(value), Quote.double).with_quotes()


def run_dir() -> str:
    """The folder of the run in progress; outside of a run, words for it."""
    known = HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir")
    return HydraConfig.get().runtime.output_dir if known else "<run folder>"


def groups() -> str:
    """The groups and choices of conf/, and of --config-dir, for --help."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    folders = [Path(source.path) for source in sources if source.scheme() == "file"]
    return describe_groups(folders, HydraConfig.get().runtime.choices)


def register() -> None:
    """Teach OmegaConf the functions that conf/ calls as ${name:}; a second call changes nothing."""
    setup_globals()  # Hydra's own, such as ${now:}
    OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
    OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("file_name", file_name, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)


class Loader(ConfigLoaderImpl):
    """Hydra's composition, followed by our rules.

    Hydra has no public hook between composing and running that sees each job of a sweep beforehand and may refuse it.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.defaults = OmegaConf.create()  # what the chosen files say before anything overrides them

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        files = [file for file in defaults if not str(file.config_path).startswith(LAYERS_ON_TOP)]
        same = len(files) == len(defaults)
        self.defaults = without_hydra(cfg if same else super()._compose_config_from_defaults_list(files, repo))
        return cfg

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        try:
            cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            if run_mode is RunMode.RUN and config_name is not None:  # a sweep is checked job by job
                check(cfg, self.defaults)
            return cfg
        except ConfigError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, overrides, self) from error

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name is None and not overrides:  # Hydra copies all it has read at every call: half the time of --help
            return self.repository.get_group_options(group_name, results_filter)
        return super().get_group_options(group_name, results_filter, config_name, overrides)


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """What `python train.py <overrides>` would run with; `config_dir` is searched too, as with --config-dir."""
    register()
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        search_path.append("extra", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="main"))
    cfg = Loader(search_path).load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
    cfg = without_hydra(cfg)
    OmegaConf.set_struct(cfg, True)  # reading a key that is not there is an error
    return cfg


def compose_sweep(overrides: Sequence[str]) -> DictConfig:
    """What `python train.py -m <overrides>` starts with, Hydra's own part included: the jobs are yet to be made."""
    register()
    loader = Loader(create_config_search_path(str(CONF)))
    return loader.load_configuration(
        "config", list(overrides), RunMode.MULTIRUN, from_shell=False, validate_sweep_overrides=False
    )


def _remove_unused(sweep: Path) -> None:
    """Take back the folder that Hydra makes for a sweep before it composes the jobs, if there is no job in it."""
    if sweep.is_dir() and [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        sweep.rmdir()


def run_hydra(task_function: Callable[[DictConfig], Any]) -> None:
    """Hand what was typed (sys.argv) to Hydra, and the checked configuration to `task_function`.

    A broken rule ends the process with its message on stderr and exit code 1. What the task finds wrong by itself is
    the task's to report; in a sweep it must not raise, for Hydra would lose the jobs after it.
    """
    asked = get_args_parser().parse_known_args()[0]
    only_shown = asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion

    class CommandLineLoader(Loader):
        sweep: DictConfig | None = None

        def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
            try:
                cfg = super().load_configuration(*args, **kwargs)
                if kwargs["run_mode"] is RunMode.MULTIRUN:
                    self.sweep = cfg
                elif not only_shown:
                    refuse_missing(cfg)
            except ConfigError as error:
                if asked.shell_completion:  # which suggests nothing then, and must not print
                    raise
                if self.sweep is not None and (asked.multirun or self.sweep.hydra.mode is RunMode.MULTIRUN):
                    _remove_unused(Path(self.sweep.hydra.sweep.dir))
                raise SystemExit(str(error)) from None
            return cfg

    register()
    hydra_main.ConfigLoaderImpl = CommandLineLoader
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task_function)()


def describe_groups(folders: Iterable[Path], chosen: Mapping[str, Any]) -> str:
    """One line per choice: the name of its file in a group's folder, and the comment that the file opens with."""
    lines = []
    for folder in folders:
        for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "hydra"):
            lines.append(group.name)
            for file in sorted(group.glob("*.yaml")):
                mark = "*" if chosen.get(group.name) == file.stem else " "
                lines.append(f"  {mark} {file.stem:<22}{_purpose(file)}".rstrip())
    return "\n".join(lines)


def _purpose(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""
