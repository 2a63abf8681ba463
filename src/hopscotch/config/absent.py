"""Refuse what a configuration names and this machine does not have: paths, packages, classes."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hopscotch.config.errors import ConfigError, absent_package, plain_config
from hopscotch.config.targets import find
from hopscotch.plain import nodes, shown
from hopscotch.registry import SOURCE_KEYS

LISTS = ("manifest", "annotations")  # a file, or one for each split
TABLES = tuple(
    f"{source}.{key}"
    for source in SOURCE_KEYS
    for key in ("table", *LISTS, *(f"{name}.{split}" for name in LISTS for split in ("train", "val", "test")))
)
RECORDINGS = ("augment.noise", "augment.impulse_responses")  # folders
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}  # and extra, of loggers that need one


def refuse_absent_paths(cfg: DictConfig) -> None:
    """Refuse a folder of data or noise, a table, a checkpoint or a model that is not there, before libraries load."""
    ckpt, start = (OmegaConf.select(cfg, key) for key in ("ckpt_path", "init_from"))
    roots = [f"{source}.root" for source in SOURCE_KEYS if not OmegaConf.select(cfg, f"{source}.fetch")]
    for key in (*roots, *RECORDINGS):
        refuse_no_folder(key, OmegaConf.select(cfg, key))
    for key in ("ckpt_path", *TABLES):
        file = OmegaConf.select(cfg, key)
        if isinstance(file, str) and not Path(file).is_file():
            kind = "a checkpoint file" if key == "ckpt_path" else "a file"
            raise ConfigError(f"{key} must be {kind}, got {shown(file)}, which is not there.")
    if isinstance(start, str) and not Path(start).exists():
        raise ConfigError(
            f"init_from must be the folder of a run or a checkpoint, got {shown(start)}: nothing is there."
        )
    refuse_no_folder("compute.teacher", OmegaConf.select(cfg, "compute.teacher"))
    if ckpt is not None and start is not None:
        raise ConfigError(
            f"init_from must be null with ckpt_path, got {shown(start)}: a run that goes on brings its weights along."
        )


def refuse_no_folder(key: str, path: object) -> None:
    if isinstance(path, str) and not Path(path).is_dir():
        problem = "is a file" if Path(path).exists() else "does not exist"
        hint = "; several folders, parted by commas, need -m" if "," in Path(path).name else ""
        raise ConfigError(f"{key} must be a folder, got {shown(path)}, which {problem}{hint}.")


def refuse_absent_packages(cfg: DictConfig) -> None:
    """Refuse a logger whose package is an extra that is not installed, before any library is loaded."""
    for node in filter(None, cfg.logger.values()):
        package = PACKAGES.get(str(node.get("_target_")).rpartition(".")[2])
        if package is not None and importlib.util.find_spec(package) is None:
            raise absent_package(f"logger={package}", package, package)


def refuse_absent_targets(cfg: DictConfig) -> None:
    """Refuse a `_target_` anywhere that cannot be imported, before anything is built."""
    for _, node in nodes(plain_config(cfg)):
        if isinstance(node, Mapping) and "_target_" in node:
            find(str(node["_target_"]))
