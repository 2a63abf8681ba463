"""Report a sweep, whole or half done: accuracy against compute and seconds, the Pareto set, what failed and why.

    python scripts/frontier.py sweep=outputs/<sweep>
    python scripts/frontier.py sweep=outputs/study_frontier_fsdd beside=outputs/study_frontier_controls

    Accuracy and cost, cheapest first; * Pareto set
    #   what                          runs          test acc       M MACs   ms a clip   fit s
    1   skip_transformer, asked 0.2      6   0.8813 ± 0.0211   *    0.667        0.48   159.1
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
    from hopscotch.plain import as_written
    from hopscotch.report.sweep import report_folder

    with as_written(sweeps[0]):
        report_folder(sweeps[0], beside)


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv, quiet_end

    continue_in_venv()
    with quiet_end(ValueError, OSError):
        main()
