"""The report of a sweep: `index.html` in its folder, which links to the runs, and the tables beside it."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from hopscotch.report.frontier import draw_frontier, frontier_figure
from hopscotch.report.page import link, render_html
from hopscotch.report.records import Group, Record, group_records, points_of, read_records, shared_overrides
from hopscotch.report.sweep import metric_of, write_groups, written_rows
from hopscotch.report.text import Table, number

FILE = "index.html"
TEXTS = ("model", "overrides", "seeds", "held-out speakers", "runs to look at", "Pareto (compute)", "Pareto (time)")


def write_sweep_report(
    folder: Path, jobs: Sequence[Record], beside: Sequence[Path] = (), command: str | None = None, missing: int = 0
) -> list[Group]:
    """Write groups.csv, groups.md, frontier.png and index.html. `missing`: trials of a search yet to come."""
    others = [record for where in beside for record in read_records(where)]
    groups = group_records(points_of([*jobs, *others]))
    write_groups(groups, folder)
    draw_frontier(groups, folder)
    (folder / FILE).write_text(sweep_page(folder, jobs, groups, beside, command, missing), encoding="utf-8")
    return groups


def sweep_page(
    folder: Path,
    jobs: Sequence[Record],
    groups: Sequence[Group],
    beside: Sequence[Path] = (),
    command: str | None = None,
    missing: int = 0,
) -> str:
    """Tell of a sweep in the words of `sweep.html.j2`."""
    heads, rows = written_rows(groups)
    linked = [[*row, runs_of(folder, group)] for row, group in zip(rows, groups, strict=True)]
    unfinished = [job for job in jobs if job.status != "finished"]
    failed = [[job_link(folder, job), job.status, job.described, job.error or "not known"] for job in unfinished]
    shared = shared_overrides(jobs) if len(jobs) > 1 else []
    all_jobs = [[job_link(folder, job), job.status, job.model, job.seed, *figures(job, shared)] for job in jobs]
    numbers = [metric_of(jobs), "compute", "M MACs", "seconds"]
    job_heads = ["job", "status", "model", "seed", "overrides", *numbers]
    context = {
        "title": f"Sweep {folder.resolve().name}",
        "headline": counts(jobs, groups, missing),
        "warnings": cautions(jobs, groups, missing),
        "beside": [where.name for where in beside],
        "frontier": frontier_figure(groups) if groups else None,
        "metric": groups[0].metric_name if groups else "",
        "groups": Table([*heads, "runs to look at"], linked, numbers=[head for head in heads if head not in TEXTS]),
        "unfinished": Table(["job", "status", "overrides", "reason"], failed),
        "shared": " ".join(shared),
        "jobs": Table(job_heads, all_jobs, numbers=numbers),
        "command": command,
    }
    return render_html("sweep.html.j2", context)


def counts(jobs: Sequence[Record], groups: Sequence[Group], missing: int) -> list[tuple[str, str]]:
    """Large numbers for the head of the page: how much of the sweep is there."""
    total = len(jobs) + missing
    found = Counter(job.status for job in jobs)
    shown = [("jobs", str(total)), *((status, str(number)) for status, number in sorted(found.items()))]
    if missing:
        shown.append(("trials to come", str(missing)))
    if groups:
        larger = groups[0].records[0].larger_is_better
        best = max(groups, key=lambda group: group.value.mean if larger else -group.value.mean)
        shown.append((f"best {best.metric_name}: {best.name}", f"{best.value.mean:.4f}"))
    return shown


def cautions(jobs: Sequence[Record], groups: Sequence[Group], missing: int) -> list[str]:
    """List what a reader has to know before comparing."""
    found = []
    unfinished = sum(job.status != "finished" for job in jobs)
    if unfinished or missing:
        done, total = len(jobs) - unfinished, len(jobs) + missing
        found.append(f"{done} of {total} jobs have finished; only those stand in the picture and in the first table.")
    wanted = set().union(*(group.runs for group in groups))
    rows_lacking: dict[str, list[str]] = {}
    for place, group in enumerate(groups, start=1):
        if lacking := wanted - group.runs:
            named = ", ".join(f"seed {seed}" + (f" on {who}" if who else "") for seed, who in sorted(lacking))
            rows_lacking.setdefault(named, []).append(f"{place} ({group.name})")
    for named, rows in rows_lacking.items():
        found.append(f"Compare with care: runs that other rows have ({named}) are lacking in {', '.join(rows)}.")
    return found


def job_link(folder: Path, job: Record) -> str:
    return run_link(folder, job.run, job.folder) if job.run is not None and job.run.is_dir() else "-"


def runs_of(folder: Path, group: Group) -> Markup:
    links = [
        run_link(folder, record.run, f"{record.seed} {record.speaker}".strip())
        for record in sorted(group.records, key=lambda record: (record.seed, record.speaker))
        if record.run is not None
    ]
    return Markup(", ").join(links)


def run_link(folder: Path, run: Path, text: str) -> Markup:
    """To the run's own report, or to its folder where it has none."""
    address = Path(os.path.relpath(run, folder)).as_posix()
    report = "/report/index.html" if (run / "report" / "index.html").is_file() else "/"
    return link(text, quote(address) + report)


def figures(job: Record, shared: Sequence[str]) -> list[str]:
    """Make the table of what the first one lacks: overrides that are not shared, and seconds of the whole job."""
    told = " ".join(word for word in job.overrides if word not in shared)
    return [told, number(job.value), number(job.compute_fraction, 3), number(job.macs_m, 3), number(job.seconds, 1)]
