"""Draw the primary metric against compute and against time over the groups of a sweep, and mark its Pareto sets."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hopscotch.report.sweep import Group, Spread

# Okabe and Ito's colours, which stay apart for every kind of colour blindness, each with a shape of its own.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*")
PICTURE = "frontier.png"


class Measure(NamedTuple):
    """Name a measure of time for a picture, and find it in a group."""

    words: str
    of: Callable[["Group"], "Spread | None"]


def time_measured(groups: Iterable["Group"]) -> Measure:
    """Take the time per test clip if every run recorded it, otherwise the time of training."""
    if all(group.clip_ms is not None for group in groups):
        return Measure("milliseconds of testing per clip", lambda group: group.clip_ms)
    return Measure("seconds of training", lambda group: group.seconds)


def pareto(costs: Sequence[float], values: Sequence[float], *, larger_is_better: bool = True) -> list[bool]:
    """Tell for each point whether it is in the Pareto set.

    It is when no other point is at least as good for at most its cost and better in one of the two.
    """
    sign = 1 if larger_is_better else -1
    points = [(cost, sign * value) for cost, value in zip(costs, values, strict=True)]
    return [not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points) for cost, value in points]


def draw_frontier(groups: Sequence["Group"], folder: Path) -> None:
    """Write frontier.png; remove it if nothing has finished."""
    (folder / PICTURE).unlink(missing_ok=True)
    if groups:
        frontier_figure(groups).savefig(folder / PICTURE, dpi=150, facecolor="white")


def frontier_figure(groups: Sequence["Group"]) -> "Figure":
    """Draw a mark per group at its mean, one shape per model, with bars from the lowest seed to the highest.

    The Pareto set is ringed, joined by steps, and numbered as in the table.
    """
    from matplotlib.figure import Figure

    words, time_of = time_measured(groups)
    numbered = list(enumerate(groups, start=1))
    has_time = any(time_of(group) is not None for group in groups)
    figure = Figure(figsize=(11.0 if has_time else 7.0, 4.5), layout="constrained")
    first, *second = figure.subplots(1, 2 if has_time else 1, sharey=True, squeeze=False)[0]
    models = list(dict.fromkeys(group.model for group in groups))
    _panel(first, numbered, models, lambda group: group.macs, lambda group: group.is_best)
    first.set(xlabel="million multiply-accumulates per test clip", ylabel=f"test {groups[0].metric_name}")
    handles, names = first.get_legend_handles_labels()
    for axes in second:
        _panel(axes, numbered, models, time_of, lambda group: group.is_fastest)
        axes.set(xlabel=words)
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    return figure


def _panel(
    axes: "Axes",
    numbered: Sequence[tuple[int, "Group"]],
    models: Sequence[str],
    cost_of: Callable[["Group"], "Spread | None"],
    is_best: Callable[["Group"], bool],
) -> None:
    """Draw the groups whose cost is known."""
    placed = [(number, group, cost) for number, group in numbered if (cost := cost_of(group)) is not None]
    best = sorted((cost.mean, group.value.mean, number) for number, group, cost in placed if is_best(group))
    # As far to the right as the picture goes: more compute than the best needs is no better.
    steps = [(x, y) for x, y, _ in best] + [(max(cost.high for *_, cost in placed), best[-1][1])]
    axes.step(*zip(*steps, strict=True), where="post", color="#999999", linewidth=1, zorder=1, label="Pareto set")
    for place, model in enumerate(models):
        turn, step = divmod(place, len(COLOURS))  # a ninth model has the first colour with another shape
        colour, shape = COLOURS[step], SHAPES[(step + turn) % len(SHAPES)]
        members = [(cost, group.value) for _, group, cost in placed if group.model == model]
        for x, y in members:
            ends = [[[at.mean - at.low], [at.high - at.mean]] for at in (x, y)]
            bars = {"color": colour, "alpha": 0.5, "linewidth": 1, "zorder": 2}
            axes.errorbar(x.mean, y.mean, xerr=ends[0], yerr=ends[1], **bars)
        if members:
            xs, ys = [x.mean for x, _ in members], [y.mean for _, y in members]
            axes.scatter(xs, ys, s=55, color=colour, marker=shape, label=model, zorder=3, linewidths=0)
    xs, ys, _ = zip(*best, strict=True)
    axes.scatter(xs, ys, s=130, facecolors="none", edgecolors="black", linewidths=1, zorder=4)
    for x, y, number in best:
        axes.annotate(str(number), (x, y), xytext=(-5, 6), textcoords="offset points", ha="right", fontsize=8)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
