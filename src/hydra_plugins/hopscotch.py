"""Launch the jobs of a sweep as processes: hydra/launcher=processes. Hydra takes launchers from this package alone.

A job that has finished before, in the same folder of the sweep, is not run again; one that has not is gone on with from
its last checkpoint or, where there is none, run from the start. Hydra loads this module with every command, so what it
needs is imported where it is used.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from hopscotch.jobs import Ended, Job


class Planned(NamedTuple):
    """Hold a job with its number in the sweep, and its configuration as Hydra's callbacks want it."""

    number: int
    name: str  # of its folder in that of the sweep
    folder: Path
    overrides: list[str]
    config: DictConfig


class ProcessesLauncher(Launcher):
    """Run up to `n_jobs` jobs at once, each as `hopscotch train` in a process of its own."""

    def __init__(self, n_jobs: int) -> None:
        if n_jobs < 1:
            raise SystemExit(f"Error: hydra.launcher.n_jobs must be at least 1, got {n_jobs}.")
        self.n_jobs = n_jobs
        self.context: Any = None
        self.task: Any = None
        self.config: Any = None
        self.first: int | None = None  # number of the first job of a search

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, and return their scores; a failed one has the lowest."""
        from hopscotch.system import lock

        sweep = Path(self.config.hydra.sweep.dir).absolute()
        sweep.mkdir(parents=True, exist_ok=True)
        try:
            with lock(sweep, "is the folder of a sweep that is running: wait for it, or stop it"):
                jobs = self._plan(sweep, job_overrides, initial_job_idx)
                return self._run(sweep, jobs)
        except ValueError as error:
            raise SystemExit(f"Error: {error}") from None

    def _plan(self, sweep: Path, job_overrides: Sequence[Sequence[str]], start: int) -> list[Planned]:
        """Compose the jobs, and find the folder of each."""
        from hopscotch.config.compose import is_basic
        from hopscotch.files import refuse_links
        from hopscotch.plain import shown

        if self.first is None:  # a search goes on with other jobs, which are not to take the folders of those before
            self.first = 0 if is_basic(self.config) else sum(path.is_dir() for path in sweep.iterdir())
        planned, before = {}, HydraConfig.instance().cfg
        for number, overrides in enumerate(job_overrides, start=self.first + start):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
            HydraConfig.instance().set_config(config)
            name = os.path.normpath(str(OmegaConf.select(config, "hydra.sweep.subdir")))
            if os.path.isabs(name) or name.split(os.sep)[0] in (".", "..") or name in planned:
                raise ValueError(
                    "hydra.sweep.subdir must name, within the sweep's folder, a folder of its own for each job, got "
                    f"{shown(name)} for job {number}."
                )
            words = list(config.hydra.overrides.task)
            refuse_links(sweep, [name])
            planned[name] = Planned(number, name, sweep / name, words, config)
        HydraConfig.instance().cfg = before
        for job in planned.values():
            _refuse_another(job)
        return list(planned.values())

    def _run(self, sweep: Path, planned: Sequence[Planned]) -> list[JobReturn]:
        from hopscotch.jobs import Jobs

        known = {job.folder: job for job in planned}
        results: dict[Path, JobReturn] = {}
        jobs = Jobs(self.n_jobs, logs=self.n_jobs > 1)

        def waiting() -> Iterator["Job"]:
            for job in planned:
                summary = _summary(job.folder)
                if summary.get("status") == "finished":
                    print(f"{job.name} has finished before")
                    results[job.folder] = _returned(job, summary)
                    continue
                self.context.callbacks.on_job_start(config=job.config, task_function=self.task)
                try:
                    yield self._job(job)
                except ValueError as error:  # another process trains in its folder
                    print(f"Error: {error}", file=sys.stderr)

        for ended in jobs.run(waiting()):
            job = known[ended.job.folder]
            results[job.folder] = _told(sweep, job, ended)
            self.context.callbacks.on_job_end(config=job.config, job_return=results[job.folder])
            if jobs.logs:
                print(f"{ended.seconds:7.1f} s  {job.name}", flush=True)
        if jobs.number is not None:
            with suppress(SystemExit):  # of a failed job
                self.context.callbacks.on_multirun_end(config=self.config)
            raise SystemExit(128 + jobs.number)
        return [results.get(job.folder) or _returned(job, {}) for job in planned]

    def _job(self, planned: Planned) -> "Job":
        """Make the words of the process of a job, and its folder ready for it."""
        from hopscotch.config.typed import escaped, quoted
        from hopscotch.jobs import Job
        from hopscotch.resume import goes_on

        folder, config = planned.folder, planned.config
        sources = config.hydra.runtime.config_sources
        flags = [word for one in sources if one.provider == "command-line" for word in ("--config-dir", one.path)]
        own = [f"hydra.job.num={planned.number}", f"hydra.job.id={planned.number}"]
        if goes_on(folder):
            return Job(folder, [*flags, f"resume={folder}", *own])
        bar = ["trainer.enable_progress_bar=false"] if self.n_jobs > 1 else []
        where = f"hydra.run.dir={quoted(escaped(str(folder)))}"
        return Job(folder, [*flags, *planned.overrides, *bar, "hydra.mode=RUN", where, *own])


def _summary(folder: Path) -> dict[str, Any]:
    """Read how the run of a job has ended; what was cut while it was written says nothing."""
    from hopscotch.report.run_folder import SUMMARY, RunFolder

    try:
        return RunFolder(folder).summary
    except ValueError:
        (folder / SUMMARY).unlink()
        return {}


def _refuse_another(job: Planned) -> None:
    """Raise if the folder of a job has a run that was not made of its words."""
    from hopscotch.config.typed import is_made_of
    from hopscotch.plain import shown
    from hopscotch.report.run_folder import RunFolder

    made_of = RunFolder(job.folder).overrides
    if made_of and not is_made_of(made_of, job.overrides):
        raise ValueError(
            f"hydra.sweep.dir must be a new folder, or that of the same sweep: {shown(job.folder)} has a run of other "
            f"words ({shown(' '.join(made_of))})."
        )


def _told(sweep: Path, job: Planned, ended: "Ended") -> JobReturn:
    """Write the line of a job in the ledger of the sweep; a process that could not tell how it ended has failed."""
    from hopscotch.report.records import logged_error
    from hopscotch.sweep import append_ledger

    said = logged_error(Path(f"{job.folder}.log"))
    error = ended.reason + (f", and the last that it said was: {said}" if said else "")
    summary = _summary(job.folder) or {"status": "failed", "error": error}
    append_ledger(sweep, {"folder": job.name, "overrides": job.overrides, **summary})
    return _returned(job, summary)


def _returned(job: Planned, summary: dict[str, Any]) -> JobReturn:
    from hopscotch.report.records import score_of

    made = JobReturn(overrides=job.overrides, cfg=job.config, status=JobStatus.COMPLETED)
    made.return_value = score_of(summary)
    return made
