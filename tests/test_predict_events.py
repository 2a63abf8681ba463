"""predict.py with a detector: the events of a file are those of its stream, in every form of output."""

import csv
import io
import json
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch

from hopscotch.answers import Answer, Event, Prediction, write_csv, write_json, write_table
from hopscotch.models.always_on import AlwaysOn
from hopscotch.predict import Predictor, WindowResult, together
from tests.test_always_on import RATE, noise
from tests.test_stream import CLASSES, ready, whole


@pytest.fixture(scope="module")
def model() -> AlwaysOn:
    return ready()


def write(path: Path, waveform: torch.Tensor) -> Path:
    soundfile.write(path, waveform[0].numpy(), RATE, subtype="FLOAT")
    return path


def test_a_file_has_the_events_of_its_stream_and_no_other_file_of_the_batch_changes_them(
    model: AlwaysOn, tmp_path: Path
) -> None:
    predictor = Predictor(model, CLASSES, RATE, mean_seconds=60.0, device="cpu")
    waveform, _ = noise(30.3)
    _, expected = whole(model, waveform)
    files = [write(tmp_path / "a.wav", waveform), write(tmp_path / "b.wav", torch.zeros(1, 40 * RATE))]
    loud, silent = [answer.prediction for answer in predictor.predict(files)]
    assert loud is not None
    assert silent is not None
    assert len(expected) > 0
    assert sorted((one.start, one.end, one.label) for one in loud.events or ()) == expected
    stream = predictor.stream()
    heard = sorted(event[:4] for event in [*stream.feed(waveform[0]), *stream.end()])
    assert [event[:3] for event in loud.events or ()] == [event[:3] for event in heard]
    assert [event.confidence for event in loud.events or ()] == pytest.approx([event[3] for event in heard])
    assert set(loud.label.split(";")) == {one.label for one in loud.events or ()}
    assert loud.confidence == pytest.approx(max(one.confidence for one in loud.events or ()))
    assert (silent.events, silent.label, loud.windows) == ([], "", None)


def test_of_a_recording_in_windows_each_score_is_of_the_window_that_it_is_deepest_in() -> None:
    part = partial(WindowResult, scores=[], macs=1, dense_macs=1, strides=[], cells=[], is_silent=False)
    starts, hop = [0, 200, 400, 470], 20
    parts = [
        part(start, 400, rows=torch.stack([torch.full((20,), float(number)), torch.arange(20.0) + start / hop], dim=1))
        for number, start in enumerate(starts)
    ]
    rows = together(parts, hop)
    origin, place = rows.unbind(dim=1)
    assert place[:39].tolist() == pytest.approx(list(range(39)), abs=1)
    middles = [(starts[one] + 400 + starts[one + 1]) / 2 / hop for one in range(3)]
    assert origin.tolist() == [sum(row >= round(middle) for middle in middles) for row in range(len(rows))]


def test_a_long_file_is_cut_into_windows_and_has_one_list_of_events(model: AlwaysOn, tmp_path: Path) -> None:
    waveform, _ = noise(30.0)
    file = write(tmp_path / "a.wav", waveform)
    at_once = Predictor(model, CLASSES, RATE, mean_seconds=60.0, device="cpu")(file)
    cut = Predictor(model, CLASSES, RATE, window=10.24, hop=5.12, device="cpu")(file)
    assert cut.windows is None
    assert len(cut.events or ()) > 0
    assert [event[:3] for event in cut.events or ()] == [event[:3] for event in at_once.events or ()]
    assert cut.seconds == 30.0


def test_events_are_written_as_json_csv_and_a_table() -> None:
    events = [Event(1.0, 1.5, "go", 0.9), Event(2.0, 2.56, "no", 0.7123456)]
    shares = {"go": 0.9, "no": 0.7123456}
    some = Prediction("go;no", 0.9, shares, 1, 4, [1], [], "x", 5.0, events=events)
    none = Prediction("", 0.1, {"go": 0.1, "no": 0.0}, 1, 4, [0], [], "-", 5.0, events=[])
    answers = [Answer("a.wav", some, None), Answer("b.wav", none, None), Answer("c.wav", None, "c.wav: gone")]
    out = io.StringIO()
    write_json(answers, out)
    first, second, third = json.loads(out.getvalue())
    assert first["events"] == [
        {"start": 1.0, "end": 1.5, "label": "go", "confidence": 0.9},
        {"start": 2.0, "end": 2.56, "label": "no", "confidence": 0.712346},
    ]
    assert (second["events"], "events" in third) == ([], False)
    out = io.StringIO()
    write_csv(answers, out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [[row[key] for key in ("path", "start", "end", "label", "confidence")] for row in rows] == [
        ["a.wav", "1.0", "1.5", "go", "0.9"],
        ["a.wav", "2.0", "2.56", "no", "0.712346"],
        ["b.wav", "0", "5.0", "", "0.1"],
        ["c.wav", "", "", "", ""],
    ]
    out = io.StringIO()
    write_table(answers, out, classes=["go", "no"])
    _, *lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["go;no", "0.900", "0.250", "1", "x", "a.wav"],
        ["go", "0.900", "1.00", "to", "1.50", "s"],
        ["no", "0.712", "2.00", "to", "2.56", "s"],
        ["0.100", "0.250", "·", "-", "b.wav"],
    ]
