"""Whatever libsndfile writes and reads gives the mel of the 16 kHz mono original, within what its format loses."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hopscotch.data.audio import AudioFileError, count_samples, opened, raw_blocks, read_clip
from hopscotch.frontend import LogMel

RATE = 16_000
SECONDS = 0.4
HIGHEST = 1500.0  # Hz: below half of the lowest rate, with room for the filter
MEL = LogMel(sample_rate=RATE)  # as the model hears it: 40 bands down to 30 dB below the loudest frame

# By how many dB the mean band may differ. 16 bits and more lose nothing to speak of; 8 bits and the telephone's laws
# add noise of -40 dB or so; ADPCM and GSM model speech, and Vorbis, Opus and MP3 leave out what is not heard.
EXACT, ROUGH, CODED = 0.05, 0.5, 4.0
VOC = 1.0  # libsndfile 1.2.2 takes the byte that ends one for a sample: a click
CODINGS = {
    "PCM_S8": ROUGH, "PCM_U8": ROUGH, "ULAW": ROUGH, "ALAW": ROUGH, "DPCM_8": ROUGH,
    "IMA_ADPCM": CODED, "MS_ADPCM": CODED, "GSM610": CODED, "G721_32": CODED, "G723_24": CODED, "G723_40": CODED,
    "NMS_ADPCM_16": CODED, "NMS_ADPCM_24": CODED, "NMS_ADPCM_32": CODED,
    "VORBIS": CODED, "OPUS": CODED, "MPEG_LAYER_III": CODED,
}  # fmt: skip
FIXED = {"GSM610": 8000, "OPUS": 48_000, "WVE": 8000, "XI": 44_100}  # Hz, of what has no other rate
BLOCK = 0.05  # seconds that a coder of blocks may add at the end
# RAW has no header. libsndfile writes none of these, or cannot seek in them, which is named.
UNWRITTEN, UNSEEKABLE = {"MPEG_LAYER_I", "MPEG_LAYER_II", "DWVW_12"}, {"DWVW_16", "DWVW_24"}
# Their headers do not say how long the audio is, or libsndfile does not believe them: a cut one is a shorter file.
WITHOUT_LENGTH = {"AVR", "MAT5", "MPC2K", "PAF", "PVF", "SD2", "IRCAM", "WVE", "XI"}
KINDS = [
    (kind, coding)
    for kind in soundfile.available_formats()
    for coding in soundfile.available_subtypes(kind)
    if kind != "RAW" and coding not in UNWRITTEN | UNSEEKABLE and (kind, coding) != ("WAV", "MPEG_LAYER_III")
]
RATES = (4000, 6000, 8000, 11_025, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000, 384_000)


def original(rate: int) -> np.ndarray:
    """Return a few tones that swell and fade, all up to `HIGHEST`, as they are at any rate."""
    time = np.arange(round(SECONDS * rate)) / rate
    tones = [np.sin(2 * np.pi * hz * time + hz) for hz in (150.0, 410.0, 730.0, 1130.0, HIGHEST)]
    return 0.12 * np.sum(tones, axis=0) * np.sin(np.pi * time / SECONDS)


def mel(waveform: Tensor) -> Tensor:
    return MEL(waveform[None], torch.tensor([len(waveform)]))[0][0]


EXPECTED = mel(torch.from_numpy(original(RATE)).float())


def error_db(waveform: Tensor) -> float:
    """Return by how many dB the mel of a clip differs from the original's in the mean band."""
    found = mel(waveform)[: len(EXPECTED)]
    assert len(found) >= len(EXPECTED) - 1
    return float((found - EXPECTED[: len(found)]).abs().mean()) * 10 / math.log(10)


def rate_of(kind: str, coding: str) -> int:
    return FIXED.get(coding, FIXED.get(kind, RATE))


def write(path: Path, kind: str, coding: str) -> Path:
    rate = rate_of(kind, coding)
    soundfile.write(path, original(rate), rate, format=kind, subtype=coding)
    return path


@pytest.mark.parametrize(("kind", "coding"), KINDS)
def test_a_format_gives_the_mel_of_the_original(tmp_path: Path, kind: str, coding: str) -> None:
    path = write(tmp_path / f"clip.{kind.lower()}", kind, coding)
    clip = read_clip(path, RATE)
    assert len(clip) == count_samples(path, RATE)
    assert SECONDS - 0.01 <= len(clip) / RATE <= SECONDS + BLOCK
    assert error_db(clip) <= (VOC if kind == "VOC" else CODINGS.get(coding, EXACT))


@pytest.mark.parametrize(("kind", "coding"), [one for one in KINDS if one[0] not in WITHOUT_LENGTH])
def test_a_cut_file_is_named_in_every_format_that_says_how_long_it_is(tmp_path: Path, kind: str, coding: str) -> None:
    path = write(tmp_path / f"clip.{kind.lower()}", kind, coding)
    content = path.read_bytes()
    for share in (0.3, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(AudioFileError):
            read_clip(path, RATE)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_every_rate_gives_the_mel_of_the_original(tmp_path: Path, kind: str, rate: int) -> None:
    path = tmp_path / "clip"
    soundfile.write(path, original(rate), rate, format=kind, subtype="PCM_24")
    clip = read_clip(path, RATE)
    assert len(clip) == SECONDS * RATE
    assert error_db(clip) <= 0.3  # at 4 kHz the filter begins below the highest tone


@pytest.mark.parametrize("num_channels", [1, 2, 3, 5, 6, 8, 16, 33, 64])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_channels_are_averaged_in_every_container(tmp_path: Path, kind: str, num_channels: int) -> None:
    shares = np.arange(1, num_channels + 1)
    channels = original(RATE)[:, None] * (shares / shares.mean())
    path = tmp_path / "clip"
    soundfile.write(path, channels, RATE, format=kind, subtype="FLOAT")
    assert error_db(read_clip(path, RATE)) <= EXACT
    with opened(path) as file:
        (block,) = raw_blocks(path, file, 0, file.frames)
    assert np.array_equal(block, channels.astype(np.float32))


def test_a_sphere_file_that_was_cut_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.sph", "NIST", "PCM_16")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AudioFileError, match=r"its header promises 6400 frames, got 5900"):
        read_clip(path, RATE)
