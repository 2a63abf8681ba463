"""Hold the rows of a benchmark: a ratio, the bar it is held to, and everything that it was measured on."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scripts.studies.bench.machine import Facts, machine
from scripts.studies.bench.timing import Ratio


@dataclass(frozen=True)
class Row:
    """Hold a ratio and its bar: the most it may be, or the least where `at_least`; None is a figure without a bar."""

    name: str
    ratio: float
    low: float  # of the 90 % interval
    high: float
    bar: float | None
    at_least: bool
    milliseconds: float  # median of what `name` says
    baseline_milliseconds: float  # median of what it is compared with
    shapes: dict[str, float | int | str] = field(default_factory=dict)
    machine: Facts = field(default_factory=machine)

    @property
    def holds(self) -> bool:
        """Tell whether the ratio of medians is on the good side of the bar; the interval says how sure that is."""
        if self.bar is None:
            return True
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar


def row(
    name: str,
    ratio: Ratio,
    seconds: tuple[float, float],
    *,
    most: float | None = None,
    least: float | None = None,
    **shapes: float | int | str,
) -> Row:
    """Make a row; `seconds` are the medians of the two things compared."""
    assert most is None or least is None
    bar = least if most is None else most
    mine, other = (1000 * s for s in seconds)
    return Row(name, ratio.value, ratio.low, ratio.high, bar, least is not None, mine, other, dict(shapes))


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([_flat(r) for r in rows], indent=1) + "\n"


def _flat(r: Row) -> dict[str, object]:
    fields = asdict(r)
    facts = fields.pop("machine")
    return {**fields, "holds": r.holds, **facts}


def as_markdown(rows: Sequence[Row]) -> str:
    """Write a table; what all rows were measured on stands below it, what differs (such as threads) in the row."""
    same = dict(set.intersection(*(set(r.machine.items()) for r in rows))) if rows else {}
    below = ", ".join(f"{key} {value}" for key, value in (rows[0].machine if rows else {}).items() if key in same)
    head = "what | on | ratio (90 % interval) | bar | holds | ms | of ms\n---|---|---|---|---|---|---\n"
    lines = [" | ".join(_cells(r, {key: value for key, value in r.machine.items() if key not in same})) for r in rows]
    return head + "\n".join(lines) + f"\n\n{below}\n"


def line(r: Row) -> str:
    """Write a row for the terminal."""
    return "   ".join(filter(None, _cells(r)))


def _cells(r: Row, own: Facts | None = None) -> list[str]:
    bar = "" if r.bar is None else f"{'>=' if r.at_least else '<='} {r.bar:.3g}"
    holds = "" if r.bar is None else "yes" if r.holds else "NO"
    on = ", ".join(
        f"{key} {v:.3g}" if isinstance(v, float) else f"{key} {v}" for key, v in (r.shapes | (own or {})).items()
    )
    interval = f"{r.ratio:.3f} ({r.low:.3f} to {r.high:.3f})"
    return [r.name, on, interval, bar, holds, f"{r.milliseconds:.2f}", f"{r.baseline_milliseconds:.2f}"]


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write table.csv, table.md and table.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(as_json(rows), encoding="utf-8")
    (folder / "table.md").write_text(as_markdown(rows), encoding="utf-8")
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        facts = list(rows[0].machine) if rows else []
        writer.writerow(["name", "shapes", "ratio", "low", "high", "bar", "holds", "ms", "baseline_ms", *facts])
        for r in rows:
            shapes = " ".join(f"{key}={value}" for key, value in r.shapes.items())
            numbers = [r.ratio, r.low, r.high, r.bar, r.holds, r.milliseconds, r.baseline_milliseconds]
            writer.writerow([r.name, shapes, *numbers, *(r.machine[name] for name in facts)])
