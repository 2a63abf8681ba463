"""Train an audio model that learns what to skip, and see what it skipped.

    python train.py model=learned_skip                        # on the embedded corpus of synthetic words
    python train.py model=skip_layer data=folder data.root=F  # on your own clips, one folder per class
    python train.py -m model=dense,learned_skip seed=0,1      # a sweep
    python train.py --help                                    # all groups and choices

Works from any folder. Without the packages it goes on in the checkout's `.venv`, which scripts/bootstrap.py makes.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent
PACKAGES = ("hydra", "torch", "torchaudio", "lightning")  # looked for, not imported: --help must not wait for torch


def continue_in_venv() -> None:
    """Start again with the Python of `.venv`; without one, say which command makes it."""
    venv = ROOT / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or Path(sys.prefix).resolve() == venv.resolve():
        command = ["python3", str(ROOT / "scripts" / "bootstrap.py"), "train", *sys.argv[1:]]
        print(f"Packages are missing. Run: {shlex.join(command)}", file=sys.stderr)
        sys.exit(2)
    command = [str(python), str(ROOT / "train.py"), *sys.argv[1:]]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def task(cfg: "DictConfig") -> float:
    """Train with one checked configuration; the score is for `hparams_search`."""
    from hopscotch.allocator import keep_freed_memory
    from hopscotch.report.score import score_of
    from hopscotch.run import train  # and with it torch

    keep_freed_memory()
    return score_of(Path(cfg.run_dir), train(cfg))


if __name__ == "__main__":
    if not all(map(importlib.util.find_spec, PACKAGES)):
        continue_in_venv()
    sys.path.insert(0, str(ROOT / "src"))
    from hopscotch.config import run_hydra

    run_hydra(task)
