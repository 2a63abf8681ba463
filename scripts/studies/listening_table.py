"""Make the tables of `python -m scripts.studies listening` from what it has measured; seeds are joined."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hopscotch.intervals import Interval, Units, ratio_bootstrap
from hopscotch.report.text import Table, make_console, markdown, print_table

Rows = Any  # a DataFrame, about whose columns pandas' types know nothing


def read(file: Path) -> Rows:
    return pd.read_csv(file) if file.is_file() else pd.DataFrame()


def show(folder: Path) -> None:
    """Print what there is, and write it into the folder as Markdown."""
    tables = []
    if len(counts := read(folder / "counts.csv")):
        tables += [
            ("What is missed, and what it costs", misses(counts)),
            ("Beside static models", beside_static(counts)),
        ]
    if len(awake := read(folder / "awake.csv")):
        tables.append(("Share of the time awake where there is nothing to find", awake_table(awake)))
    if len(times := read(folder / "times.csv")):
        tables.append(("Milliseconds for a second of audio", time_table(times)))
    tables = [(title, table) for title, table in tables if table.rows]
    for title, table in tables:
        print(f"\n{title}")
        print_table(table, make_console())
    (folder / "tables.md").write_text("\n\n".join(f"{title}:\n\n{markdown(table)}" for title, table in tables) + "\n")


def misses(counts: Rows) -> Table:
    """Make a row for each model, duty and gate, seeds joined."""
    rows = []
    for (duty, what, gate), some in counts.groupby(["duty", "what", "gate"]):
        by_seed = some.groupby("seed")
        each = " ".join(f"{one:.3f}" for one in 1 - by_seed.missed_2.sum() / by_seed.events.sum())
        macs = some.macs.sum() / some.hours.sum() / 3600 / 1e6
        alarms, hits_05 = some.false_2.sum() / some.hours.sum(), 1 - some.missed_05.sum() / some.events.sum()
        caught = some.caught.sum() / some.events.sum()
        numbers = [f"{macs:.2f}", f"{some.awake.mean():.3f}", f"{caught:.3f}", interval(hits(some)), each]
        rows.append([f"{duty:g} %", what, gate, *numbers, f"{alarms:.1f}", f"{hits_05:.3f}"])
    heads = ["duty", "model", "gate", "M MACs a second", "awake", "events open", "hits at 2 an hour", "by seed"]
    return Table([*heads, "false alarms an hour", "hits at 0.5"], rows)


def beside_static(counts: Rows) -> Table:
    """Compare models that are always on with the cheapest static one that misses no more, or with the one of fewest."""
    rows = []
    is_static = counts.what.str.startswith("static")
    for (duty, what, gate), some in counts[~is_static & counts.gate.str.startswith("own")].groupby(
        ["duty", "what", "gate"]
    ):
        at = counts[counts.duty == duty]
        static = dict(iter(at[at.what.str.startswith("static")].groupby("what")))
        missed = {name: other.missed_2.sum() / other.events.sum() for name, other in static.items()}
        macs = {name: other.macs.sum() / other.hours.sum() for name, other in static.items()}
        enough = [name for name, share in missed.items() if share <= some.missed_2.sum() / some.events.sum()]
        chosen = min(enough, key=macs.__getitem__) if enough else min(missed, key=missed.__getitem__, default=None)
        others = {f"{chosen} ({'cheapest with no more misses' if enough else 'fewest misses'})": static.get(chosen)}
        others["its full model, always on"] = at[(at.what == what) & (at.gate == "all")]
        for name, other in others.items():
            if other is not None and len(other):
                facts = [f"{duty:g} %", what, gate, name]
                rows.append([*facts, interval(ratio(other, some, "macs")), interval(gained(some, other))])
    return Table(["duty", "model", "gate", "beside", "times the MACs", "hits more"], rows)


def awake_table(awake: Rows) -> Table:
    """Make a row for each model and sound: the share of time awake by gate, and how the own one differs."""
    rows = []
    for (what, sound), some in awake.groupby(["what", "sound"]):
        means = some.groupby(["gate", "recording"]).awake.mean().unstack("gate")
        units = Units.of([None] * len(means))
        (own,) = (one for one in means.columns if one.startswith("own"))
        for gate in [one for one in means.columns if one != own]:
            less = ratio_bootstrap((means[gate] - means[own]).to_numpy(), np.ones(len(means)), units)
            rows.append([what, sound, gate, f"{means[own].mean():.3f}", f"{means[gate].mean():.3f}", interval(less)])
    return Table(
        ["model", "sound", "gate", "own gate", "that gate", "seconds that the own gate sleeps more, of one"], rows
    )


def time_table(times: Rows) -> Table:
    """Make a row for each model; ratios are of the same turn, to the first model that is always on."""
    by_turn = times.groupby(["what", "turn"]).ms.mean().unstack("what")
    first = next((name for name in by_turn.columns if name.startswith("always")), by_turn.columns[0])
    ratios = by_turn.div(by_turn[first], axis=0)
    rows = [
        [what, f"{by_turn[what].median():.3f}", f"{one.median():.2f} ({one.min():.2f} to {one.max():.2f})"]
        for what, one in ratios.items()
    ]
    return Table(["model", "ms", f"times {first}"], rows)


def hits(rows: Rows) -> Interval:
    """Return the share of events with an alarm; the interval is over recordings, which all seeds share."""
    sums = rows.groupby("recording")[["missed_2", "events"]].sum().astype(float)
    return ratio_bootstrap(
        (sums.events - sums.missed_2).to_numpy(), sums.events.to_numpy(), Units.of([None] * len(sums))
    )


def ratio(above: Rows, below: Rows, column: str) -> Interval:
    """Divide what two models cost a second; they may have different numbers of seeds."""
    parts, wholes = (rows.groupby("recording")[column].mean().to_numpy() for rows in (above, below))
    return ratio_bootstrap(parts, wholes, Units.of([None] * len(parts)))


def gained(rows: Rows, other: Rows) -> Interval:
    """Subtract the hits of another model, as a share of the events, recording by recording."""
    missed = [some.groupby("recording").missed_2.mean().to_numpy() for some in (other, rows)]
    events = rows.groupby("recording").events.mean().to_numpy()
    return ratio_bootstrap(missed[0] - missed[1], events, Units.of([None] * len(events)))


def interval(one: Interval) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
