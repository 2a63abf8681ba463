"""Hand what was typed to Hydra, and the configuration that it composes to a run."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hopscotch.config.compose import run_hydra
from hopscotch.system import PROJECT_ROOT, outlive_reader

if TYPE_CHECKING:
    from omegaconf import DictConfig

STUDIES = PROJECT_ROOT / "scripts" / "studies" / "conf"  # the authors' experiments, beside the recipes of conf/


def task(cfg: "DictConfig") -> float:
    """Train with one checked configuration and return the score that `hparams_search` compares."""
    from hopscotch.report.records import score_of
    from hopscotch.run import train  # and with it torch
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    return score_of(train(cfg))


def main(words: Sequence[str]) -> None:
    """Train as `words` say, which are those of `hopscotch train`."""
    outlive_reader()
    sys.argv[1:] = words  # where Hydra reads them, and Lightning for the processes that it starts
    run_hydra(task, STUDIES if STUDIES.is_dir() else None)
