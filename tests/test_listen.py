"""What comes through a pipe is what is in a file, and events are lines of JSON."""

import contextlib
import io
import itertools
import json
import queue
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hopscotch.listen import chunks_of, listen, microphone, pcm
from hopscotch.stream import Stream
from tests.test_always_on import RATE, noise
from tests.test_stream import CLASSES, ready, whole


def samples(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**15), 2**15, num).astype("<i2")


def wav(content: np.ndarray, rate: int = RATE, channels: int = 1, subtype: str = "PCM_16") -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, content.reshape(-1, channels), rate, format="WAV", subtype=subtype)
    file.seek(0)
    return file


@pytest.mark.parametrize("num", [1, 5, 6, 7, 900, 12_345])
def test_raw_samples_and_those_of_a_wav_file_are_the_same(num: int) -> None:
    content = samples(num)
    expected = content.astype(np.float32) / 2**15
    for source in (io.BytesIO(content.tobytes()), io.BytesIO(content.tobytes() + b"x"), wav(content)):
        assert np.array_equal(np.concatenate(list(pcm(source, RATE))), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (wav(samples(100), rate=8000), "got format 1, 1 channels, 8000 Hz, 16 bits"),
        (wav(samples(100), channels=2), "got format 1, 2 channels, 4000 Hz, 16 bits"),
        (wav(samples(100), subtype="PCM_24"), "24 bits"),
        (io.BytesIO(b"RIFF\xff\xff\xff\xffWAVEfmt "), "got a WAV file without samples"),
    ],
)
def test_another_format_is_named_with_the_command_that_makes_the_right_one(source: io.BytesIO, message: str) -> None:
    with pytest.raises(ValueError, match="ffmpeg -i FILE -ac 1 -ar 4000 -f s16le -") as error:
        list(pcm(source, RATE))
    assert message in str(error.value)


class Stub:
    """Stand for the module sounddevice: an input stream calls back with what `given` has, then Ctrl-C comes."""

    class PortAudioError(Exception): ...

    def __init__(self, given: list[np.ndarray], overflows: bool = False, fault: str | None = None) -> None:
        self.given, self.overflows, self.fault = given, overflows, fault
        self.options: dict[str, Any] = {}

    def InputStream(self, *, callback: Any, **options: Any) -> Any:  # noqa: N802  the name is that of the library
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
    assert re.fullmatch(r"8\.0 s heard, awake \d+\.\d%, \d+ CPU seconds an hour, real-time factor \d+\.\d{4}", words)
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
    monkeypatch.setattr("hopscotch.listen.DEAD_SECONDS", 0.01)
    with pytest.raises(ValueError, match=message):
        next(microphone("desk", RATE))


def test_a_file_is_heard_event_by_event(tmp_path: Path) -> None:
    model = ready()
    waveform, _ = noise(30.0)
    soundfile.write(tmp_path / "a.wav", waveform[0].numpy(), RATE, subtype="FLOAT")
    _, expected = whole(model, waveform)
    out = io.StringIO()
    words = listen(Stream(model, CLASSES), chunks_of(str(tmp_path / "a.wav"), RATE), out)
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(events) > 0
    assert sorted((one["start"], one["end"], one["label"]) for one in events) == expected
    assert words.startswith("30.0 s heard, awake ")
