"""Train an audio model that learns what to skip, and see what it skipped: `hopscotch train` in a checkout.

    python train.py model=learned_skip                        # on the embedded corpus of synthetic words
    python train.py model=skip_layer data=folder data.root=F  # on your own clips, one folder per class
    python train.py -m model=dense,learned_skip seed=0,1      # a sweep
    python train.py --help                                    # all groups and choices

Works from any folder. Without the packages it goes on in the checkout's `.venv`, which scripts/bootstrap.py makes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

if __name__ == "__main__":
    from hopscotch.system import continue_in_venv

    continue_in_venv()
    from hopscotch.cli import main

    main(["train", *sys.argv[1:]])
