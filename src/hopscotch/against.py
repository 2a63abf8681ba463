"""Compare a model with static ones that were trained alone, on the same test clips under the same conditions.

    headroom     the best static model minus the cheapest one: below 2 standard errors no adaptive model can win here
    difference   the model minus the cheapest static one that costs at least as much, or the dearest if none does
    recommended  by condition one of them all (hopscotch/recommend.py)

The first two are paired, over clips or groups of them (hopscotch/intervals.py). Core-seconds are those of training: a
model for every budget is trained once, static ones each.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hopscotch.conditions import Pass
from hopscotch.controls import ENOUGH
from hopscotch.files import write_file
from hopscotch.intervals import Interval, Units, bootstrap
from hopscotch.latency import Milliseconds
from hopscotch.recommend import Candidate, Choice, choose, write_recommended
from hopscotch.report.text import (
    Table,
    escape,
    json_text,
    make_console,
    markdown,
    number,
    print_facts,
    print_table,
    print_warnings,
)

NAME = "against"  # of its files
MOST_LOST = 0.01  # of the clips, by thresholds that were fitted to clean ones


class Measured(NamedTuple):
    """Say what a model came to in a pass over the test clips."""

    condition: str
    budget: float | None  # None: as trained
    macs: float  # mean
    right: Float[np.ndarray, " clip"]  # 1 or 0, in the order of the split
    bias: float = 0.0  # model.decision_bias
    milliseconds: Milliseconds | None = None

    @property
    def acc(self) -> float:
        return float(self.right.mean())

    @classmethod
    def of(cls, one: Pass) -> "Measured":
        right = (~one.evaluation.is_wrong).numpy().astype(np.float64)
        return cls(one.condition.condition, one.condition.requested, one.condition.macs, right, one.bias)


class Static(NamedTuple):
    """Hold a static model that was trained alone, with a pass for each condition."""

    name: str
    core_seconds: float | None  # of its training; None where its summary does not tell
    passes: Sequence[Measured]
    milliseconds: Milliseconds | None = None  # of clips as they are


class Headroom(NamedTuple):
    """Say what the best static model has over the cheapest one."""

    condition: str
    best: str
    cheapest: str
    gain: Interval
    errors: float  # standard errors

    def __str__(self) -> str:
        return f"{self.gain} = {self.errors:.1f} standard errors  ({self.best} minus {self.cheapest})"

    @property
    def warnings(self) -> list[str]:
        """Say that no adaptive model can win, if it is so, and which static one to take."""
        if self.errors >= ENOUGH:
            return []
        best = f"{self.best}, the best static model, is right in {self.gain.value:+.3f} of the clips more than"
        told = f"{best} {self.cheapest}, the cheapest, {self.errors:.1f} standard errors."
        if self.best == self.cheapest:
            told = f"no static model is better than {self.cheapest}, the cheapest."
        return [f"no headroom, {self.condition}: {told} No adaptive model can win here: take {self.cheapest}."]


class Row(NamedTuple):
    """Compare a pass of the model with one of a static model."""

    own: Measured
    static: str
    macs: float  # of the static model
    acc: float
    costs_as_much: bool  # False: the static model is the dearest one, and costs less
    difference: Interval


class Refitted(NamedTuple):
    """Compare thresholds that were fitted to clean clips with those that were fitted in the noise of a condition."""

    condition: str
    there: Measured
    gain: Interval  # of those of clean clips


class Against(NamedTuple):
    """Hold all comparisons of a model."""

    statics: Sequence[Static]  # the cheapest first
    headrooms: list[Headroom]  # by condition
    rows: list[Row]
    core_seconds: float | None  # of the model's own training
    recommended: list[Choice]  # by condition
    refitted: Sequence[Refitted] = ()
    name: str = "this model"

    @property
    def warnings(self) -> list[str]:
        lost = [
            f"thresholds of clean clips lose {-one.gain.value:.3f} of the clips, {one.condition}, against those that "
            "are fitted there: train with such noise, augment.noise=<folder>."
            for one in self.refitted
            if one.gain.value < -MOST_LOST
        ]
        open_ones = {one.condition for one in self.recommended if one.has_headroom}
        return lost + [told for one in self.headrooms if one.condition not in open_ones for told in one.warnings]

    def in_words(self) -> dict[str, str]:
        """Say headroom and prices by name."""
        told = {f"headroom, {one.condition}": f"{one}" for one in self.headrooms}
        known = [one.core_seconds for one in self.statics if one.core_seconds is not None]
        if self.core_seconds is not None and len(known) == len(self.statics):
            many = f"{sum(known):.0f} of the {len(known)} static models"
            told["core-seconds"] = f"{self.core_seconds:.0f} of this model's training, {many}"
        for one in self.refitted:
            there = f"{one.there.macs / 1e6:.2f} million MACs"
            told[f"thresholds of clean clips, {one.condition}"] = f"{one.gain} minus those fitted there, for {there}"
        return told

    def static_table(self) -> Table:
        """Make a table with a row for each static model."""
        rows = [
            {
                "static model": one.name,
                "core-seconds": number(one.core_seconds, 0),
                "million MACs": number(one.passes[0].macs / 1e6, 2),
            }
            | {f"accuracy, {each.condition}": number(each.acc) for each in one.passes}
            for one in self.statics
        ]
        return Table.of(rows, words=["static model"])

    def table(self) -> Table:
        """Make a table with a row for each pass of the model."""
        rows = [
            {
                "condition": row.own.condition,
                "requested": number(row.own.budget, 3),
                "million MACs": number(row.own.macs / 1e6, 2),
                "accuracy": number(row.own.acc),
                "static model": row.static if row.costs_as_much else f"{row.static}, which costs less",
                "its million MACs": number(row.macs / 1e6, 2),
                "its accuracy": number(row.acc),
                "this minus static": f"{row.difference}",
            }
            for row in self.rows
        ]
        return Table.of(rows, words=["condition", "static model"])

    def time_table(self) -> Table:
        """Make a table of the milliseconds of all models, the cheapest first; empty if they were not measured."""
        timed = [(one.name, one.passes[0], one.milliseconds) for one in self.statics]
        timed += [(at_budget(self.name, row.own.budget), row.own, row.own.milliseconds) for row in self.rows]
        rows = [
            {"model": name, "condition": one.condition, "million MACs": number(one.macs / 1e6, 2)} | its.cells
            for name, one, its in sorted(timed, key=lambda each: each[1].macs)
            if its is not None
        ]
        return Table.of(rows, words=["model", "condition"])

    def as_json(self) -> dict[str, Any]:
        def plain(one: Measured) -> dict[str, Any]:
            told = {"condition": one.condition, "budget": one.budget, "macs": one.macs, "accuracy": one.acc}
            return told if one.milliseconds is None else told | {"milliseconds": one.milliseconds._asdict()}

        return {
            "headroom": [one._asdict() | {"gain": asdict(one.gain)} for one in self.headrooms],
            "statics": [
                one._asdict()
                | {"passes": list(map(plain, one.passes))}
                | {"milliseconds": None if one.milliseconds is None else one.milliseconds._asdict()}
                for one in self.statics
            ],
            "rows": [
                row._asdict() | {"own": plain(row.own), "difference": asdict(row.difference)} for row in self.rows
            ],
            "core_seconds": self.core_seconds,
            "recommended": [one.as_json() for one in self.recommended],
            "refitted": [
                one._asdict() | {"there": plain(one.there), "gain": asdict(one.gain)} for one in self.refitted
            ],
            "over": self.rows[0].difference.over,
        }


def compared(
    own: Sequence[Measured],
    statics: Sequence[Static],
    units: Units,
    core_seconds: float | None = None,
    refitted: Sequence[Measured] = (),
    name: str = "this model",
) -> Against:
    """Compare the passes of a model, by its name, with those of static models under the same condition.

    Raises:
        ValueError: If there is no static model, or one lacks a condition.
    """
    if not statics:
        raise ValueError("against needs a static model that has finished, and there is none.")
    by_price = sorted(statics, key=lambda one: one.passes[0].macs)
    conditions = list(dict.fromkeys(one.condition for one in own))
    found = {condition: [(one.name, of(one, condition)) for one in by_price] for condition in conditions}
    rows = []
    for one in own:
        dearer = [pair for pair in found[one.condition] if pair[1].macs >= one.macs]
        best_first = lambda pair: (pair[1].macs, -pair[1].acc)  # noqa: E731  # of those that cost the same
        beside, static = min(dearer, key=best_first) if dearer else found[one.condition][-1]
        gain = bootstrap(one.right - static.right, units)
        rows.append(Row(one, beside, static.macs, static.acc, bool(dearer), gain))
    headrooms = [headroom(condition, found[condition], units) for condition in conditions]
    chosen = []
    for room in headrooms:
        alone = [Candidate(each, True, None, one.macs, one.right) for each, one in found[room.condition]]
        budgets = [
            Candidate(at_budget(name, one.budget), False, one.budget, one.macs, one.right)
            for one in own
            if one.condition == room.condition
        ]
        chosen.append(choose(room.condition, [*alone, *budgets], room.gain, units))
    return Against(by_price, headrooms, rows, core_seconds, chosen, refitted_of(own, refitted, units), name)


def at_budget(name: str, budget: float | None) -> str:
    """Name a model with the budget that it runs at."""
    return f"{name} as trained" if budget is None else f"{name} at {budget:g}"


def refitted_of(own: Sequence[Measured], there: Sequence[Measured], units: Units) -> list[Refitted]:
    """Compare passes with thresholds of clean clips with those under the same conditions with others."""
    by_name = {one.condition: one for one in reversed(own)}  # the first budget counts
    return [Refitted(one.condition, one, bootstrap(by_name[one.condition].right - one.right, units)) for one in there]


def of(static: Static, condition: str) -> Measured:
    """Find the pass of a static model under a condition."""
    return next(one for one in static.passes if one.condition == condition)


def headroom(condition: str, statics: Sequence[tuple[str, Measured]], units: Units) -> Headroom:
    """Compare the best static model, the cheapest of equals, with the cheapest one."""
    cheapest, first = statics[0]
    best, most = max(statics, key=lambda pair: pair[1].acc)
    gain = bootstrap(most.right - first.right, units)
    return Headroom(condition, best, cheapest, gain, gain.errors)


def write_against(found: Against, folder: Path, run: Path | None) -> None:
    """Write all figures as JSON, and the tables as Markdown; into the summary of `run`, if given, what to take."""
    write_file(folder / f"{NAME}.json", json_text(found.as_json(), indent=2) + "\n")
    found_tables = (found.static_table(), found.time_table(), found.table())
    tables = "\n\n".join(markdown(table) for table in found_tables if table.rows)
    told = "\n".join(f"- {escape(one.condition)}: {escape(str(one))}" for one in found.recommended)
    write_file(folder / f"{NAME}.md", f"{tables}\n\n{told}\n")
    if run is not None:
        write_recommended(run, found.recommended)


def print_against(found: Against) -> None:
    """Print headroom first, then the tables, then what follows, and which model to take."""
    console = make_console()
    console.print()
    print_facts(found.in_words(), console)
    console.print()
    print_table(found.static_table(), console, "Static models, each trained alone")
    if found.time_table().rows:
        console.print()
        print_table(found.time_table(), console, "Milliseconds of a clip, alone on one thread and in a batch")
    console.print()
    print_table(found.table(), console, "This model minus the cheapest static one that costs at least as much")
    print_warnings(found.warnings, console)
    print_facts({one.condition: f"{one}" for one in found.recommended}, console)
