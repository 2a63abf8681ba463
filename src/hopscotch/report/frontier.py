"""Draw the primary metric against compute and against time over the groups of a sweep, and mark its Pareto sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hopscotch.report.paint import COLOURS, GREY, new_figure, save
from hopscotch.report.records import COMPUTE, Group, Spread, time_measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHAPES = ("o", "s", "^", "D", "v", "P", "X")  # one fewer than colours, so that a ninth model has a look of its own
PICTURE = "frontier.png"
COSTS = {  # in words
    COMPUTE: "million multiply-accumulates per test clip",
    "clip_ms": "milliseconds of testing per clip",
    "fit_seconds": "seconds of training",
}


def draw_frontier(groups: Sequence[Group], folder: Path) -> None:
    """Write frontier.png; remove it if nothing has finished."""
    (folder / PICTURE).unlink(missing_ok=True)
    if groups:
        save(frontier_figure(groups), folder / PICTURE)


def frontier_figure(groups: Sequence[Group]) -> "Figure":
    """Draw a mark per group at its mean, one shape per model, with bars from the lowest seed to the highest.

    The Pareto set is ringed, joined by steps, and numbered as in the table.
    """
    known = [cost for cost in (COMPUTE, time_measured(groups)) if any(cost in group.spreads for group in groups)]
    figure, ((*panels,),) = new_figure(3.0 + 4.0 * len(known), 4.5, 1, len(known), sharey=True, squeeze=False)
    looks = {model: place for place, model in enumerate(dict.fromkeys(group.model for group in groups))}
    for axes, cost in zip(panels, known, strict=True):
        draw_panel(axes, [group for group in groups if cost in group.spreads], cost, looks)
    panels[0].set_ylabel(f"test {groups[0].metric}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def draw_panel(axes: "Axes", groups: Sequence[Group], cost: str, looks: dict[str, int]) -> None:
    """Draw groups whose cost is known."""
    best = sorted(
        (group.spreads[cost].mean, group.value.mean, group.number) for group in groups if cost in group.best_by
    )
    xs, ys, _ = zip(*best, strict=True)
    # As far to the right as the picture goes: more compute than the best needs is no better.
    right = max(group.spreads[cost].high for group in groups)
    axes.step([*xs, right], [*ys, ys[-1]], where="post", color=GREY, linewidth=1, zorder=1, label="Pareto set")
    axes.scatter(xs, ys, s=130, facecolors="none", edgecolors="black", linewidths=1, zorder=4)
    for x, y, number in best:
        axes.annotate(str(number), (x, y), xytext=(-5, 6), textcoords="offset points", ha="right", fontsize=8)
    for model, place in looks.items():
        members = [group for group in groups if group.model == model]
        if members:
            colour, shape = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
            across, up = [group.spreads[cost] for group in members], [group.value for group in members]
            xs, ys = [spread.mean for spread in across], [spread.mean for spread in up]
            bars = {"fmt": "none", "ecolor": colour, "alpha": 0.5, "elinewidth": 1, "zorder": 2}
            axes.errorbar(xs, ys, xerr=reach(across), yerr=reach(up), **bars)
            axes.scatter(xs, ys, s=55, color=colour, marker=shape, label=model, zorder=3, linewidths=0)
    axes.set_xlabel(COSTS[cost])


def reach(spreads: Sequence[Spread]) -> list[list[float]]:
    """Return how far the lowest seeds lie below the means, and the highest above."""
    return [[one.mean - one.low for one in spreads], [one.high - one.mean for one in spreads]]
