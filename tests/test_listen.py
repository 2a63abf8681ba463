"""What comes through a pipe is what is in a file, and events are lines of JSON."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hopscotch.listen import chunks_of, listen
from hopscotch.ship.runner import pcm
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
    figures = r"30\.0 s heard, awake (\d+\.\d)%, (\d+) CPU seconds an hour, real-time factor (0\.\d{4})"
    told = re.fullmatch(figures, words)
    assert told
    awake, cpu, factor = map(float, told.groups())
    assert 0 < awake < 100
    assert cpu > 0
    assert factor > 0
