"""Write predictions for unlabelled files as JSON, CSV or a table.

Each file's answer is written as it comes, so that a hundred thousand files take no more memory than ten.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from hopscotch.plain import quoted, sentence, shown
from hopscotch.report.text import json_text

DIGITS = 6  # decimals of a written number: the last bits of a float32 depend on the batch
ABSENT = "·"

Form = Literal["json", "csv", "table"]


@runtime_checkable
class Sink(Protocol):
    """Accept text: a file, standard output, or a substitute for it."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


class Window(NamedTuple):
    """Label some seconds of a long recording."""

    start: float  # seconds
    end: float
    label: str
    confidence: float | None
    probabilities: dict[str, float]
    macs: int
    dense_macs: int
    strides: list[int] | None  # None, as of the next two: windows that were joined differ
    history: list[int] | None
    route: str | None

    @property
    def compute(self) -> float:
        """Share of a dense model's multiply-accumulates."""
        return self.macs / self.dense_macs

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Event(NamedTuple):
    """Say what a detector heard when, in seconds from the beginning of the file."""

    start: float
    end: float
    label: str
    confidence: float  # largest probability


class Prediction(NamedTuple):
    """Label a clip, and describe what the model computed for it.

    For a recording that was cut into windows, probabilities are means over the windows, compute is the sum of their
    costs over that of a dense model, and the windows have the decisions. A detector (task=detect) has `events` in place
    of windows, its probabilities are the largest anywhere, and its label names the classes of the events.
    """

    label: str
    confidence: float | None  # probability of the label, of several the largest; None of a number
    probabilities: dict[str, float]
    macs: int  # multiply-accumulates
    dense_macs: int  # of a model that skips nothing
    strides: list[int] | None  # per layer; 0 without attention or where skipped. None: see `windows`
    history: list[int] | None  # layers that a jump landed on
    route: str | None  # a letter per layer: x ran, > landed on, - jumped over
    seconds: float  # of sound
    windows: list[Window] | None = None
    note: str | None = None  # what is odd about the sound
    events: list[Event] | None = None  # None: not looked for

    @property
    def compute(self) -> float:
        """Share of a dense model's multiply-accumulates."""
        return self.macs / self.dense_macs


class Answer(NamedTuple):
    """Hold the prediction for a file, or the reason why there is none."""

    path: str
    prediction: Prediction | None
    error: str | None


def as_object(answer: Answer, top: int | None = None) -> dict[str, Any]:
    """Return what JSON has of an answer: path and error, or path, label, decisions, and windows if there are any.

    Probabilities are those of the `top` most likely classes, or of all.
    """
    prediction = answer.prediction
    if prediction is None:
        return {"path": answer.path, "error": answer.error}

    def more(part: Prediction | Window) -> dict[str, Any]:
        likely = {name: round(share, DIGITS) for name, share in most_likely(part, top)}
        costs = {"seconds": round(part.seconds, DIGITS), "macs": part.macs, "dense_macs": part.dense_macs}
        return {**_facts(part), **costs, "probabilities": likely}

    windows = {} if prediction.windows is None else {"windows": [more(window) for window in prediction.windows]}
    note = {} if prediction.note is None else {"note": prediction.note}
    events = {} if prediction.events is None else {"events": [_rounded(one._asdict()) for one in prediction.events]}
    return {"path": answer.path, **more(prediction), **note, **windows, **events}


def most_likely(part: Prediction | Window, top: int | None) -> list[tuple[str, float]]:
    """Return the `top` most likely classes with their probabilities, or all classes."""
    return sorted(part.probabilities.items(), key=lambda item: -item[1])[:top]


def in_words(part: Prediction | Window, top: int) -> str:
    return ", ".join(f"{shown(name)} {share:.3f}" for name, share in most_likely(part, top))


def _facts(part: Prediction | Window) -> dict[str, Any]:
    fields = {**part._asdict(), "compute": part.compute}
    names = ("start", "end", "label", "confidence", "compute", "strides", "history")
    return _rounded({name: fields[name] for name in names if name in fields})


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in values.items()}


def merged(windows: Iterable[Window]) -> Iterator[tuple[Window, int]]:
    """Join neighbouring windows of the same label, each with how many they are; shares are means, costs sums."""
    for label, group in groupby(windows, key=lambda window: window.label):
        found = list(group)
        columns = {name: [getattr(window, name) for window in found] for name in Window._fields}
        same = {name: columns[name][0] for name in ("strides", "history", "route") if _are_equal(columns[name])}
        joined = Window(
            start=columns["start"][0],
            end=columns["end"][-1],
            label=label,
            confidence=None if None in columns["confidence"] else fmean(columns["confidence"]),
            probabilities={name: fmean(w.probabilities[name] for w in found) for name in found[0].probabilities},
            macs=sum(columns["macs"]),
            dense_macs=sum(columns["dense_macs"]),
            **{"strides": None, "history": None, "route": None, **same},
        )
        yield joined, len(found)


def _are_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def counted(answers: Iterable[Answer], failed: list[str]) -> Iterator[Answer]:
    """Yield the answers again; files that failed are named on standard error as they come, and added to `failed`."""
    for answer in answers:
        if answer.error is not None:
            failed.append(answer.path)
            print(f"Error: {sentence(answer.error)}", file=sys.stderr)
        yield answer


def write_json(answers: Iterable[Answer], file: Sink, *, top: int | None = None) -> None:
    """Write a list of objects, one per line."""
    file.write("[")
    for number, answer in enumerate(answers):
        file.write((",\n " if number else "\n ") + json_text(as_object(answer, top)))
    file.write("\n]\n")


CSV_HEADS: tuple[str, ...] = (
    "path",
    "start",
    "end",
    "label",
    "confidence",
    "compute",
    "strides",
    "history",
    "error",
    "note",
)


def write_csv(answers: Iterable[Answer], file: Sink, *, top: int | None = None) -> None:
    """Write a row per label: one for a clip, one per window or event of a recording. Blanks separate items of lists.

    With `top` there is a last column of the most likely classes: "seven 0.981, nine 0.012".

    Names are shown as in the table, because this goes to a terminal as often; JSON has them exactly.
    """
    writer = csv.DictWriter(file, CSV_HEADS if top is None else [*CSV_HEADS, "likely"], lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        for row in _rows(answer, top):
            lists = {key: " ".join(map(str, row[key])) for key in ("strides", "history") if key in row}
            cells = {"path": answer.path, **row, **lists}
            writer.writerow({k: quoted(shown(cell)) if isinstance(cell, str) else cell for k, cell in cells.items()})
        file.flush()


def _rows(answer: Answer, top: int | None) -> Iterator[dict[str, Any]]:
    prediction = answer.prediction
    if prediction is None:
        yield {"error": answer.error}
        return
    ends = {"start": 0, "end": round(prediction.seconds, DIGITS)} if prediction.windows is None else {}
    ends |= {"note": prediction.note} if prediction.note else {}
    if prediction.events:
        yield from ({**ends, **_facts(prediction), **_rounded(one._asdict())} for one in prediction.events)
        return
    for part in [prediction] if prediction.windows is None else prediction.windows:
        yield {**ends, **_facts(part), **({} if top is None else {"likely": in_words(part, top)})}


def write_table(answers: Iterable[Answer], file: Sink, *, classes: Sequence[str], top: int | None = None) -> None:
    """Write columns for a person, the path last because of its length. Files that failed are left out.

    Neighbouring windows of the same label share a line, and an event has one. With `top`, the most likely classes
    follow the path.
    """
    label_width = max(len("label"), *(len(shown(name)) for name in classes))
    columns = ""
    for answer in answers:
        if answer.prediction is None:
            continue
        for part, what in _parts(answer.path, answer.prediction):
            if isinstance(part, Event):
                file.write(columns.format(shown(part.label), f"{part.confidence:.3f}", "", "", "", what))
                continue
            strides = "" if part.strides is None else " ".join(str(s) if s else ABSENT for s in part.strides)
            route = part.route or ""
            if not columns:  # the first clip tells how many layers there are
                windows = answer.prediction.windows
                num_layers = len((windows[0] if windows else answer.prediction).strides or [])
                wide = max(len("strides"), 2 * num_layers - 1), max(len("route"), num_layers)
                columns = f"{{:<{label_width}}}  {{:>10}}  {{:>7}}  {{:<{wide[0]}}}  {{:<{wide[1]}}}  {{}}\n"
                file.write(columns.format("label", "confidence", "compute", "strides", "route", "file"))
            numbers = "" if part.confidence is None else f"{part.confidence:.3f}", f"{part.compute:.3f}"
            likely = "" if top is None else f"  [{in_words(part, top)}]"
            file.write(columns.format(shown(part.label), *numbers, strides, route, shown(what) + likely))
        file.flush()


def _parts(path: str, whole: Prediction) -> Iterator[tuple[Prediction | Window | Event, str]]:
    path = path if whole.note is None else f"{path} ({whole.note})"
    yield whole, path if whole.windows is None else f"{path} ({whole.seconds:.1f} s, {len(whole.windows)} windows)"
    for window, count in merged(whole.windows or ()):
        yield window, f"  {window.start:.2f} to {window.end:.2f} s" + (f", {count} windows" if count > 1 else "")
    yield from ((event, f"  {event.start:.2f} to {event.end:.2f} s") for event in whole.events or ())
