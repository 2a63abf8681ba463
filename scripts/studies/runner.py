"""Run the jobs of a sweep side by side, each in a process of its own, and go on where it was left.

`train.py -m` runs them one after another in one process. On a machine of few cores small models gain more from a core
each than from two, and a study of hours must survive being stopped.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hopscotch.report.jobs import read_overrides

from hopscotch.config.compose import MAX_NAME, compose_sweep, file_name, quoted
from hopscotch.config.errors import ConfigError
from hopscotch.report.sweep import planned_overrides
from hopscotch.system import PROJECT_ROOT

QUICK_SEED = "seed=0"
THREADS = "OMP_NUM_THREADS"


def plan(overrides: Sequence[str], *, quick: bool) -> list[list[str]]:
    """The overrides of every job; `quick` leaves out all seeds but 0.

    What was typed takes the place of the experiment's own sweep over that key, so that part of a study can be run.
    """
    jobs = []
    for job in planned_overrides(compose_sweep(overrides)):
        values = dict(word.split("=", 1) for word in job)  # the last word has the say, in the place of the first
        jobs.append([f"{key}={value}" for key, value in {**values, "seed": values.get("seed", "0")}.items()])
    unique = list(map(list, dict.fromkeys(map(tuple, jobs))))
    if not quick:
        return unique
    if not any(QUICK_SEED in job for job in unique):
        raise ConfigError(f"--quick runs the jobs of {QUICK_SEED}, and none of these {len(unique)} has it.")
    return [job for job in unique if QUICK_SEED in job]


def run_jobs(jobs: Sequence[Sequence[str]], out: Path, lanes: int) -> Generator[tuple[Path, bool, float]]:
    """(folder, whether it finished, seconds) of each job as it ends; those that had finished before come first."""
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
                process.kill()  # its folder is made anew the next time
            raise


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What tells each job apart, as a folder name: not its experiment.

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
    """A finished run is this job's only if it was made of the same words."""
    words = folder / "overrides.yaml"
    made_of = read_overrides(words) if words.is_file() else job
    if other := [word for word in job if word not in made_of]:
        raise ValueError(
            f"--out must be a folder of this study, got {folder.parent}: its {folder.name} is finished, and was not "
            f"made with {', '.join(other)}. Remove it, or take another folder."
        )


def run_job(job: Sequence[str], folder: Path, threads: str, running: set[subprocess.Popen[bytes]]) -> float:
    """Train, what it prints going to <folder>.log; a folder that an unfinished run left is made anew.

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
    summary = folder / "summary.json"
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "finished"
