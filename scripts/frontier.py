"""Run `hopscotch sweep` in a checkout under its old name; --help says more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
from hopscotch.system import continue_in_venv  # the line before makes it importable

if __name__ == "__main__":
    continue_in_venv()
    from hopscotch.cli import main

    main(["sweep", *sys.argv[1:]])
