"""manifest.py: manifests as NeMo writes them, one or one for each split, and a line for each line that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from hopscotch.data.manifest import Manifest
from tests.row_sources import add, source, split_of


def write(path: Path, entries: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return str(path)


def manifest(given: Any, **keys: Any) -> Manifest:
    return source(Manifest, manifest=given, **{"val_fraction": 0.2, "test_fraction": 0.2, **keys})


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    for i in range(12):
        add(tmp_path / "wav" / f"{i}.wav")
    return [{"audio_filepath": f"wav/{i}.wav", "duration": 0.05, "command": "ab"[i % 2]} for i in range(12)]


@pytest.mark.parametrize("key", ["command", "target", "label"])
def test_one_manifest_is_split_by_names(tmp_path: Path, entries: list[dict[str, Any]], key: str) -> None:
    moved = [{**entry, key: entry["command"]} for entry in entries]
    moved = [{name: value for name, value in entry.items() if name in (key, "audio_filepath")} for entry in moved]
    data = manifest(write(tmp_path / "all.json", ["", *moved]))
    classes, clips = data.find_clips()
    assert classes == ["a", "b"]
    assert sorted(split_of(data)) == sorted(entry["audio_filepath"] for entry in entries)
    assert all(clips.values())


def test_manifests_by_split_are_relative_to_themselves(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    below = [{**entry, "audio_filepath": f"../{entry['audio_filepath']}"} for entry in entries]
    absolute = [{**entry, "audio_filepath": str(tmp_path / entry["audio_filepath"])} for entry in entries]
    files = {
        "train": write(tmp_path / "train.json", entries[:6]),
        "val": write(tmp_path / "lists" / "val.json", below[6:9]),
        "test": write(tmp_path / "test.json", absolute[9:]),
    }
    splits = split_of(manifest(files))
    assert splits == {f"wav/{i}.wav": "train" if i < 6 else "val" if i < 9 else "test" for i in range(12)}
    drawn = split_of(manifest({**files, "val": None}))
    assert {drawn[f"wav/{i}.wav"] for i in range(9, 12)} == {"test"}
    assert {drawn[f"wav/{i}.wav"] for i in range(6)} == {"train", "val"}


def test_offset_and_duration_cut_a_part(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    add(tmp_path / "long.wav", 2)
    parts = [{"audio_filepath": "long.wav", "offset": i / 2, "duration": 0.25, "label": "ab"[i % 2]} for i in range(4)]
    data = manifest(write(tmp_path / "all.json", [*entries, *parts]))
    found = {clip.name: (clip.start, clip.num_samples) for clips in data.find_clips()[1].values() for clip in clips}
    assert found["long.wav[1.5-1.75]"] == (12000, 2000)
    assert found["wav/0.wav"] == (None, 400)
    assert len({split for name, split in split_of(data).items() if name.startswith("long")}) == 1


def test_a_list_is_several_labels_and_a_key_is_a_group(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    tagged = [{**entry, "command": ["x", "y"][: i % 3], "who": i % 4} for i, entry in enumerate(entries)]
    data = manifest(write(tmp_path / "all.json", tagged), labels="several", group_by="who")
    classes, clips = data.find_clips()
    found = {clip.name: (clip.label, clip.group) for part in clips.values() for clip in part}
    assert classes == ["x", "y"]
    assert [found[f"wav/{i}.wav"] for i in range(3)] == [((), "0"), ((0,), "1"), ((0, 1), "2")]


def test_every_wrong_line_is_named(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    bad = [
        ('{"audio_filepath": ', "must be a JSON object, it cannot be parsed"),
        ("[1]", "must be a JSON object"),
        ({"label": "a"}, "audio_filepath must be the path of a file"),
        ({"audio_filepath": "wav/0.wav"}, "must have a label under command, target, label"),
        ({**entries[0], "command": {"a": 1}}, "command must be a text, a number or a list of them, got {'a': 1}"),
    ]
    with pytest.raises(ValueError, match=r"data: m\.json line 13") as caught:
        manifest(write(tmp_path / "m.json", [*entries, *(line for line, _ in bad)])).find_clips()
    told = ", ".join(f"m.json line {number}: {words}" for number, (_, words) in enumerate(bad, start=13))
    assert str(caught.value) == f"data: {told}."


@pytest.mark.parametrize("value", [-1, "x", True, float("nan")])
@pytest.mark.parametrize("key", ["offset", "duration"])
def test_seconds_that_are_none_are_named(tmp_path: Path, entries: list[dict[str, Any]], key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"m.json line 13: {key} must be a number of seconds, got {value}"):
        manifest(write(tmp_path / "m.json", [*entries, {**entries[0], key: value}])).find_clips()


def test_no_manifest_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.manifest must be given: a file, or data\.manifest\.train="):
        manifest({"train": None})
    with pytest.raises(ValueError, match=r"data\.manifest must have a line for each clip, got none"):
        manifest(write(tmp_path / "m.json", [])).find_clips()
