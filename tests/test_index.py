"""The second start opens no file, and whatever happened to the index, nobody notices but by the time it takes."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hopscotch.data import audio, index
from hopscotch.data.audio import AudioFileError
from hopscotch.data.folder import Folder
from hopscotch.data.index import Index
from tests.row_sources import RATE, add, source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files of equal size, so that copies are looked for, and one whose channels cancel."""
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        for i in range(3):
            add(root / split / "cat" / f"{i}.wav")
            add(root / split / "dog" / f"{i}.flac")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 400)
    soundfile.write(root / "train" / "cat" / "anti.wav", np.stack([noise, -noise + 1e-4], axis=1), RATE)
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts what is opened of the data."""
    counts: Counter[str] = Counter()
    real = Path.open, audio.soundfile.SoundFile

    def path_open(path: Path, *args: Any, **keys: Any) -> Any:
        counts[path.name] += path.suffix in (".wav", ".flac")
        return real[0](path, *args, **keys)

    def sound_file(name: Any, *args: Any, **keys: Any) -> Any:
        counts[Path(os.fsdecode(name)).name] += 1
        return real[1](name, *args, **keys)

    monkeypatch.setattr(Path, "open", path_open)
    monkeypatch.setattr(audio.soundfile, "SoundFile", sound_file)
    return counts


def start(root: Path, **keys: Any) -> Folder:
    """Start a run whose clips fit nowhere."""
    data = source(Folder, root=str(root), cache_dir=str(root.parent / "cache"), **{"cache_gib": 0.0, **keys})
    data.setup("fit")
    return data


def index_file(root: Path) -> Path:
    (file,) = (root.parent / "cache" / "index").glob("*.json")
    return file


def test_the_second_start_opens_no_file_and_says_the_same(
    root: Path, opened: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = start(root)
    assert opened.total() > 2 * 19
    told = list(caplog.messages)
    assert any("cancel each other" in line for line in told)
    opened.clear()
    caplog.clear()
    second = start(root)
    assert opened.total() == 0
    assert (second.clips, second.fingerprint()) == (first.clips, first.fingerprint())
    assert caplog.messages == told


def test_a_file_of_another_size_or_time_is_read_again_and_no_other(root: Path, opened: Counter[str]) -> None:
    start(root)
    add(root / "val" / "cat" / "0.wav", 0.09)
    os.utime(root / "val" / "dog" / "0.flac", ns=(1, 1))
    add(root / "val" / "cat" / "new.wav", 0.07)
    opened.clear()
    data = start(root)
    assert {name for name, count in opened.items() if count} == {"0.wav", "0.flac", "new.wav"}
    lengths = {clip.name: clip.num_samples for clip in data.clips["val"]}
    assert (lengths["val/cat/0.wav"], lengths["val/cat/new.wav"]) == (720, 560)


def test_another_way_of_reading_has_another_index(root: Path) -> None:
    start(root)
    assert all(clip.num_samples == 800 for clip in start(root, sample_rate=2 * RATE).clips["val"])
    assert len(list((root.parent / "cache" / "index").iterdir())) == 2


def test_a_bad_file_is_named_at_every_start(root: Path) -> None:
    soundfile.write(root / "train" / "cat" / "silent.wav", np.zeros(400), RATE)
    (root / "train" / "cat" / "fake.wav").write_text("hello")
    messages = set()
    for _ in range(2):
        with pytest.raises(AudioFileError, match=r"^data: 2 bad files") as error:
            start(root)
        messages.add(str(error.value))
    assert len(messages) == 1
    assert start(root, on_bad="skip", max_bad=0.5).summary()["bad"] == {"train": 2, "val": 0, "test": 0}
    loud = start(root, on_bad="skip", max_bad=0.5, silent_ok=True)
    assert loud.summary()["bad"] == {"train": 1, "val": 0, "test": 0}


def _rows(change: Any) -> Any:
    def damage(text: str) -> str:
        found = json.loads(text)
        found["files"] = {name: change(row) for name, row in found["files"].items()}
        return json.dumps(found)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda _: "[" * 100_000,
        lambda _: "[1]",
        lambda _: '{"format": 1}',
        lambda _: '{"format": 1, "files": [1, 2]}',
        lambda text: text.replace('"format": 1', '"format": 0'),
        _rows(lambda _: None),
        _rows(lambda row: row[:3]),
        _rows(lambda row: [*row[:2], [RATE, -5, 1], *row[3:]]),
        _rows(lambda row: [*row[:2], [RATE, "400", 1], *row[3:]]),
        _rows(lambda row: [*row[:3], {"": "good"}, {}]),
        _rows(lambda row: [*row[:3], [], []]),
    ],
)
def test_a_damaged_index_is_made_again(root: Path, damage: Any, opened: Counter[str]) -> None:
    first = start(root)
    file = index_file(root)
    file.write_text(damage(file.read_text()))
    assert start(root).clips == first.clips
    opened.clear()
    start(root)
    assert opened.total() == 0


def test_a_folder_that_cannot_be_written_is_no_error(root: Path) -> None:
    (root.parent / "cache").write_text("no folder")
    assert len(start(root).clips["val"]) == 6


def test_several_runs_leave_a_whole_index(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    some, others = Index(file), Index(file)
    paths = sorted((root / "val" / "cat").iterdir()), sorted((root / "val" / "dog").iterdir())
    for one, found in zip((some, others), paths, strict=True):
        for path in found:
            one.header(path)
    some.save()
    others.save()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "index"))] == ["index.json"]
    assert set(json.loads(file.read_text())["files"]) == set(map(str, paths[1]))  # the last one has it
    more = Index(file)
    more.header(paths[0][0])
    more.save()
    assert set(json.loads(file.read_text())["files"]) == {*map(str, paths[1]), str(paths[0][0])}  # others stay


def test_a_source_with_its_own_way_of_reading_is_not_remembered(root: Path, opened: Counter[str]) -> None:
    class Own(Folder):
        def load(self, clip: Any) -> Any:
            return super().load(clip)

    for _ in range(2):
        opened.clear()
        data = source(Own, root=str(root), cache_dir=str(root.parent / "cache"), disk_cache_gib=1.0, cache_gib=0.0)
        data.setup("fit")
        assert opened.total() > 2 * 19
    assert not (root.parent / "cache").exists()


def test_the_cache_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert index.user_cache() == tmp_path / "hopscotch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert index.user_cache() == tmp_path / ".cache" / "hopscotch"
