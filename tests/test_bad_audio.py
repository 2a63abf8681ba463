"""Bad audio: all of it is named before the first epoch, and what is left out is counted."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hopscotch.data.audio import AudioFileError, read_clip
from hopscotch.data.folder import Folder
from tests.row_sources import add, source

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 400)


def folder(root: Path, **keys: Any) -> Folder:
    return source(Folder, root=str(root), **keys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten good clips in each split, and of training seven bad ones: three only by name, four silent."""
    for split in ("train", "val", "test"):
        for i in range(5):
            add(tmp_path / split / "cat" / f"{i}.wav")
            add(tmp_path / split / "dog" / f"{i}.wav")
    for i in range(3):
        (tmp_path / "train" / "cat" / f"fake{i}.wav").write_text("hello")
    for i in range(4):
        soundfile.write(tmp_path / "train" / "dog" / f"silent{i}.wav", np.zeros(400), 8000)
    return tmp_path


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_all_bad_files_are_counted_by_reason_and_named_in_a_table(root: Path, cache_gib: float) -> None:
    data = folder(root, cache_gib=cache_gib)
    data.bad_audio = root.parent / "run" / "bad_audio.csv"
    with pytest.raises(AudioFileError, match=r"^data: 7 bad files: 4 \(must not be silent\), 3 \(libsndfile") as error:
        data.setup("fit")
    assert str(error.value).count("Audio file ") == 5
    assert "Repair or remove them, or pass data.on_bad=skip." in str(error.value)
    with data.bad_audio.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["clip"]) for row in rows] == [
        *(("train", f"train/cat/fake{i}.wav") for i in range(3)),
        *(("train", f"train/dog/silent{i}.wav") for i in range(4)),
    ]
    assert {row["reason"] for row in rows} == {"libsndfile cannot read it", "must not be silent"}


def test_a_bad_test_file_is_found_before_training(root: Path) -> None:
    soundfile.write(root / "test" / "dog" / "silent.wav", np.zeros(400), 8000)
    with pytest.raises(AudioFileError, match=r"8 bad files: 5 \(must not be silent\)"):
        folder(root).setup("fit")


def test_bad_files_are_skipped_up_to_a_share_of_a_split(root: Path) -> None:
    data = folder(root, on_bad="skip", max_bad=7 / 17)
    data.setup("fit")
    assert data.summary()["bad"] == {"train": 7, "val": 0, "test": 0}
    assert data.summary()["clips"] == {"train": 10, "val": 10, "test": 10}
    assert len(data.skipped) == 7
    with pytest.raises(AudioFileError, match=r"at most data\.max_bad=0\.4 of a split .* got 7 of 17 for train"):
        folder(root, on_bad="skip", max_bad=0.4).setup("fit")


def test_silence_is_a_clip_where_that_is_said(root: Path) -> None:
    data = folder(root, on_bad="skip", max_bad=1.0, silent_ok=True)
    data.setup("fit")
    assert data.summary()["bad"] == {"train": 3, "val": 0, "test": 0}
    assert sum("silent" in clip.name for clip in data.clips["train"]) == 4


@pytest.mark.parametrize(("name", "head"), [("a b.m4a", b"\0\0\0\x20ftypM4A "), ("a b.webm", b"\x1aE\xdf\xa3\x9f")])
def test_a_file_that_ffmpeg_reads_comes_with_the_command(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(100))
    with pytest.raises(AudioFileError) as error:
        read_clip(path, 8000)
    assert f"convert it: ffmpeg -i '{path}' '{tmp_path / 'a b.wav'}'" in str(error.value)


def test_channels_that_cancel_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            add(tmp_path / split / name / "0.wav")
    where = tmp_path / "train" / "cat"
    soundfile.write(where / "anti.wav", np.stack([NOISE, -NOISE + 1e-4], axis=1), 8000)
    soundfile.write(where / "quiet.wav", np.stack([NOISE, NOISE], axis=1) / 1000, 8000)
    with caplog.at_level(logging.WARNING, logger="hopscotch"):
        folder(tmp_path).setup("fit")
    told = [record.message for record in caplog.records if "cancel" in record.message]
    assert told == [
        "data: the channels of 1 clips cancel each other (anti-phase), which leaves nearly nothing of their mean: "
        "train/cat/anti.wav"
    ]
