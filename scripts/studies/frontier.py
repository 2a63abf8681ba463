"""Report a finished or running sweep: accuracy against compute and seconds, the Pareto set, what failed and why.

    python -m scripts.studies frontier sweep=outputs/<sweep>
    python -m scripts.studies frontier sweep=outputs/study_frontier_fsdd beside=outputs/study_frontier_baselines

    Means over seeds, cheapest first
    #   model              overrides       runs   test acc   deviation   compute   M MACs   ms a clip   Pareto (compute)
    1   skip_transformer   at_budget=0.2      6     0.8813      0.0211     0.210    0.667        0.48   yes
    ...

The folder is that of `python train.py -m` or of `python -m scripts.studies run`; seeds and held-out speakers are
joined. Written into it: index.html, frontier.png, groups.csv, groups.md (a row per group), frontier.csv (a row per
job). `train.py -m` does this at its end by itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> None:
    """Run `python -m scripts.studies frontier`."""
    given = [word.partition("=") for word in words]
    sweeps = [Path(value) for key, _, value in given if key == "sweep"]
    beside = [Path(value) for key, _, value in given if key == "beside"]
    if len(sweeps) != 1 or len(sweeps) + len(beside) != len(words):
        print(__doc__)
        sys.exit(0 if "--help" in words else 2)
    from hopscotch.report.sweep import report_folder

    report_folder(sweeps[0], beside)
