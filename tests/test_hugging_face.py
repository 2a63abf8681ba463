"""hugging_face.py: a saved data set, with its splits, its class names and its embedded audio."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hopscotch.data.audio import read_clip
from hopscotch.data.hugging_face import HuggingFace
from tests.row_sources import add, source, split_of


class Saved(list[dict[str, Any]]):
    """What `datasets.Dataset` has of the things that are used."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        super().__init__(entries)
        self.features = {"audio": None, "label": SimpleNamespace(names=["cat", "dog"]), "who": None}
        self._fingerprint = "0123abcd"

    def cast_column(self, name: str, feature: object) -> "Saved":
        assert (name, feature) == ("audio", "undecoded")
        return self


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By split, four clips each: the first half as files, the others as bytes."""
    sets: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        entries = []
        for i in range(4):
            add(path := tmp_path / "set" / f"{split}{i}.wav")
            audio = {"path": str(path), "bytes": None} if i < 2 else {"path": path.name, "bytes": path.read_bytes()}
            entries.append({"audio": audio, "label": i % 2, "who": f"{split}{i}"})
        sets[split] = Saved(entries)

    def load(root: str) -> Any:
        if not Path(root).is_dir():
            raise FileNotFoundError("Directory is not there")
        return sets if len(sets) > 1 else sets["train"]

    stub = SimpleNamespace(load_from_disk=load, Audio=lambda decode: "decoded" if decode else "undecoded")
    monkeypatch.setitem(sys.modules, "datasets", stub)  # type: ignore[arg-type]
    return sets


def hf(where: Path, **keys: Any) -> HuggingFace:
    columns = {"audio_column": "audio", "label_column": "label", "cache_dir": str(where / "cache")}
    return source(
        HuggingFace, **{"root": str(where / "set"), "val_fraction": 0.2, "test_fraction": 0.2, **columns, **keys}
    )


def test_splits_classes_and_embedded_audio_are_those_of_the_set(tmp_path: Path, saved: dict[str, Any]) -> None:
    data = hf(tmp_path)
    classes, clips = data.find_clips()
    assert classes == ["cat", "dog"]
    assert [len(part) for part in clips.values()] == [4, 4, 4]
    assert [clip.name for clip in clips["val"]] == [
        "validation0.wav", "validation1.wav", "validation/0000002.wav", "validation/0000003.wav",
    ]  # fmt: skip
    for number, clip in enumerate(clips["test"]):
        assert (data.load(clip) == read_clip(tmp_path / "set" / f"test{number}.wav", 8000)).all()


def test_a_set_without_splits_is_split_by_groups(tmp_path: Path, saved: dict[str, Any]) -> None:
    for split in ("validation", "test"):
        saved["train"] += saved.pop(split)
    data = hf(tmp_path, group_by="who")
    assert set(split_of(data).values()) == {"train", "val", "test"}
    assert {clip.group for part in data.find_clips()[1].values() for clip in part} >= {"train0", "test3"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"label_column": "lable"}, "a column lable must be in the set, got audio, label, who"),
        ({"root": "nowhere"}, "data.root must be a folder that datasets saved, got nowhere: Directory is not there"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, saved: dict[str, Any], keys: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hf(tmp_path, **keys).find_clips()


def test_a_split_of_another_name_is_refused(tmp_path: Path, saved: dict[str, Any]) -> None:
    saved["extra"] = saved.pop("test")
    with pytest.raises(ValueError, match="the splits must be train, validation and test, got extra"):
        hf(tmp_path).find_clips()


def test_the_package_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data=hf needs the package datasets: pip install 'hopscotch\[hf\]'"):
        hf(tmp_path).find_clips()
