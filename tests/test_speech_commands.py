"""speech_commands.py: official lists, the task of 12, and a download that is checked."""

import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hopscotch.data import speech_commands
from hopscotch.data.datamodule import SPLITS
from hopscotch.data.speech_commands import SpeechCommands
from tests.row_sources import add, source, split_of

WORDS = ("yes", "no", "bed", "cat")


def commands(root: Path, **keys: Any) -> SpeechCommands:
    return source(SpeechCommands, **{"root": str(root), "version": "v2", "words": "all", "fetch": False, **keys})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for word in WORDS:
        for speaker in ("aa", "bb", "cc"):
            for i in range(4):
                add(tmp_path / "sc" / word / f"{speaker}_nohash_{i}.wav")
    for name in ("hum", "rain"):
        add(tmp_path / "sc" / "_background_noise_" / f"{name}.wav", 20)
    for name, speaker in (("validation_list.txt", "bb"), ("testing_list.txt", "cc")):
        lines = [f"{word}/{speaker}_nohash_{i}.wav" for word in WORDS for i in range(4)]
        (tmp_path / "sc" / name).write_text("\n".join(lines) + "\n")
    return tmp_path / "sc"


def test_the_official_lists_are_the_split_and_speakers_are_groups(root: Path) -> None:
    data = commands(root)
    classes, clips = data.find_clips()
    assert classes == sorted(WORDS)
    assert {split: {clip.group for clip in part} for split, part in clips.items()} == {
        "train": {"aa"}, "val": {"bb"}, "test": {"cc"},
    }  # fmt: skip
    assert len(split_of(data)) == 48


def test_the_task_of_12_has_other_words_as_unknown_and_silence_out_of_noise(root: Path) -> None:
    classes, clips = commands(root, words="12").find_clips()
    assert classes == ["no", "silence", "unknown", "yes"]
    for part in clips.values():
        # A tenth of the eight clips of commands is one clip.
        assert Counter(classes[int(clip.label)] for clip in part) == {"yes": 4, "no": 4, "unknown": 1, "silence": 1}  # type: ignore[arg-type]
    silent = {split: clip for split, part in clips.items() for clip in part if classes[int(clip.label)] == "silence"}  # type: ignore[arg-type]
    assert {split: (clip.start or 0) / 8000 for split, clip in silent.items()} == {"train": 0, "val": 16, "test": 18}
    assert {clip.num_samples for clip in silent.values()} == {8000}


def test_silence_of_one_split_shares_no_sample_with_another(root: Path) -> None:
    data = commands(root, words="12")
    ends = {split: [(row.start or 0, row.end or 0) for row in data._silence(split, 50)] for split in SPLITS}
    assert max(end for _, end in ends["train"]) <= min(start for start, _ in ends["val"])
    assert max(end for _, end in ends["val"]) <= min(start for start, _ in ends["test"])
    assert len(set(ends["train"])) == 25  # of each noise


@pytest.mark.parametrize("absent", ["validation_list.txt", "testing_list.txt"])
def test_a_root_without_a_list_is_refused(root: Path, absent: str) -> None:
    (root / absent).unlink()
    with pytest.raises(ValueError, match=rf"data\.root must hold {absent} of Speech Commands, got .*; see data\.fetch"):
        commands(root).find_clips()


def test_the_task_of_12_needs_noise(root: Path) -> None:
    for path in (root / "_background_noise_").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"data\.words=12 needs _background_noise_/ in data\.root"):
        commands(root, words="12").find_clips()


def test_a_download_is_unpacked_once_if_its_hash_is_right(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "sc.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in root.iterdir():
            tar.add(path, path.name)
    monkeypatch.setattr(SpeechCommands, "address", f"{tmp_path.as_uri()}/")
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(speech_commands, "ARCHIVES", {"v1": (archive.name, "0" * 64), "v2": (archive.name, right)})
    with pytest.raises(ValueError, match=f"SHA-256 of sc.tar.gz must be {'0' * 64}, got {right}"):
        commands(tmp_path / "new", version="v1", fetch=True).find_clips()
    assert list((tmp_path / "new").iterdir()) == []
    fetched = commands(tmp_path / "new", fetch=True)
    assert split_of(fetched) == split_of(commands(root))
    archive.unlink()
    assert len(split_of(fetched)) == 48
    with pytest.raises(ValueError, match=r"data\.fetch=true: .*sc\.tar\.gz cannot be read"):
        commands(tmp_path / "other", fetch=True).find_clips()
