"""microphone.py, with a module that stands for sounddevice: the same events as of a file, losses said, one error."""

import contextlib
import io
import itertools
import json
import queue
import sys
import types
from typing import Any

import numpy as np
import pytest

from hopscotch.listen import listen
from hopscotch.microphone import microphone
from hopscotch.stream import Stream
from tests.test_always_on import RATE, noise
from tests.test_stream import CLASSES, ready, whole


class Stub:
    """Stand for the module sounddevice: an input stream calls back with what `given` has, then Ctrl-C comes."""

    class PortAudioError(Exception): ...

    def __init__(self, given: list[np.ndarray], overflows: bool = False, fault: str | None = None) -> None:
        self.given, self.overflows, self.fault = given, overflows, fault
        self.options: dict[str, Any] = {}

    def InputStream(self, *, callback: Any, **options: Any) -> Any:
        if self.fault is not None:
            raise self.PortAudioError(self.fault)
        self.options = options
        status = types.SimpleNamespace(input_overflow=self.overflows)
        for samples in self.given:
            borrowed = samples[:, None].copy()
            callback(borrowed, len(samples), None, status)
            borrowed[:] = np.nan  # the library uses its memory again
        return contextlib.nullcontext()


def stub(monkeypatch: pytest.MonkeyPatch, *given: Any, **more: Any) -> Stub:
    made = Stub(list(given), **more)
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


def test_a_microphone_gives_its_chunks_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ready()
    waveform, _ = noise(8.0)
    _, expected = whole(model, waveform)
    module = stub(monkeypatch, *np.split(waveform[0].numpy(), 40))
    real, out = queue.Queue.get, io.StringIO()

    def get(self: Any, timeout: float) -> Any:
        if self.empty():
            raise KeyboardInterrupt
        return real(self, timeout=timeout)

    monkeypatch.setattr(queue.Queue, "get", get)
    words = listen(Stream(model, CLASSES), microphone("3", RATE), out)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(events) > 0
    assert sorted((one["start"], one["end"], one["label"]) for one in events) == expected
    assert words.startswith("8.0 s heard, awake ")
    assert module.options == {
        "device": 3,
        "samplerate": RATE,
        "channels": 1,
        "dtype": "float32",
        "blocksize": round(0.2 * RATE),
    }
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("num_chunks", "overflows"), [(60, False), (5, True)])
def test_what_a_microphone_loses_is_said_once(
    num_chunks: int, overflows: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, *np.ones((num_chunks, 800), dtype=np.float32), overflows=overflows)
    found = list(itertools.islice(microphone("", RATE), min(num_chunks, 50)))
    assert all((chunk == 1).all() for chunk in found)
    assert capsys.readouterr().err.count("Sound of the microphone was lost") == 1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "--device needs the package sounddevice, of the extra microphone: python -m pip install"),
        (Stub([], fault="Invalid sample rate"), r"one channel at 4000 Hz .* got desk: Invalid sample rate\.?$"),
        (Stub([]), "--device=desk must give samples, it gave none for 0.01 s"),
    ],
)
def test_a_microphone_that_is_not_to_be_had_is_one_error(
    module: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr("hopscotch.microphone.DEAD_SECONDS", 0.01)
    with pytest.raises(ValueError, match=message):
        next(microphone("desk", RATE))
