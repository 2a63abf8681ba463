"""What a model says of files that nobody has labelled, and how a person or a program reads it.

Written file by file as answers come, so that a hundred thousand take no more memory than ten.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from hopscotch.plain import quoted, sentence, shown
from hopscotch.report.text import json_text

DIGITS = 6  # of what is written: the last bits of a float32 depend on the batch
ABSENT = "·"


Form = Literal["json", "csv", "table"]


@runtime_checkable
class Sink(Protocol):
    """Where text goes: a file, standard output, whatever stands in for it."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> None: ...


class Window(NamedTuple):
    """A label for some seconds of a long recording."""

    start: float  # seconds
    end: float
    label: str
    confidence: float
    compute: float
    strides: list[int]
    history: list[int]
    route: str


class Prediction(NamedTuple):
    """What a model says of a clip, and what it did to say it.

    Of a recording that was cut into windows the probabilities are the mean over the windows and compute is their sum
    over what a dense model costs; what it did is said by the windows.
    """

    label: str
    confidence: float  # probability of the label
    probabilities: dict[str, float]
    compute: float  # share of a dense model's multiply-accumulates
    strides: list[int] | None  # by layer; 0 where it had no attention, or did not run. None: see `windows`
    history: list[int] | None  # layers landed on by jumping
    route: str | None  # a letter per layer: x ran, > landed on, - jumped over
    seconds: float
    windows: list[Window] | None = None


class Answer(NamedTuple):
    """What came of a file: a prediction, or the reason why there is none."""

    path: str
    prediction: Prediction | None
    error: str | None


def as_object(answer: Answer) -> dict[str, Any]:
    """For JSON: path and error, or path, label, confidence, compute, strides, history, and windows where there are."""
    said = answer.prediction
    if said is None:
        return {"path": answer.path, "error": answer.error}
    windows = {} if said.windows is None else {"windows": [_facts(window) for window in said.windows]}
    return {"path": answer.path, **_facts(said), **windows}


def _facts(said: Prediction | Window) -> dict[str, Any]:
    where = {"start": round(said.start, DIGITS), "end": round(said.end, DIGITS)} if isinstance(said, Window) else {}
    return {
        **where,
        "label": said.label,
        "confidence": round(said.confidence, DIGITS),
        "compute": round(said.compute, DIGITS),
        "strides": said.strides,
        "history": said.history,
    }


def counted(answers: Iterable[Answer], failed: list[str]) -> Iterator[Answer]:
    """Pass on the answers; files that failed are named on standard error as they come, and noted."""
    for answer in answers:
        if answer.error is not None:
            failed.append(answer.path)
            print(f"Error: {sentence(answer.error)}", file=sys.stderr)
        yield answer


def write_json(answers: Iterable[Answer], file: Sink) -> None:
    """Write a list of objects, one a line."""
    file.write("[")
    for number, answer in enumerate(answers):
        file.write((",\n " if number else "\n ") + json_text(as_object(answer)))
    file.write("\n]\n")


CSV_HEADS: tuple[str, ...] = ("path", "start", "end", "label", "confidence", "compute", "strides", "history", "error")


def write_csv(answers: Iterable[Answer], file: Sink) -> None:
    """Write a row per label: one for a clip, one per window of a long recording. Lists are parted by blanks.

    Names are shown as in the table, for this goes to a terminal as often; JSON has them exactly.
    """
    writer = csv.DictWriter(file, CSV_HEADS, lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        for row in _rows(answer):
            lists = {key: " ".join(map(str, row[key])) for key in ("strides", "history") if key in row}
            cells = {"path": answer.path, **row, **lists}
            writer.writerow({k: quoted(shown(cell)) if isinstance(cell, str) else cell for k, cell in cells.items()})
        file.flush()


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    said = answer.prediction
    if said is None:
        yield {"error": answer.error}
    elif said.windows is None:
        yield {"start": 0, "end": round(said.seconds, DIGITS), **_facts(said)}
    else:
        yield from map(_facts, said.windows)


def write_table(answers: Iterable[Answer], file: Sink, *, classes: Sequence[str]) -> None:
    """Columns for a person; the file comes last, being of any length. Files that failed are left out."""
    label_width = max(len("label"), *(len(shown(name)) for name in classes))
    columns = ""
    for answer in answers:
        if answer.prediction is None:
            continue
        for part, what in _parts(answer.path, answer.prediction):
            strides = "" if part.strides is None else " ".join(str(s) if s else ABSENT for s in part.strides)
            route = part.route or ""
            if not columns:  # the first clip tells how many layers there are
                depth = len(_first_clip(answer.prediction))
                wide = max(len("strides"), 2 * depth - 1), max(len("route"), depth)
                columns = f"{{:<{label_width}}}  {{:>10}}  {{:>7}}  {{:<{wide[0]}}}  {{:<{wide[1]}}}  {{}}\n"
                file.write(columns.format("label", "confidence", "compute", "strides", "route", "file"))
            numbers = f"{part.confidence:.3f}", f"{part.compute:.3f}"
            file.write(columns.format(shown(part.label), *numbers, strides, route, shown(what)))
        file.flush()


def _first_clip(said: Prediction) -> list[int]:
    return said.windows[0].strides if said.windows else said.strides or []


def _parts(path: str, said: Prediction) -> Iterator[tuple[Prediction | Window, str]]:
    yield said, path if said.windows is None else f"{path} ({said.seconds:.1f} s, {len(said.windows)} windows)"
    for window in said.windows or ():
        yield window, f"  {window.start:.2f} to {window.end:.2f} s"
