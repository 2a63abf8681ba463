"""Compose a checked configuration from what was typed, or stop with one message.

Hydra composes the YAML files of conf/; `hopscotch.config.check` then checks the result, before any folder is made or
any library is loaded. Every way in goes through `Loader`: a run, each job of a sweep (all of them before the first one
starts), `--cfg job`, and `compose` for scripts and tests. `more` names a further folder of groups that is searched
after conf/, such as the studies of a checkout; `--help` does not list it.

Nothing heavy is imported here, because `--help` has to answer within a second. Hydra's private modules are used here
alone, see `Loader`.
"""

import copy
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import hydra
import hydra._internal.hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.config.absent import refuse_absent_packages, refuse_absent_paths
from hopscotch.config.backbone import backbone_size
from hopscotch.config.check import check, refuse_missing, without_hydra
from hopscotch.config.errors import ConfigError, explain
from hopscotch.config.monitors import usual
from hopscotch.config.typed import Again, in_order, prepare, with_absolute_paths
from hopscotch.system import CONF, outputs

STARTED = time.time()  # as near to the start of the process as Python code gets
MORE = "more"  # provider of the further folder in Hydra's search path
MAX_NAME = 100  # characters of a folder's name; file systems stop at 255 bytes
FIRST = ("model", "data", "size", "trainer", "experiment")  # in --help; the rest by the alphabet, then LAST
LAST = ("baseline", "debug")
RANKS = {name: rank - len(FIRST) for rank, name in enumerate(FIRST)} | dict.fromkeys(LAST, 1)
AS_RUN = "hydra.mode=RUN"  # what Hydra adds where nothing says that it is a sweep
LAYERS_ON_TOP = (
    "experiment/",
    "recipe/",
    "baseline/",
    "hparams_search/",
    "debug/",
)  # groups that only override other groups


def file_name(given: str | Sequence[Any]) -> str:
    """Make a folder name without quotes: ["model=dense", "data.root=../x", "seed=1"] -> model-dense_seed-1."""
    parts = []
    for override in [given] if isinstance(given, str) else given:
        key, _, value = str(override).rpartition("=")
        if not re.search(r"[/\\]", value) or isinstance(given, str):  # a path says little and is long
            parts.append(re.sub(r"[^\w.+]+", "-", f"{key.rpartition('.')[2]} {value}").strip("-"))
    return "_".join(parts)[:MAX_NAME]


def new_folder(name: str) -> str:
    """Name a folder that no other run has: outputs/<date>_<time>_<name>_<id>."""
    return str(outputs() / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}_{secrets.token_hex(3)}")


def run_dir() -> str:
    """Return the folder of the run in progress, or a placeholder if there is none."""
    known = HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir")
    return HydraConfig.get().runtime.output_dir if known else "<run folder>"


def groups() -> str:
    """List the groups and choices of conf/ and of --config-dir for --help."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    folders = [Path(source.path) for source in sources if source.scheme() == "file" and source.provider != MORE]
    return describe_groups(folders, HydraConfig.get().runtime.choices)


def register() -> None:
    """Teach OmegaConf the functions that conf/ calls as ${name:}; a second call changes nothing."""
    setup_globals()  # Hydra's own, such as ${now:}
    OmegaConf.register_new_resolver("new_folder", new_folder, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("file_name", file_name, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("backbone_size", backbone_size, replace=True)
    OmegaConf.register_new_resolver("monitor", usual, replace=True)


class Repository(ConfigRepository):
    """Read a YAML file once in a process, until it changes: a quarter of composing is reading them."""

    read: ClassVar[dict[tuple[str, Path, int, int], ConfigResult | None]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        file = Path(source.path) / source._normalize_file_name(config_path)
        state = file.stat()
        key = source.provider, file, state.st_mtime_ns, state.st_size
        if key not in self.read:
            self.read[key] = super().load_config(config_path)
        return copy.deepcopy(self.read[key])


class Loader(ConfigLoaderImpl):
    """Compose as Hydra does, then check our rules.

    Hydra 1.3 has no public hook between composing and running that sees each job of a sweep beforehand and may refuse
    it, so its loader is subclassed.
    """

    def __init__(self, config_search_path: ConfigSearchPath, more: Path | None = None) -> None:
        """Search the folder `more` after those of `config_search_path`."""
        if more is not None:
            config_search_path.append(MORE, f"file://{more.resolve()}", SearchPathQuery(provider="main"))
        super().__init__(config_search_path)
        self.repository = Repository(config_search_path)
        self.defaults = OmegaConf.create()  # what the chosen files say before anything overrides them
        self.jobs = dict[tuple[str, ...], DictConfig]()  # of a sweep, which were checked and not launched
        self.parsed = list[Override]()
        self.asked: tuple[list[str], DictConfig] | None = None  # what was composed to see whether it is a sweep

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "jobs": {}}  # a launcher that sends this to a process sends one job with it

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        files = [file for file in defaults if not str(file.config_path).startswith(LAYERS_ON_TOP)]
        same = len(files) == len(defaults)
        self.defaults = without_hydra(cfg if same else super()._compose_config_from_defaults_list(files, repo))
        return cfg

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        self.parsed, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        return self.parsed, repository

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose; what Hydra composes to see whether it is a sweep, without validating, is taken for the run, too."""
        asked, self.asked = self.asked, None
        if asked is not None and run_mode is RunMode.RUN and overrides == [*asked[0], AS_RUN]:
            self.validate_sweep_overrides_legal(self.parsed, run_mode, from_shell)
            asked[1].hydra.mode = run_mode
            asked[1].hydra.overrides.hydra.append(AS_RUN)
            return asked[1]
        cfg = super()._load_configuration_impl(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        choices = cfg.hydra.runtime.choices
        if not validate_sweep_overrides and not any(OmegaConf.is_missing(choices, group) for group in choices):
            self.asked = list(overrides), cfg
        return cfg

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check one run, or compose the start of a sweep; ConfigError says what is wrong."""
        try:
            cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            if config_name is not None:
                with_absolute_paths(cfg)
            if run_mode is RunMode.RUN and config_name is not None:  # a sweep is checked job by job
                check(cfg, self.defaults)
            return cfg
        except ConfigError:
            raise
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, overrides, self) from error

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose a job of a sweep; Hydra asks twice for each, to check them all and to launch it."""
        words = tuple(sweep_overrides)
        if words in self.jobs:
            return self.jobs.pop(words)
        job = super().load_sweep_config(master_config, sweep_overrides)
        if is_basic(master_config):  # a search checks nothing beforehand
            self.jobs[words] = job
        return job

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """List the choices of a group."""
        if config_name is None and not overrides:  # Hydra copies all it has read at every call: half the time of --help
            return self.repository.get_group_options(group_name, results_filter)
        return super().get_group_options(group_name, results_filter, config_name, overrides)


def is_basic(config: DictConfig) -> bool:
    """Tell whether every job of a sweep is known beforehand."""
    return config.hydra.sweeper["_target_"].endswith("BasicSweeper")


def compose(
    overrides: Sequence[str] = (), config_dir: str | Path | None = None, more: Path | None = None
) -> DictConfig:
    """Compose and check what `python train.py <overrides>` would run with.

    Args:
        overrides: what would be typed.
        config_dir: a folder of groups that is searched too, as with --config-dir.
        more: a further one.
    """
    register()
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        search_path.append("extra", f"file://{Path(config_dir).resolve()}", SearchPathQuery(provider="main"))
    cfg = Loader(search_path, more).load_configuration("config", prepare(overrides), RunMode.RUN, from_shell=False)
    cfg = without_hydra(cfg)
    OmegaConf.set_struct(cfg, True)  # reading a key that is not there is an error
    return cfg


def _remove_unused(sweep: Path) -> None:
    """Remove the folder that Hydra makes for a sweep before it composes the jobs, if there is no job in it."""
    if sweep.is_dir() and [path.name for path in sweep.iterdir()] == ["multirun.yaml"]:
        (sweep / "multirun.yaml").unlink()
        sweep.rmdir()


def run_hydra(task_function: Callable[[DictConfig], Any], more: Path | None = None) -> None:
    """Hand what was typed (sys.argv) to Hydra, and the checked configuration to `task_function`.

    A broken rule ends the process with its message on stderr and exit code 1. The task reports its own errors; in a
    sweep it must not raise, because Hydra would drop the jobs after it.
    """
    try:
        again = Again(sys.argv[1:])
        words = again.words()
        sys.argv[1:] = in_order([*words, *again.own])  # Lightning starts further processes with them
        if again.folder is not None:
            again.check(compose(words, get_args_parser().parse_args().config_dir, more))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    asked = get_args_parser().parse_known_args()[0]
    only_shown = asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion

    class CommandLineLoader(Loader):
        sweep: DictConfig | None = None

        def __init__(self, config_search_path: ConfigSearchPath) -> None:
            super().__init__(config_search_path, more)

        def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
            try:
                cfg = super().load_configuration(*args, **kwargs)
                if kwargs["run_mode"] is RunMode.MULTIRUN:
                    self.sweep = cfg
                elif not only_shown:
                    refuse_missing(cfg)
                    refuse_absent_packages(cfg)
                    refuse_absent_paths(cfg)
            except ConfigError as error:
                if asked.shell_completion:  # which suggests nothing then, and must not print
                    raise SystemExit(1) from None
                if self.sweep is not None and (asked.multirun or self.sweep.hydra.mode is RunMode.MULTIRUN):
                    _remove_unused(Path(self.sweep.hydra.sweep.dir))
                raise SystemExit(str(error)) from None
            return cfg

    register()
    hydra_main.ConfigLoaderImpl = CommandLineLoader
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task_function)()


def describe_groups(folders: Iterable[Path], chosen: Mapping[str, Any]) -> str:
    """Write one line per choice: the name of its file in a group's folder, and the comment at the top of the file."""
    lines = []
    for folder in folders:
        groups = (path for path in folder.iterdir() if path.is_dir() and path.name != "hydra")
        for group in sorted(groups, key=lambda path: (RANKS.get(path.name, 0), path.name)):
            lines.append(group.name)
            for file in sorted(group.glob("*.yaml")):
                mark = "*" if chosen.get(group.name) == file.stem else " "
                lines.append(f"  {mark} {file.stem:<22}{_purpose(file)}".rstrip())
    return "\n".join(lines)


def _purpose(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "# python ")):  # an experiment opens with its command
            return line.removeprefix("#").strip()
    return ""
