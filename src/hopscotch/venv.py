"""Go on in the checkout's `.venv` where this Python has no packages: commands then work without activating it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # the folder of train.py
PACKAGES = ("hydra", "torch", "torchaudio", "lightning")  # looked for, not imported: --help must not wait for torch


def continue_in_venv() -> None:
    """Start the same command again with the Python of `.venv`; without one, say what makes it, and exit with 2."""
    if all(map(importlib.util.find_spec, PACKAGES)):
        return
    venv = PROJECT_ROOT / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or Path(sys.prefix).resolve() == venv.resolve():
        print(f"Packages are missing. Run once: python3 {PROJECT_ROOT / 'scripts' / 'bootstrap.py'}", file=sys.stderr)
        sys.exit(2)
    command = [str(python), *sys.argv]
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)
