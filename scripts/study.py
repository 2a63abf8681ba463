"""Run `python -m scripts.studies run` under its old name; --help says more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.studies.__main__ import main  # the line before makes it importable

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
