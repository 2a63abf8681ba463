"""Run all jobs of an experiment, several at once, and make one table of them. It can be stopped and resumed.

    python -m scripts.studies run experiment=study_routes data.root=../shared/data/fsdd
    python -m scripts.studies run experiment=study_routes data.root=../shared/data/fsdd --quick     seed 0 alone
    python -m scripts.studies run experiment=study_routes data.root=../shared/data/fsdd --table     of what is finished

The jobs are those of `python train.py -m <the same words>`, each in a process of its own: on a machine of few cores
small models gain more from a core each than from two. Runs go to <out>/<what tells the job apart>, with a log next to
each; finished ones are not run again. The table (study.csv, study.md) and the picture (frontier.png) join seeds and
held-out speakers.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig

from hopscotch.config.compose import MAX_NAME, Loader, file_name, register
from hopscotch.config.errors import ConfigError
from hopscotch.config.typed import quoted
from hopscotch.report.run_folder import RunFolder
from hopscotch.sweep import planned_overrides, refuse_other_folders
from hopscotch.system import CONF as SHIPPED
from hopscotch.system import PROJECT_ROOT, lock

CONF = PROJECT_ROOT / "scripts" / "studies" / "conf"  # as train.py searches it
QUICK_SEED = "seed=0"
THREADS = "OMP_NUM_THREADS"


def compose_sweep(overrides: Sequence[str], more: Path | None = None) -> DictConfig:
    """Compose what `python train.py -m <overrides>` starts with, Hydra's own part included, before there are jobs."""
    register()
    loader = Loader(create_config_search_path(str(SHIPPED)), more)
    return loader.load_configuration(
        "config", list(overrides), RunMode.MULTIRUN, from_shell=False, validate_sweep_overrides=False
    )


def main(arguments: Sequence[str]) -> None:
    """Run `python -m scripts.studies run`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", metavar="override", help="as for train.py -m, with experiment=<name>")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="jobs at once (one per core)")
    parser.add_argument("--out", type=Path, help="outputs/study_<experiment>")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], metavar="DIR", help="studies for the same table")
    given = parser.parse_intermixed_args(arguments)
    if given.lanes < 1:
        parser.error(f"--lanes must be at least 1, got {given.lanes}")
    from scripts.studies.table import write_table

    try:
        jobs = plan(given.overrides, quick=given.quick)
        for folder in given.beside:
            refuse_other_folders(folder, "--beside")
    except ConfigError as error:
        sys.exit(str(error))
    named = [word.removeprefix("experiment=") for word in given.overrides if word.startswith("experiment=")]
    out = (given.out or PROJECT_ROOT / "outputs" / f"study_{'_'.join(named) or 'jobs'}").absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the jobs are ended too
    all_finished = given.table or run_and_tell(jobs, out, given.lanes)
    write_table(out, given.beside)
    sys.exit(0 if all_finished else 1)


def run_and_tell(jobs: Sequence[Sequence[str]], out: Path, lanes: int) -> bool:
    """Run the jobs and print a line at the end of each; tell whether all have finished."""
    failed = []
    out.mkdir(parents=True, exist_ok=True)
    taken = lock(out, "is the folder of a study that is running: wait for it, or stop it")
    with taken, closing(run_jobs(jobs, out, lanes)) as ended:  # closed, it ends the jobs that still run
        for number, (folder, finished, seconds) in enumerate(ended, start=1):
            print(f"{number} of {len(jobs)}  {seconds:6.1f} s  {folder.name}", flush=True)
            if not finished:
                failed.append(folder)
                print(f"  did not finish: {folder}.log", flush=True)
    return not failed


def plan(overrides: Sequence[str], *, quick: bool) -> list[list[str]]:
    """Return the overrides of every job; `quick` leaves out all seeds but 0.

    What was typed replaces the sweep of the experiment over that key, so that part of a study can be run.
    """
    jobs = []
    for job in planned_overrides(compose_sweep(overrides, CONF)):
        values = dict(word.split("=", 1) for word in job)  # the last word has the say, in the place of the first
        jobs.append([f"{key}={value}" for key, value in {**values, "seed": values.get("seed", "0")}.items()])
    unique = list(map(list, dict.fromkeys(map(tuple, jobs))))
    if not quick:
        return unique
    if not any(QUICK_SEED in job for job in unique):
        raise ConfigError(f"--quick runs the jobs of {QUICK_SEED}, and none of these {len(unique)} has it.")
    return [job for job in unique if QUICK_SEED in job]


def run_jobs(jobs: Sequence[Sequence[str]], out: Path, lanes: int) -> Generator[tuple[Path, bool, float]]:
    """Yield (folder, whether it finished, seconds) of each job as it ends; those finished before come first."""
    folders = {out / name: job for name, job in zip(job_names(jobs), jobs, strict=True)}
    todo = []
    for folder, job in folders.items():
        if has_finished(folder):
            _refuse_another(folder, job)
            yield folder, True, 0.0
        else:
            todo.append((folder, job))
    threads = os.environ.get(THREADS) or str(max(1, (os.cpu_count() or 1) // lanes))  # who set it has other jobs
    running: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(lanes) as pool:
        futures = {pool.submit(run_job, job, folder, threads, running): folder for folder, job in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], has_finished(futures[future]), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()  # its folder is removed the next time
            raise


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Name the folder of each job by what tells it apart, which its experiment does not.

    A long name ends in a hash of all words, and so does one that says the same of two jobs.
    """
    names = [file_name([word for word in job if not word.startswith("experiment=")]) for job in jobs]
    told = Counter(names)
    return [
        name if told[name] == 1 and len(name) < MAX_NAME else f"{name[: MAX_NAME - 9]}_{_digest(job)}"
        for name, job in zip(names, jobs, strict=True)
    ]


def _digest(job: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(job).encode()).hexdigest()[:8]


def _refuse_another(folder: Path, job: Sequence[str]) -> None:
    """Raise if the finished run was not made of the words of this job."""
    made_of = RunFolder(folder).overrides or job
    if other := [word for word in job if word not in made_of]:
        raise ValueError(
            f"--out must be a folder of this study, got {folder.parent}: its {folder.name} is finished, and was not "
            f"made with {', '.join(other)}. Remove it, or take another folder."
        )


def run_job(job: Sequence[str], folder: Path, threads: str, running: set[subprocess.Popen[bytes]]) -> float:
    """Train and write what it prints to <folder>.log; a folder that an unfinished run left is removed first.

    The process is among `running` as long as it runs.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    words = [*job, "trainer.enable_progress_bar=false", f"hydra.run.dir={quoted(folder)}"]
    with Path(f"{folder}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT_ROOT / "train.py"), *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {THREADS: threads},
        )
        running.add(process)
        process.wait()
        running.discard(process)
    return time.time() - started


def has_finished(folder: Path) -> bool:
    return RunFolder(folder).status == "finished"
