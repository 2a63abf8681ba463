"""Report a sweep, whole or half done: accuracy against compute and seconds, the Pareto set, what failed and why.

    python scripts/frontier.py sweep=outputs/<sweep>
    python scripts/frontier.py sweep=outputs/study_frontier_fsdd beside=outputs/study_frontier_controls

    Accuracy and cost, cheapest first; * Pareto set
    #   what                                 runs   accuracy            compute   M MACs   s of training
    1   depth_2                                 2   0.8400 ± 0.0566 *     1.000    0.848            31.1
    ...

The folder is that of `python train.py -m` or of scripts/study.py; seeds and left-out speakers are joined. Written into
it: index.html, frontier.png, groups.csv, groups.md (a row per group), frontier.csv (a row per job). `train.py -m` does
this at its end by itself.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


def main() -> None:
    arguments = sys.argv[1:]
    given = [argument.partition("=") for argument in arguments]
    sweeps = [Path(value) for key, _, value in given if key == "sweep"]
    beside = [Path(value) for key, _, value in given if key == "beside"]
    if len(sweeps) != 1 or len(sweeps) + len(beside) != len(arguments):
        print(__doc__)
        sys.exit(0 if "--help" in arguments else 2)
    from hopscotch.report.sweep import report_folder

    try:
        report_folder(sweeps[0], beside)
    except ValueError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
