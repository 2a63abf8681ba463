"""Accuracy against compute and against seconds over the jobs of a sweep: a picture, and tables for programs."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hopscotch.plain import quoted
from hopscotch.report.jobs import Job
from hopscotch.report.points import Group, Spread, time_measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for every kind of colour blindness, each with a shape of its own.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
PICTURE = "frontier.png"
COLUMNS = {  # of groups.csv, and what groups.md calls them
    "number": "#",
    "model": "model",
    "overrides": "overrides",
    "seeds": "seeds",
    "speakers": "left-out speakers",
    "runs": "runs",
    "acc": "accuracy",
    "acc_sd": "deviation",
    "acc_low": "lowest",
    "acc_high": "highest",
    "fraction": "compute",
    "macs_m": "M MACs",
    "seconds": "s of training",
    "clip_ms": "ms a clip",
    "pareto": "Pareto (compute)",
    "pareto_time": "Pareto (time)",
}
DIGITS = {"fraction": 3, "macs_m": 3, "seconds": 1, "clip_ms": 2}  # 4 for accuracies


def write_csv(jobs: Iterable[Job], path: Path) -> None:
    """A row per job, as far as each came."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Job)])
        writer.writeheader()
        rows = ({**asdict(job), "overrides": " ".join(job.overrides)} for job in jobs)
        writer.writerows({key: quoted(cell) for key, cell in row.items()} for row in rows)


def group_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row per group of seeds, by COLUMNS."""
    return [
        {
            "number": number,
            "model": group.model,
            "overrides": " ".join(word for word in group.words if not word.startswith("model=")),
            "seeds": " ".join(group.seeds),
            "speakers": " ".join(group.speakers),
            "runs": len(group.points),
            "acc": group.accuracy.mean,
            "acc_sd": group.accuracy.deviation,
            "acc_low": group.accuracy.low if len(group.seeds) > 1 else None,
            "acc_high": group.accuracy.high if len(group.seeds) > 1 else None,
            "fraction": group.fraction and group.fraction.mean,
            "macs_m": group.macs.mean,
            "seconds": group.seconds and group.seconds.mean,
            "clip_ms": group.clip_ms and group.clip_ms.mean,
            "pareto": "yes" if group.is_best else "no",
            "pareto_time": "yes" if group.is_fastest else "no",
        }
        for number, group in enumerate(groups, start=1)
    ]


def written_rows(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The same for people: heads and cells, without the columns in which nothing stands."""
    rows = group_rows(groups)
    shown = [name for name in COLUMNS if any(row[name] not in (None, "") for row in rows)]
    return [COLUMNS[name] for name in shown], [[written(name, row[name]) for name in shown] for row in rows]


def written(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{DIGITS.get(name, 4)}f}" if isinstance(value, float) else str(value)


def write_groups(groups: Sequence[Group], folder: Path) -> None:
    """groups.csv, groups.md."""
    with (folder / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({key: quoted(cell) for key, cell in row.items()} for row in group_rows(groups))
    heads, rows = written_rows(groups)
    lines = [" | ".join(heads), "|".join(["---"] * len(heads)), *(" | ".join(row) for row in rows)]
    (folder / "groups.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_frontier(groups: Sequence[Group], folder: Path) -> None:
    """frontier.png, or no such file where nothing has finished."""
    (folder / PICTURE).unlink(missing_ok=True)
    if groups:
        frontier_figure(groups).savefig(folder / PICTURE, dpi=150, facecolor="white")


def frontier_figure(groups: Sequence[Group]) -> "Figure":
    """A mark per group at its mean, models by shape, bars from the lowest seed to the highest.

    The Pareto set is ringed, joined by steps, and numbered as in the table.
    """
    from matplotlib.figure import Figure

    words, time_of = time_measured(groups)
    timed = [(number, group) for number, group in enumerate(groups, start=1) if time_of(group) is not None]
    figure = Figure(figsize=(11.0 if timed else 7.0, 4.5), layout="constrained")
    first, *second = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    models = list(dict.fromkeys(group.model for group in groups))
    numbered = list(enumerate(groups, start=1))
    _panel(first, numbered, models, lambda group: group.macs, lambda group: group.is_best)
    first.set(xlabel="million multiply-accumulates per test clip", ylabel="test accuracy")
    handles, names = first.get_legend_handles_labels()
    for axes in second:
        _panel(axes, timed, models, time_of, lambda group: group.is_fastest)
        axes.set(xlabel=words)
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return figure


def _panel(
    axes: "Axes",
    numbered: Sequence[tuple[int, Group]],
    models: Sequence[str],
    cost_of: Callable[[Group], Spread | None],
    is_best: Callable[[Group], bool],
) -> None:
    placed = [(number, group, cost) for number, group in numbered if (cost := cost_of(group)) is not None]
    best = sorted((cost.mean, group.accuracy.mean, number) for number, group, cost in placed if is_best(group))
    # As far to the right as the picture goes: more compute than the best needs is no better.
    steps = [(x, y) for x, y, _ in best] + [(max(cost.high for *_, cost in placed), best[-1][1])]
    axes.step(*zip(*steps, strict=True), where="post", color="#999999", linewidth=1, zorder=1, label="Pareto set")
    for place, model in enumerate(models):
        members = [(group, cost) for _, group, cost in placed if group.model == model]
        turn, step = divmod(place, len(COLOURS))  # a ninth model has the first colour with another shape
        colour, shape = COLOURS[step], SHAPES[(step + turn) % len(SHAPES)]
        for group, cost in members:
            x, y = cost.mean, group.accuracy.mean
            axes.errorbar(
                x,
                y,
                xerr=[[x - cost.low], [cost.high - x]],
                yerr=[[y - group.accuracy.low], [group.accuracy.high - y]],
                color=colour,
                alpha=0.5,
                linewidth=1,
                zorder=2,
            )
        if members:
            xs, ys = zip(*((cost.mean, group.accuracy.mean) for group, cost in members), strict=True)
            axes.scatter(xs, ys, s=55, color=colour, marker=shape, label=model, zorder=3, linewidths=0)
    xs, ys, _ = zip(*best, strict=True)
    axes.scatter(xs, ys, s=130, facecolors="none", edgecolors="black", linewidths=1, zorder=4)
    for x, y, number in best:
        axes.annotate(str(number), (x, y), xytext=(-5, 6), textcoords="offset points", ha="right", fontsize=8)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
