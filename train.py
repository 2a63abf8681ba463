"""Train an audio model that learns what to skip, and see what it skipped.

    python train.py model=learned_skip                        # on the embedded corpus of synthetic words
    python train.py model=skip_layer data=folder data.root=F  # on your own clips, one folder per class
    python train.py -m model=dense,learned_skip seed=0,1      # a sweep
    python train.py --help                                    # all groups and choices

Works from any folder. Without the packages it goes on in the checkout's `.venv`, which scripts/bootstrap.py makes.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent
STUDIES = ROOT / "scripts" / "studies" / "conf"  # the authors' experiments, beside the recipes of conf/
sys.path.insert(0, str(ROOT / "src"))


def task(cfg: "DictConfig") -> float:
    """Train with one checked configuration and return the score that `hparams_search` compares."""
    from hopscotch.report.records import score_of
    from hopscotch.run import train  # and with it torch
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    return score_of(train(cfg))


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv

    continue_in_venv()
    from hopscotch.config.compose import run_hydra
    from hopscotch.system import quiet_end

    with quiet_end():
        run_hydra(task, STUDIES)
