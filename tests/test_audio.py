"""audio.py: what is read is what was recorded, and what lies is refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hopscotch.data.audio import (
    AudioFileError,
    count_samples,
    printable,
    rate_ratio,
    read_blocks,
    read_clip,
)

RATE = 8000


def tone(hz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def level_db(waveform: torch.Tensor) -> float:
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]  # away from the filter's ends
    return 10 * float(middle.double().square().mean().log10())


def test_a_clip_at_the_wanted_rate_comes_back_sample_by_sample(tmp_path: Path) -> None:
    samples = tone(440, RATE)
    clip = read_clip(write(tmp_path / "a.wav", samples, subtype="FLOAT"), RATE)
    assert clip.dtype == torch.float32
    assert torch.equal(clip, torch.from_numpy(samples.astype("float32")))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_any_format_and_rate_gives_the_promised_number_of_samples(tmp_path: Path, suffix: str) -> None:
    for rate in (8000, 11025, 44100):
        path = tmp_path / f"{rate}.{suffix}"
        soundfile.write(path, tone(440, rate), rate)
        assert len(read_clip(path, RATE)) == count_samples(path, RATE) == 4000


def test_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([tone(440, RATE), np.zeros(4000), tone(440, RATE)], axis=1)
    clip = read_clip(write(tmp_path / "a.wav", channels, subtype="FLOAT"), RATE)
    assert torch.allclose(clip, torch.from_numpy(tone(440, RATE) * 2 / 3).float(), atol=1e-6)


def test_resampling_takes_an_alias_down_by_80_db_and_keeps_the_band(tmp_path: Path) -> None:
    in_band = read_clip(write(tmp_path / "in.wav", tone(3000, 16000), 16000, "FLOAT"), RATE)
    alias = read_clip(write(tmp_path / "out.wav", tone(4700, 16000), 16000, "FLOAT"), RATE)  # would fold to 3300 Hz
    assert level_db(in_band) == pytest.approx(10 * np.log10(0.125), abs=0.01)
    assert level_db(alias) - level_db(in_band) < -80


def test_an_awkward_rate_is_replaced_by_one_a_millionth_away() -> None:
    for source in (44100, 22050, 48000, 8000):
        num, den = rate_ratio(source, 16000)
        assert num * 16000 == den * source
    for source, target in ((44101, 16000), (767_999, 8000), (1001, 16000)):
        num, den = rate_ratio(source, target)
        assert max(num, den) <= 1000
        assert num / den == pytest.approx(source / target, rel=1e-5)


def damaged(path: Path, samples: np.ndarray, keep: slice) -> Path:
    """A WAV of which only part of the bytes is there."""
    write(path, samples)
    path.write_bytes(path.read_bytes()[keep])
    return path


def make_bad_file(kind: str, path: Path) -> Path:
    samples = tone(440, RATE)
    if kind == "missing":
        return path
    if kind == "text":
        path.write_text("not audio at all, whatever the name says\n" * 9)
    elif kind == "no frames":
        write(path, np.zeros(0))
    elif kind == "half a file":
        damaged(path, samples, slice(0, 4000))
    elif kind == "length too small":
        write(path, samples)
        content = bytearray(path.read_bytes())
        content[40:44] = (1000).to_bytes(4, "little")  # the data chunk's length in a plain header of 44 bytes
        path.write_bytes(content)
    elif kind == "cut flac":
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
        soundfile.write(path, noise, RATE, format="FLAC")
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "flac from a pipe":
        soundfile.write(path, samples, RATE, format="FLAC")
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0  # the number of samples: 36 bits of STREAMINFO
        data[22:26] = bytes(4)
        path.write_bytes(data)
    elif kind in (bad := {"nan": np.nan, "infinite": np.inf, "huge": -1e18}):
        write(path, np.where(np.arange(4000) == 7, bad[kind], samples), subtype="FLOAT")
    elif kind == "antiphase":
        write(path, np.stack([samples, -samples], axis=1), subtype="FLOAT")
    elif kind == "silent":
        write(path, np.zeros(4000))
    elif kind == "1 Hz":
        write(path, samples, rate=1)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("missing", "cannot be opened (No such file or directory)"),
        ("text", "is it audio, as its name says?"),
        ("no frames", "must hold at least one frame, got 0"),
        ("half a file", "is cut: its header promises 8000 bytes of audio, got 3956"),
        ("length too small", "header promises 1000 bytes of audio, but 7000 bytes follow"),
        ("cut flac", "Audio file "),
        ("flac from a pipe", "its header must say how long it is, got"),
        ("nan", "samples must be finite, got 1 NaN"),
        ("infinite", "samples must be finite, got 1 NaN or infinite"),
        ("huge", "samples must be at most 1e+12 in magnitude, got 1e+18"),
        ("antiphase", "must not be silent, got 4000 frames of zeros only, the channels averaged"),
        ("silent", "must not be silent, got 4000 frames of zeros"),
        ("1 Hz", "rate must lie in [1000, 768000] Hz, got 1"),
        ("folder", "must be a regular file"),
        pytest.param("pipe", "must be a regular file", marks=pytest.mark.skipif(os.name == "nt", reason="no FIFO")),
    ],
)
def test_a_file_that_lies_is_refused_with_name_rule_and_value(tmp_path: Path, kind: str, rule: str) -> None:
    path = make_bad_file(kind, tmp_path / "bad.wav")
    with pytest.raises(AudioFileError) as error:
        read_clip(path, RATE)
    assert f"Audio file {path}: " in str(error.value)
    assert rule in str(error.value)


def test_a_wav_of_unknown_length_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "streamed.wav", tone(440, RATE))
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_clip(path, RATE)) == 4000


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are UTF-8 there")
def test_a_name_that_is_not_utf_8_is_read_and_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "plain.wav", tone(440, RATE)).rename(path)
    assert len(read_clip(path, RATE)) == 4000
    assert printable(path).encode().endswith(b"caf\\xe9.wav")


@pytest.mark.parametrize("rate", [8000, 16000, 11025, 44100, 6000])
@pytest.mark.parametrize("seconds", [0.05, 0.3, 5.0])
def test_blocks_laid_end_to_end_are_the_clip(tmp_path: Path, rate: int, seconds: float) -> None:
    samples = np.stack([tone(440, rate, 1.003), np.random.default_rng(0).standard_normal(int(rate * 1.003))], axis=1)
    path = write(tmp_path / "a.wav", 0.1 * samples, rate, "FLOAT")
    blocks = list(read_blocks(path, RATE, seconds))
    assert max(map(len, blocks)) <= max(2 * seconds * RATE, 0.2 * RATE)
    torch.testing.assert_close(torch.cat(blocks), read_clip(path, RATE), rtol=0, atol=1e-6)


def test_blocks_refuse_what_a_clip_refuses_at_their_end(tmp_path: Path) -> None:
    samples = tone(440, RATE)
    for silent in (np.zeros(4000), np.stack([samples, -samples], axis=1)):
        path = write(tmp_path / "silent.wav", silent, subtype="FLOAT")
        with pytest.raises(AudioFileError, match=r"silent\.wav: must not be silent, got 4000 frames"):
            list(read_blocks(path, RATE, 0.1))
    noise = np.random.default_rng(0).standard_normal(8 * RATE) * 0.1
    flac = tmp_path / "cut.flac"
    soundfile.write(flac, noise, RATE)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    blocks = read_blocks(flac, RATE, 0.5)
    assert len(next(blocks)) > 0
    with pytest.raises(AudioFileError, match=r"cut\.flac: (is cut|decoding failed)"):
        list(blocks)
