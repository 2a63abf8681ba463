"""Write predictions for unlabelled files as JSON, CSV or a table.

Each file's answer is written as it comes, so that a hundred thousand files take no more memory than ten.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
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
    confidence: float
    compute: float
    strides: list[int]
    history: list[int]
    route: str


class Prediction(NamedTuple):
    """Label a clip, and describe what the model computed for it.

    For a recording that was cut into windows, probabilities are means over the windows, compute is the sum of their
    costs over that of a dense model, and the windows have the decisions.
    """

    label: str
    confidence: float  # probability of the label
    probabilities: dict[str, float]
    compute: float  # share of a dense model's multiply-accumulates
    strides: list[int] | None  # per layer; 0 without attention or where skipped. None: see `windows`
    history: list[int] | None  # layers that a jump landed on
    route: str | None  # a letter per layer: x ran, > landed on, - jumped over
    seconds: float
    windows: list[Window] | None = None


class Answer(NamedTuple):
    """Hold the prediction for a file, or the reason why there is none."""

    path: str
    prediction: Prediction | None
    error: str | None


def as_object(answer: Answer) -> dict[str, Any]:
    """Return what JSON has of an answer: path and error, or path, label, decisions, and windows if there are any."""
    prediction = answer.prediction
    if prediction is None:
        return {"path": answer.path, "error": answer.error}
    windows = {} if prediction.windows is None else {"windows": [_facts(window) for window in prediction.windows]}
    return {"path": answer.path, **_facts(prediction), **windows}


def _facts(part: Prediction | Window) -> dict[str, Any]:
    fields = part._asdict()
    names = ("start", "end", "label", "confidence", "compute", "strides", "history")
    values = {name: fields[name] for name in names if name in fields}
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in values.items()}


def counted(answers: Iterable[Answer], failed: list[str]) -> Iterator[Answer]:
    """Yield the answers again; files that failed are named on standard error as they come, and added to `failed`."""
    for answer in answers:
        if answer.error is not None:
            failed.append(answer.path)
            print(f"Error: {sentence(answer.error)}", file=sys.stderr)
        yield answer


def write_json(answers: Iterable[Answer], file: Sink) -> None:
    """Write a list of objects, one per line."""
    file.write("[")
    for number, answer in enumerate(answers):
        file.write((",\n " if number else "\n ") + json_text(as_object(answer)))
    file.write("\n]\n")


CSV_HEADS: tuple[str, ...] = ("path", "start", "end", "label", "confidence", "compute", "strides", "history", "error")


def write_csv(answers: Iterable[Answer], file: Sink) -> None:
    """Write a row per label: one for a clip, one per window of a long recording. Blanks separate items of lists.

    Names are shown as in the table, because this goes to a terminal as often; JSON has them exactly.
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
    prediction = answer.prediction
    if prediction is None:
        yield {"error": answer.error}
    elif prediction.windows is None:
        yield {"start": 0, "end": round(prediction.seconds, DIGITS), **_facts(prediction)}
    else:
        yield from map(_facts, prediction.windows)


def write_table(answers: Iterable[Answer], file: Sink, *, classes: Sequence[str]) -> None:
    """Write columns for a person, the path last because of its length. Files that failed are left out."""
    label_width = max(len("label"), *(len(shown(name)) for name in classes))
    columns = ""
    for answer in answers:
        if answer.prediction is None:
            continue
        for part, what in _parts(answer.path, answer.prediction):
            strides = "" if part.strides is None else " ".join(str(s) if s else ABSENT for s in part.strides)
            route = part.route or ""
            if not columns:  # the first clip tells how many layers there are
                windows = answer.prediction.windows
                num_layers = len((windows[0] if windows else answer.prediction).strides or [])
                wide = max(len("strides"), 2 * num_layers - 1), max(len("route"), num_layers)
                columns = f"{{:<{label_width}}}  {{:>10}}  {{:>7}}  {{:<{wide[0]}}}  {{:<{wide[1]}}}  {{}}\n"
                file.write(columns.format("label", "confidence", "compute", "strides", "route", "file"))
            numbers = f"{part.confidence:.3f}", f"{part.compute:.3f}"
            file.write(columns.format(shown(part.label), *numbers, strides, route, shown(what)))
        file.flush()


def _parts(path: str, whole: Prediction) -> Iterator[tuple[Prediction | Window, str]]:
    yield whole, path if whole.windows is None else f"{path} ({whole.seconds:.1f} s, {len(whole.windows)} windows)"
    for window in whole.windows or ():
        yield window, f"  {window.start:.2f} to {window.end:.2f} s"
