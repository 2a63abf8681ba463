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
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hopscotch.config import MAX_NAME, PROJECT_ROOT, compose_sweep, file_name
from hopscotch.report.sweep import planned_overrides

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
    return [job for job in unique if QUICK_SEED in job] if quick else unique


def run_jobs(jobs: Sequence[Sequence[str]], out: Path, lanes: int) -> Generator[tuple[Path, bool, float]]:
    """(folder, whether it finished, seconds) of each job as it ends; those that had finished before come first."""
    folders = {out / job_name(job): job for job in jobs}
    todo = []
    for folder, job in folders.items():
        if has_finished(folder):
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


def job_name(job: Sequence[str]) -> str:
    """What tells the job apart, as a folder name: not its experiment; a long name ends in a hash of all words."""
    name = file_name([word for word in job if not word.startswith("experiment=")])
    if len(name) < MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}_{hashlib.sha256(' '.join(job).encode()).hexdigest()[:8]}"


def run_job(job: Sequence[str], folder: Path, threads: str, running: set[subprocess.Popen[bytes]]) -> float:
    """Train, what it prints going to <folder>.log; a folder that an unfinished run left is made anew.

    The process is among `running` as long as it runs.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    words = [*job, "trainer.enable_progress_bar=false", f"hydra.run.dir={folder}"]
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
