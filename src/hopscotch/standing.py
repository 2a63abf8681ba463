"""Stand the models of a sweep that decide beside its static ones, those that decide nothing, on the same test clips.

    headroom     the best static model minus the cheapest one: below 2 standard errors no adaptive model can win here
    difference   a model that decides minus the cheapest static one that costs at least as much, or the dearest

A row of the sweep is the mean of its seeds. Differences are paired over clips (hopscotch/intervals.py), each clip
counting with the mean of its seeds, where all runs have left report/clips.csv. Elsewhere they come from the intervals
of both accuracies, as if these were of different clips: too wide. Other metrics than an accuracy have neither.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hopscotch.against import Headroom
from hopscotch.intervals import DEVIATIONS, Interval, Units, bootstrap
from hopscotch.report.clips import ClipRow
from hopscotch.report.records import COMPUTE, Group, group
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.text import Table, number, print_facts, print_table

if TYPE_CHECKING:
    from rich.console import Console

WHERE = "in this sweep"
TITLE = "Models that decide, minus the cheapest static one of the sweep that costs at least as much"
AT, OWN = "at_budget=", "at_budget=as trained"  # of a group's words, as report/records.py has them
CLOSE = 1e-6  # an accuracy is this near to that of its clips


class Tested:
    """Read what the runs of a row of the sweep left of their test."""

    def __init__(self, row: Group) -> None:
        self.row = row
        self.runs = [RunFolder(one.run) for one in row.records if one.run is not None]

    @property
    def macs_m(self) -> float:
        return self.row.spreads[COMPUTE].mean

    @property
    def name(self) -> str:
        return f"{self.row.number} ({self.row.name})"

    @property
    def data(self) -> frozenset[str]:
        """Return the fingerprints of the data; empty where one is not known."""
        found = [run.data.get("fingerprint") for run in self.runs]
        return frozenset(map(str, found)) if all(found) else frozenset()

    @property
    def decides(self) -> bool | None:
        """Tell whether the model decides; None where its runs do not say so alike."""
        found = {
            run.summary.get("decides", bool(run.summary["skips"]) if "skips" in run.summary else None)
            for run in self.runs
        }
        return found.pop() if len(found) == 1 else None

    @cached_property
    def clips(self) -> dict[tuple[str, str], list[ClipRow]]:
        """Return the rows of each test clip, by data and name; empty where they are not those of the accuracy."""
        if any(word.startswith(AT) and word != OWN for word in self.row.records[0].overrides):
            return {}
        found: dict[tuple[str, str], list[ClipRow]] = {}
        for run, record in zip(self.runs, self.row.records, strict=True):
            try:
                rows = run.clips
            except ValueError:  # damaged
                return {}
            if not (rows and rows[0].has_classes and record.value is not None):
                return {}
            if not math.isclose(mean(row.is_right for row in rows), record.value, abs_tol=CLOSE):
                return {}
            for row in rows:
                found.setdefault((str(run.data["fingerprint"]), row.path), []).append(row)
        return found

    @property
    def error(self) -> float | None:
        """Return the standard error of the accuracy over clips, of seeds the mean one; None where it is not known."""
        known = [(run.summary.get("primary") or {}).get("interval") for run in self.runs]
        found = [Interval(**one) for one in known if one is not None]
        if not known or len(found) < len(known):
            return None
        return mean((one.high - one.low) / (2 * DEVIATIONS) for one in found)

    def minus(self, other: "Tested") -> Interval | None:
        """Return the difference of two accuracies with its interval; None where none is known."""
        if self.clips and self.clips.keys() == other.clips.keys():
            own, others = (
                [mean(row.is_right for row in one.clips[key]) for key in self.clips] for one in (self, other)
            )
            units = Units.of([rows[0].shared for rows in self.clips.values()])
            return bootstrap(np.array(own, dtype=np.float64) - np.array(others, dtype=np.float64), units)
        value, errors = self.row.value.mean - other.row.value.mean, [self.error, other.error]
        if None in errors:
            return None
        half = DEVIATIONS * math.hypot(*(one for one in errors if one is not None))
        return Interval(value, value - half, value + half, "clips, not paired")


class Beside(NamedTuple):
    """Hold a model that decides, and the static one that it is compared with."""

    own: Tested
    static: Tested
    costs_as_much: bool  # False: the static model is the dearest one, and costs less
    difference: Interval | None


class Standing(NamedTuple):
    """Hold what the static models of a sweep say of the others."""

    headrooms: list[Headroom]  # one for each set of test clips
    rows: list[Beside]

    @property
    def warnings(self) -> list[str]:
        return [warning for one in self.headrooms for warning in one.warnings]

    @property
    def headline(self) -> list[tuple[str, str]]:
        """Return words and figures for the head of a page."""
        return [
            (f"standard errors of headroom: {one.gain}, {one.best} minus {one.cheapest}", f"{one.errors:.1f}")
            for one in self.headrooms
        ]

    def table(self) -> Table:
        """Make a table with a row for each model that decides."""
        rows = [
            {
                "model": own.name,
                "million MACs": number(own.macs_m, 2),
                own.row.metric: number(own.row.value.mean),
                "static model": static.name if costs_as_much else f"{static.name}, which costs less",
                "its million MACs": number(static.macs_m, 2),
                f"its {own.row.metric}": number(static.row.value.mean),
                "this minus static": f"{own.row.value.mean - static.row.value.mean:+.3f}"
                if gain is None
                else f"{gain}",
            }
            for own, static, costs_as_much, gain in self.rows
        ]
        return Table.of(rows, words=["model", "static model"])

    def show(self, console: "Console") -> None:
        """Print headroom, then the table."""
        if self.headrooms:
            console.print()
            print_facts({f"headroom, {one.condition}": f"{one}" for one in self.headrooms}, console)
        if self.rows:
            console.print()
            print_table(self.table(), console, TITLE)


def standing_of(rows: Sequence[Group]) -> Standing:
    """Compare the rows of a sweep as the head of this file says; those of other test clips are apart."""
    found = Standing([], [])
    for members in group(map(Tested, rows), by=lambda one: (one.data, one.row.metric)).values():
        cheapest_first = sorted(members, key=lambda one: (one.macs_m, -one.row.value.mean))
        statics = [one for one in cheapest_first if one.decides is False]
        if not members[0].data or not statics or not members[0].row.records[0].larger_is_better:
            continue
        best = max(statics, key=lambda one: one.row.value.mean)
        gain = best.minus(statics[0]) if statics[-1].macs_m > statics[0].macs_m else None
        if gain is not None:
            found.headrooms.append(Headroom(WHERE, best.name, statics[0].name, gain, gain.errors))
        for own in (one for one in cheapest_first if one.decides):
            dearer = [one for one in statics if one.macs_m >= own.macs_m]
            static = (dearer or statics[-1:])[0]
            found.rows.append(Beside(own, static, bool(dearer), own.minus(static)))
    return found
