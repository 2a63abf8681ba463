"""Run all jobs of an experiment, several at once, and make one table of them. Stop it and start it again at will.

    python scripts/study.py experiment=study_routes data.root=../shared/data/fsdd
    python scripts/study.py experiment=study_routes data.root=../shared/data/fsdd --quick     seed 0 alone
    python scripts/study.py experiment=study_routes data.root=../shared/data/fsdd --table     of what is finished

The jobs are those of `python train.py -m <the same words>`. Runs go to <out>/<what tells the job apart>, with a log
beside each; finished ones are not run again. The table (study.csv, study.md) and the picture (frontier.png) join seeds
and left-out speakers.
"""

import argparse
import os
import signal
import sys
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="override", help="as for train.py -m, with experiment=<name>")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="jobs at once (one per core)")
    parser.add_argument("--out", type=Path, help="outputs/study_<experiment>")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], metavar="DIR", help="studies for the same table")
    arguments = parser.parse_intermixed_args()
    if arguments.lanes < 1:
        parser.error(f"--lanes must be at least 1, got {arguments.lanes}")
    from hopscotch.config.errors import ConfigError
    from hopscotch.report.sweep import refuse_other_folders
    from scripts.studies.runner import plan, run_jobs
    from scripts.studies.table import report_study

    try:
        jobs = plan(arguments.overrides, quick=arguments.quick)
        for folder in arguments.beside:
            refuse_other_folders(folder, "--beside")
    except ConfigError as error:
        sys.exit(str(error))
    named = [word.removeprefix("experiment=") for word in arguments.overrides if word.startswith("experiment=")]
    out = (arguments.out or ROOT / "outputs" / f"study_{'_'.join(named) or 'jobs'}").absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the jobs are ended too
    failed = []
    if not arguments.table:
        with closing(run_jobs(jobs, out, arguments.lanes)) as ended:  # closed, it ends the jobs that still run
            for number, (folder, finished, seconds) in enumerate(ended, start=1):
                print(f"{number} of {len(jobs)}  {seconds:6.1f} s  {folder.name}", flush=True)
                if not finished:
                    failed.append(folder)
                    print(f"  did not finish: {folder}.log", flush=True)
    if not report_study(out, arguments.beside):
        sys.exit(f"Error: there is no finished run in {out}, and so no table.")
    print(out / "study.md")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv, quiet_end

    continue_in_venv()
    with quiet_end(ValueError, OSError):
        main()
