"""Recommend, for each condition, one of the models that were compared: a budget of a run's own, or a static one.

    no headroom    the cheapest static model: no adaptive model can win, unless the run's own is seen to
    otherwise      of all that no other is right more often than, the cheapest; a static one of equals

"More often": the clips can tell them apart, the paired interval of the difference (hopscotch/intervals.py) is above 0.
So a static model that costs at most as much as the run's own is taken wherever it does as well.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hopscotch.controls import ENOUGH
from hopscotch.intervals import Interval, Units, bootstrap
from hopscotch.plain import as_written
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.summary import write_summary
from hopscotch.training.classify import ClassificationTask
from hopscotch.training.task import AudioTask

KEY = "recommended"  # of summary.json: null before there is a comparison
HOW = "compare"  # of summary.json: how to come to one


class Candidate(NamedTuple):
    """Hold a model under a condition."""

    name: str  # of a static model; of the run's own with its budget
    is_static: bool
    budget: float | None  # of the run's own; None: as trained
    macs: float  # mean
    right: Float[np.ndarray, " clip"]  # 1 or 0, in the order of the split

    @property
    def price(self) -> tuple[float, bool, float]:
        """Sort the cheaper one first, of equals the static one, then the more accurate."""
        return self.macs, not self.is_static, -float(self.right.mean())


class Choice(NamedTuple):
    """Say which model to take under a condition, and what it is beside the best choice of the other kind."""

    condition: str
    take: str
    is_static: bool
    budget: float | None  # of the run's own model; None: as trained, or a static one
    macs: float
    accuracy: float
    has_headroom: bool  # among static models, or of the run's own over the cheapest of them
    other: str  # static if what is taken is not, and the other way round
    ratio: float  # of its MACs
    gain: Interval  # over it

    def __str__(self) -> str:
        how = "more" if self.gain.low > 0 else "less" if self.gain.high < 0 else "as"
        than = "as" if how == "as" else "than"
        beside = f"right {how} often {than} {self.other}, {self.gain}, for {self.ratio:.2f} of its MACs"
        return (
            f"take {self.take}: {beside}{'' if self.has_headroom else '; without headroom no adaptive model can win'}"
        )

    def as_json(self) -> dict[str, Any]:
        return self._asdict() | {"gain": asdict(self.gain), "words": str(self)}


def choose(condition: str, candidates: Sequence[Candidate], headroom: Interval, units: Units) -> Choice:
    """Choose among the run's own budgets and static models, at least one each, as the head of this file says.

    `headroom` is the best static model minus the cheapest one.
    """
    by_price = sorted(candidates, key=lambda one: one.price)
    best_first = sorted(candidates, key=lambda one: -one.right.mean())

    def is_level(one: Candidate) -> bool:
        return all(bootstrap(one.right - each.right, units).high >= 0 for each in best_first)

    cheapest, own = next(one for one in by_price if one.is_static), (one for one in by_price if not one.is_static)
    has_headroom = headroom.errors >= ENOUGH or any(bootstrap(one.right - cheapest.right, units).low > 0 for one in own)
    taken = next(filter(is_level, by_price)) if has_headroom else cheapest
    others = [one for one in by_price if one.is_static != taken.is_static]
    other = next(filter(is_level, others), None) or max(others, key=lambda one: one.right.mean())
    return Choice(
        condition,
        taken.name,
        taken.is_static,
        taken.budget,
        taken.macs,
        float(taken.right.mean()),
        has_headroom,
        other.name,
        taken.macs / other.macs,
        bootstrap(taken.right - other.right, units),
    )


def before(task: AudioTask, run: Path) -> dict[str, Any]:
    """Say in the summary of a run that has just been trained that, and how, it can be compared; empty if it cannot."""
    if not (task.model.decides and isinstance(task, ClassificationTask)):
        return {}
    command = f"hopscotch evaluate {shlex.quote(str(run))} --against baselines"
    return {KEY: None, HOW: f"{command}  (a static model of equal compute may do as well)"}


def write_recommended(run: Path, choices: Sequence[Choice]) -> None:
    """Put the choices into the summary of a run, which says all else as before; one that has no summary gets none."""
    summary = {name: value for name, value in RunFolder(run).summary.items() if name != HOW}
    if summary:
        told: dict[str, Any] = summary | {KEY: [one.as_json() for one in choices]}
        with as_written(run):
            write_summary(run, **told)
