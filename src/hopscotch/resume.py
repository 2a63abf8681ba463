"""Go on with a run in its own folder: from the last of its checkpoints that is whole, as one process at a time.

The folder may be a stranger's: it is data, read as evaluation reads it, and nothing is written through a link in it.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from omegaconf import DictConfig, OmegaConf

from hopscotch.config.errors import plain_config
from hopscotch.config.typed import OF_RESUMING
from hopscotch.files import refuse_links, replace_file
from hopscotch.known import remember
from hopscotch.plain import sentence, shown
from hopscotch.report.run_folder import BEST, CONFIG, OVERRIDES, SUMMARY, config_of
from hopscotch.system import lock
from hopscotch.training.checkpoint import check_resumable, read_checkpoint
from hopscotch.training.whole import LAST, PREVIOUS, hash_file

DAMAGED = ".damaged"  # is added to the name of a checkpoint that is not whole, for what is kept next is not to push out
NAMES = (LAST, PREVIOUS, BEST.name)  # checkpoints of a run, the newest first


class From(NamedTuple):
    """Name the checkpoint that training goes on from, with its content."""

    path: Path
    checkpoint: Mapping[str, Any]
    key: str  # by which it was given
    damaged: list[Path]  # newer ones that are not whole

    @property
    def step(self) -> int:
        return int(self.checkpoint["global_step"])


def find_start(cfg: DictConfig) -> From | None:
    """Find the checkpoint that a configuration asks to go on from, and say which ones are not whole.

    Raises:
        ValueError: If the only ones there are are not whole.
    """
    damaged: dict[Path, ValueError] = {}
    for path in [] if cfg.resume is None else [Path(cfg.resume) / BEST.parent / name for name in NAMES]:
        if not path.is_file():
            continue
        try:
            found = From(path, _resumable(path, "resume"), "resume", list(damaged))
        except ValueError as error:
            damaged[path] = error
            continue
        for error in damaged.values():
            rank_zero_warn(f"{sentence(error)} The one before it is taken, {path.name} of step {found.step}.")
        return found
    if damaged:
        raise ValueError(
            f"resume={shown(cfg.resume)} has no checkpoint that is whole: {' '.join(map(str, damaged.values()))}"
        )
    if cfg.ckpt_path is not None:
        return From(Path(cfg.ckpt_path), _resumable(Path(cfg.ckpt_path), "ckpt_path"), "ckpt_path", [])
    return None


def _resumable(path: Path, key: str) -> Mapping[str, Any]:
    checkpoint = read_checkpoint(path, key)
    check_resumable(checkpoint, path, key)
    return checkpoint


@rank_zero_only
def refuse_strange(run: Path) -> None:
    """Refuse a folder that is no run's, or has a link anywhere."""
    config_of(run)
    refuse_links(run, [path.name for path in run.iterdir()])


def goes_on(run: Path) -> bool:
    """Tell whether a run of ours that was cut short has a checkpoint to go on from; one without is removed."""
    if not (run / CONFIG).is_file():
        return False
    with lock(run, "is being trained by another process: wait for it, or stop it"):
        if has_checkpoint(run):
            (run / SUMMARY).unlink(missing_ok=True)
            return True
        shutil.rmtree(run)
        return False


def has_checkpoint(run: Path) -> bool:
    return any((run / BEST.parent).glob("*.ckpt"))


@rank_zero_only
def take_over(run: Path, cfg: DictConfig, overrides: list[str], start: From | None) -> None:
    """Write down what the run goes on with, and set aside what is not whole."""
    replace_file(run / OVERRIDES, OmegaConf.to_yaml(typed(overrides)))
    replace_file(run / CONFIG, resolved(cfg))
    remember(plain_config(cfg))
    (run / SUMMARY).unlink(missing_ok=True)  # of the process before
    for path in [] if start is None else start.damaged:
        hash_file(path).unlink(missing_ok=True)
        os.replace(path, path.with_name(path.name + DAMAGED))


def resolved(cfg: DictConfig) -> str:
    """Write a configuration as its run keeps it: that it goes on is not of the run."""
    own = {"resume": None, "resume_anyway": False}
    return OmegaConf.to_yaml(OmegaConf.merge(cfg, own), resolve=True)


def typed(overrides: list[str]) -> list[str]:
    """List what was typed as its run keeps it, likewise."""
    return [word for word in overrides if word.partition("=")[0] not in OF_RESUMING]
