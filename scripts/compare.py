"""Runs side by side: configurations where they differ, figures with intervals, and the clips on which they disagree.

    python scripts/compare.py outputs/<run> outputs/<run> outputs/<run> --out clips.csv

    Figures: mean (lowest to highest seed)
                           A: dense, seeds 0 1           B: learned_skip, seed 0
    test acc          0.9867 (0.9833 to 0.9900)                          0.9833
      95 % over clips          0.9767 to 0.9967                0.9667 to 0.9967
    ...
    accuracy of B minus A on the same clips  -0.003 (-0.015 to +0.008)  95 % over clips

    python scripts/compare.py outputs/<run> outputs/<run> --evaluation     as scripts/evaluate.py last judged each

Runs that differ in nothing but the seed are one column. The first 20 clips are shown; --out writes all of them.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="a run's folder")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file for all clips on which they disagree")
    parser.add_argument(
        "--evaluation", action="store_true", help="by the last scripts/evaluate.py of each run, and not by its test"
    )
    arguments = parser.parse_args()
    if arguments.out is not None and arguments.out.is_dir():
        parser.error(f"--out must be a file, got the folder {arguments.out}")
    from hopscotch.plain import as_written
    from scripts.studies.compare import compare_runs

    with as_written(Path(", ".join(map(str, arguments.runs)))):
        compare_runs(arguments.runs, arguments.out, evaluated=arguments.evaluation)


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv, quiet_end

    continue_in_venv()
    with quiet_end(ValueError, OSError):
        main()
