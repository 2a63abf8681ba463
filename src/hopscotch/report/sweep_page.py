"""The report of a sweep: `index.html` in its folder, which links to the runs, and the tables beside it."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from hopscotch.report.frontier import draw_frontier, frontier_figure, write_groups, written_rows
from hopscotch.report.jobs import Job, shared_overrides
from hopscotch.report.page import link, render_html
from hopscotch.report.points import Group, group_points, read_points
from hopscotch.report.text import Table, number

FILE = "index.html"
NUMBERS = (
    "#",
    "runs",
    "accuracy",
    "deviation",
    "lowest",
    "highest",
    "compute",
    "M MACs",
    "s of training",
    "ms a clip",
    "seconds",
)


def write_sweep_report(
    folder: Path, jobs: Sequence[Job], beside: Sequence[Path] = (), command: str | None = None, missing: int = 0
) -> list[Group]:
    """Write groups.csv, groups.md, frontier.png and index.html. `missing`: trials of a search yet to come."""
    points = read_points(folder, jobs) + [point for where in beside for point in read_points(where)]
    groups = group_points(points)
    write_groups(groups, folder)
    draw_frontier(groups, folder)
    (folder / FILE).write_text(sweep_page(folder, jobs, groups, beside, command, missing), encoding="utf-8")
    return groups


def sweep_page(
    folder: Path,
    jobs: Sequence[Job],
    groups: Sequence[Group],
    beside: Sequence[Path] = (),
    command: str | None = None,
    missing: int = 0,
) -> str:
    """Tell of a sweep in the words of `sweep.html.j2`."""
    heads, rows = written_rows(groups)
    linked = [[*row, runs_of(folder, group)] for row, group in zip(rows, groups, strict=True)]
    unfinished = [job for job in jobs if job.status != "finished"]
    failed = [[job_link(folder, job), job.status, described(job), job.error or "not known"] for job in unfinished]
    shared = shared_overrides(jobs) if len(jobs) > 1 else []
    all_jobs = [[job_link(folder, job), job.status, job.model, job.seed, *figures(job, shared)] for job in jobs]
    job_heads = ["job", "status", "model", "seed", "overrides", "accuracy", "compute", "M MACs", "seconds"]
    context = {
        "title": f"Sweep {folder.resolve().name}",
        "headline": counts(jobs, groups, missing),
        "warnings": cautions(jobs, groups, missing),
        "beside": [where.name for where in beside],
        "frontier": frontier_figure(groups) if groups else None,
        "groups": Table([*heads, "runs to look at"], linked, numbers=NUMBERS),
        "unfinished": Table(["job", "status", "overrides", "reason"], failed),
        "shared": " ".join(shared),
        "jobs": Table(job_heads, all_jobs, numbers=NUMBERS),
        "command": command,
    }
    return render_html("sweep.html.j2", context)


def counts(jobs: Sequence[Job], groups: Sequence[Group], missing: int) -> list[tuple[str, str]]:
    """Large numbers for the head of the page: how much of the sweep is there."""
    total = len(jobs) + missing
    found = Counter(job.status for job in jobs)
    shown = [("jobs", str(total)), *((status, str(number)) for status, number in sorted(found.items()))]
    if missing:
        shown.append(("trials to come", str(missing)))
    if groups:
        best = max(groups, key=lambda group: group.accuracy.mean)
        shown.append((f"best accuracy: {best.name}", f"{best.accuracy.mean:.4f}"))
    return shown


def cautions(jobs: Sequence[Job], groups: Sequence[Group], missing: int) -> list[str]:
    """What a reader has to know before comparing."""
    found = []
    unfinished = sum(job.status != "finished" for job in jobs)
    if unfinished or missing:
        done, total = len(jobs) - unfinished, len(jobs) + missing
        found.append(f"{done} of {total} jobs have finished; only those stand in the picture and in the first table.")
    dealt = set().union(*(group.dealt for group in groups))
    rows_lacking: dict[str, list[str]] = {}
    for place, group in enumerate(groups, start=1):
        if lacking := dealt - group.dealt:
            named = ", ".join(f"seed {seed}" + (f" on {who}" if who else "") for seed, who in sorted(lacking))
            rows_lacking.setdefault(named, []).append(f"{place} ({group.name})")
    for named, rows in rows_lacking.items():
        found.append(f"Compare with care: runs that other rows have ({named}) are lacking in {', '.join(rows)}.")
    return found


def job_link(folder: Path, job: Job) -> str:
    return run_link(folder, folder / job.folder, job.folder) if (folder / job.folder).is_dir() and job.folder else "-"


def runs_of(folder: Path, group: Group) -> Markup:
    links = [
        run_link(folder, point.run, f"{point.job.seed} {point.job.speaker}".strip())
        for point in sorted(group.points, key=lambda point: (point.job.seed, point.job.speaker))
    ]
    return Markup(", ").join(links)


def run_link(folder: Path, run: Path, text: str) -> Markup:
    """To the run's own report, or to its folder where it has none."""
    address = Path(os.path.relpath(run, folder)).as_posix()
    report = "/report/index.html" if (run / "report" / "index.html").is_file() else "/"
    return link(text, quote(address) + report)


def described(job: Job) -> str:
    return " ".join([f"model={job.model}", *job.overrides, f"seed={job.seed}"]) if job.model else ""


def figures(job: Job, shared: Sequence[str]) -> list[str]:
    """What the first table has not: overrides as they were typed but for shared ones, seconds of the whole job."""
    told = " ".join(word for word in job.overrides if word not in shared)
    macs = None if job.macs is None else job.macs / 1e6
    return [told, number(job.test_acc), number(job.compute_fraction, 3), number(macs, 3), number(job.seconds, 1)]
