"""Read files that say when events are heard: JSON lines, tables as DCASE has them, and label tracks of Audacity.

JSON lines   {"audio_filepath": "a.wav", "events": [{"start": 0.5, "end": 1.25, "label": "bark"}]}
table        filename, onset, offset, event_label; a file without events has a row of its name alone
label track  start, end and label, parted by tabs; it belongs to one recording, and is empty where nothing is heard

All times are in seconds. Decimal commas, which some systems write, are read as points where they part no cells.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hopscotch.data.files import nfc
from hopscotch.data.table import read_table
from hopscotch.plain import MAX_TABLE, read_text, shown

COLUMNS = ("filename", "onset", "offset", "event_label")
FREQUENCIES = "\\"  # begins a line of a label track that belongs to the label before


class Span(NamedTuple):
    """Say that something is heard from one second of a recording to another."""

    start: float
    end: float
    label: str
    where: str  # file and line, for messages


class Line(NamedTuple):
    """Hold what a line says of a recording: its spans, or what is wrong."""

    name: str  # of the recording, as it is written
    spans: tuple[Span, ...] = ()
    fault: str = ""


def annotations(file: Path) -> Iterator[Line]:
    """Read JSON lines or a table, told by its first sign; a recording may have several lines."""
    text = read_text(file, MAX_TABLE).removeprefix("\ufeff")
    yield from _json_lines(file, text) if text.lstrip().startswith("{") else _table(file)


def track(file: Path) -> Iterator[Line]:
    """Read a label track, line by line, whose lines are all of one recording."""
    for number, line in enumerate(read_text(file, MAX_TABLE).removeprefix("\ufeff").splitlines(), start=1):
        if line.strip() and not line.startswith(FREQUENCIES):
            where, cells = f"{file.name} line {number}", line.split("\t", 2)
            if len(cells) < 3:
                yield Line("", fault=f"{where} must be start, end and label, parted by tabs, got {shown(line.strip())}")
            else:
                yield _line("", cells, where)


def _table(file: Path) -> Iterator[Line]:
    heads, rows = read_table(file)
    if missing := [name for name in COLUMNS if name not in heads]:
        raise ValueError(
            f"{shown(file)} must be JSON lines, or a table with the columns {', '.join(COLUMNS)}, got none of the name "
            f"{missing[0]}."
        )
    for number, row in rows:
        where = f"{file.name} line {number}"
        if isinstance(row, str):
            yield Line("", fault=f"{where}: {row}")
            continue
        name, *cells = (row[column].strip() for column in COLUMNS)
        yield _line(name, cells, where) if any(cells) else Line(name)


def _line(name: str, cells: Sequence[str], where: str) -> Line:
    try:
        return Line(name, (_span(cells, where),))
    except ValueError as error:
        return Line(name, fault=str(error))


def _json_lines(file: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{file.name} line {number}"
            try:
                yield _of_json(line, where)
            except ValueError as error:
                yield Line("", fault=str(error))


def _of_json(line: str, where: str) -> Line:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} must be a JSON object, it cannot be parsed") from None
    name, events = (entry.get("audio_filepath"), entry.get("events")) if isinstance(entry, dict) else (None, None)
    if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
        raise ValueError(f"{where} must have audio_filepath, the path of a file")
    if not isinstance(events, list) or not all(isinstance(event, Mapping) for event in events):
        raise ValueError(f"{where} must have events, a list of objects with start, end and label, which may be empty")
    keys = ("start", "end", "label")
    return Line(name, tuple(_span([event.get(key) for key in keys], where) for event in events))


def _span(cells: Sequence[Any], where: str) -> Span:
    """Check start, end and label as far as that can be told without the recording."""
    start, end, label = cells
    begin, stop = _seconds(start, "start", where), _seconds(end, "end", where)
    name = nfc(label.strip()) if isinstance(label, str) else "" if label is None else str(label)
    if not name:
        raise ValueError(f"{where}: the event from {begin:g} to {stop:g} s has no label")
    if not 0 <= begin < stop:
        point = ", a point label, which lasts no time" if begin == stop else ""
        raise ValueError(
            f"{where}: an event must end after its start, and start at 0 s or later, got {begin:g} to {stop:g} s{point}"
        )
    return Span(begin, stop, name, where)


def _seconds(value: Any, key: str, where: str) -> float:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        seconds = math.nan if isinstance(text, bool) else float(text)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"{where}: the {key} of an event must be a number of seconds, got {shown(value)}")
    return seconds
