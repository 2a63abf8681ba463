"""Write numbers, tables and JSON in one way: for the terminal, for Markdown, for pages, for programs."""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hopscotch.plain import shown

if TYPE_CHECKING:
    from rich.console import Console

    from hopscotch.intervals import Interval


LEAST_WORD = 12  # columns of a terminal that a column of words keeps, if its words are as long
WITHOUT_TERMINAL = 160  # columns; rich assumes 80 and would fold tables


def make_console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WITHOUT_TERMINAL)


class Table(NamedTuple):
    """A table for people; each medium draws it in its own way."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()  # heads of the columns that are aligned to the right
    clips: Sequence[str] = ()  # path of the clip in each row, where a page can play it

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]], words: Collection[str] = ()) -> "Table":
        """Make a table of rows by head; all columns but `words` are numbers. Without a row it is empty."""
        head = list(rows[0]) if rows else []
        return cls(head, [list(row.values()) for row in rows], [word for word in head if word not in words])


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with so many digits after the point; None and NaN are left blank."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float, high: float) -> str:
    """Write an interval of shares."""
    return "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def sure(found: "Interval | None", num_clips: int) -> str:
    """Write the interval of a figure of so many clips with what it is over, or their number alone."""
    clips = f"{num_clips:,} clip{'s' * (num_clips != 1)}"
    if found is None:
        return clips
    rest = "" if found.over.startswith(clips) else f"; {clips}"
    return f"{interval(found.low, found.high)}, 95 % over {found.over}{rest}"


def percent(shares: Iterable[float]) -> list[str]:
    """Write shares as whole percents: nothing for NaN, a dot for exactly none."""
    return ["" if math.isnan(share) else "·" if share == 0 else f"{share:.0%}" for share in shares]


def markdown(table: Table) -> str:
    """Write a Markdown table, without a line break at its end."""
    rule = ["---:" if word in table.numbers else "---" for word in table.head]
    lines = [list(map(escape, table.head)), rule, *(list(map(escape, row)) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Escape the letters that Markdown would take for its own."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", shown(" ".join(text.split())))


def rich_text(text: object) -> str:
    """Escape what rich or the terminal would obey."""
    from rich.markup import escape

    return escape(shown(text))


def print_table(table: Table, console: "Console", title: str | None = None) -> None:
    """Print a table in the terminal."""
    from rich.table import Table as RichTable

    drawn = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for place, head in enumerate(table.head):
        is_number = head in table.numbers
        kept = min(LEAST_WORD, max((len(row[place]) for row in table.rows), default=0))  # before numbers are cut
        drawn.add_column(
            rich_text(head),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
            min_width=None if is_number else kept,
        )
    for row in table.rows:
        drawn.add_row(*map(rich_text, row))
    console.print(drawn)


def print_facts(facts: Mapping[str, str], console: "Console") -> None:
    """Print a line for each fact, its words in bold."""
    width = max(map(len, facts))
    for words, value in facts.items():
        console.print(f"[bold]{words:<{width}}[/bold]  {value}", highlight=False)


def test_facts(metrics: Mapping[str, float], num_clips: int, found: "Interval | None", num_bad: int) -> dict[str, str]:
    """Say what the test came to, the first metric with its interval, of how many clips, and how many are not in it."""
    facts = {f"test {name}": number(value) for name, value in metrics.items()}
    facts[next(iter(facts))] += f"  ({sure(found, num_clips)}{f', {num_bad} bad files left out' * bool(num_bad)})"
    return facts


def compute_facts(fraction: float, macs: float, target: float | None = None) -> dict[str, str]:
    """Say what a clip cost in the mean, of what it costs with nothing skipped."""
    told = f"{fraction:.4f}  ({macs / 1e6:.2f} of {macs / fraction / 1e6:.2f} million MACs a clip"
    return {"compute fraction": told + (")" if target is None else f", target {target:.4f})")}


def time_facts(own: float, dense: float) -> dict[str, str]:
    """Say how many seconds the model takes for a clip, of those that it takes with nothing skipped."""
    return {"time fraction": f"{own / dense:.2f}  ({1e3 * own:.2f} of {1e3 * dense:.2f} milliseconds a clip)"}


def print_warnings(warnings: Iterable[str], console: "Console") -> None:
    """Print a line for each warning, and a blank one after all."""
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {rich_text(warning)}", highlight=False, soft_wrap=True)
    console.print()


def json_text(content: Any, indent: int | None = None) -> str:
    """Write strict JSON: NaN and infinity are written as null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
