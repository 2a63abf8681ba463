"""event_files.py and label_files.py: each kind of label file is read right, or its line is named."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hopscotch.audit import Audit
from hopscotch.data.datamodule import SPLITS
from hopscotch.data.event_files import EventFiles
from hopscotch.data.events import Event
from tests.row_sources import RATE, add, source

Spans = Sequence[tuple[float, float, str]]
SPANS: dict[str, Spans] = {
    "a.wav": [(0.25, 1.0, "bark"), (0.5, 2.5, "hum")],  # they overlap, and one crosses the end of a row
    "b.wav": [(0.0, 0.5, "hum"), (1.0, 1.25, "bark")],
    "c.wav": [],
    "d.wav": [(2.0, 3.0, "bark"), (0.0, 3.0, "hum")],
}
EMPTY: dict[str, None] = dict.fromkeys(SPLITS)


def as_json(spans: dict[str, Spans]) -> str:
    keys = ("start", "end", "label")
    lines = [
        {"audio_filepath": name, "events": [dict(zip(keys, span, strict=True)) for span in some]}
        for name, some in spans.items()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def as_tsv(spans: dict[str, Spans]) -> str:
    rows = [(name, *span) for name, some in spans.items() for span in some or [("", "", "")]]
    return "\n".join("\t".join(map(str, row)) for row in [("filename", "onset", "offset", "event_label"), *rows]) + "\n"


def as_track(some: Spans) -> str:
    return "".join(f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in some)


def write_all(root: Path, kind: str) -> dict[str, Any]:
    """Four recordings of three seconds, their label files, and the keys that name these."""
    for name, some in SPANS.items():
        add(root / name, 3.0)
        if kind == "track":
            (root / name).with_suffix(".txt").write_text(as_track(some), encoding="utf-8")
    if kind == "track":
        return {"root": str(root)}
    file = root / f"labels.{kind}"
    file.write_text((as_json if kind == "jsonl" else as_tsv)(SPANS), encoding="utf-8")
    return {"annotations": str(file)}


def events(**keys: Any) -> EventFiles:
    given = {
        "annotations": EMPTY,
        "keywords": None,
        "segment_seconds": 2.0,
        "labels": "events",
        "val_fraction": 0.25,
        "test_fraction": 0.25,
    }
    return source(EventFiles, **(given | keys))


def found(data: EventFiles) -> dict[str, tuple[tuple[float, float, str], ...]]:
    """The events of all clips in seconds, by name."""
    classes, clips = data.find_clips()
    return {
        clip.name: tuple((one.start / RATE, one.end / RATE, classes[one.label]) for one in clip.events or ())
        for part in clips.values()
        for clip in part
    }


@pytest.mark.parametrize("kind", ["jsonl", "tsv", "track"])
def test_every_kind_of_label_file_says_the_same(tmp_path: Path, kind: str) -> None:
    data = events(**write_all(tmp_path, kind))
    assert found(data) == {
        "a.wav[0-2]": ((0.25, 1.0, "bark"), (0.5, 2.0, "hum")),
        "a.wav[2-3]": ((0.0, 0.5, "hum"),),
        "b.wav[0-2]": ((0.0, 0.5, "hum"), (1.0, 1.25, "bark")),
        "b.wav[2-3]": (),
        "c.wav[0-2]": (),
        "c.wav[2-3]": (),
        "d.wav[0-2]": ((0.0, 2.0, "hum"),),
        "d.wav[2-3]": ((0.0, 1.0, "hum"), (0.0, 1.0, "bark")),
    }
    data.setup()
    assert data.classes == ["bark", "hum"]
    for split, clips in data.clips.items():
        recordings = {clip.group for clip in clips}
        assert all(clip.shared == f"recording: {clip.group}" for clip in clips)
        others = {clip.group for other in SPLITS if other != split for clip in data.clips[other]}
        assert recordings
        assert not recordings & others
    batch = next(iter(data.train_dataloader()))
    assert batch.labels.shape[1:] == (2, 3)


def test_a_short_recording_is_one_row_and_a_short_rest_belongs_to_the_row_before(tmp_path: Path) -> None:
    keys = write_all(tmp_path, "jsonl")
    assert set(found(events(**keys, segment_seconds=3.0))) == set(SPANS)
    assert {name.partition("[")[2] for name in found(events(**keys, segment_seconds=1.25))} == {"0-1.25]", "1.25-3]"}


def test_a_point_in_time_belongs_to_the_recording_to_the_sample(tmp_path: Path) -> None:
    data = events(**write_all(tmp_path, "track"), segment_seconds=60.0)
    (clip,) = [clip for part in data.find_clips()[1].values() for clip in part if clip.name == "a.wav"]
    assert clip.events == (Event(2000, 8000, 0), Event(4000, 20_000, 1))
    assert clip.label == -1


def test_keywords_alone_are_events_in_the_order_that_is_given(tmp_path: Path) -> None:
    keys = write_all(tmp_path, "jsonl")
    data = events(**keys, keywords=["hum"])
    assert {label for some in found(data).values() for _, _, label in some} == {"hum"}
    assert events(**keys, keywords=["hum", "bark"]).find_clips()[0] == ["hum", "bark"]
    with pytest.raises(ValueError, match="every class needs a usable training clip, got none of meow"):
        events(**keys, keywords=["hum", "meow"]).setup()


def test_annotations_of_each_split_and_folders_of_splits(tmp_path: Path) -> None:
    files = {}
    for split, name in zip(SPLITS, SPANS, strict=False):
        add(tmp_path / "audio" / split / name, 3.0)
        (tmp_path / "audio" / split / name).with_suffix(".txt").write_text(as_track(SPANS["d.wav"]))
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text(as_json({f"{split}/{name}": SPANS["d.wav"]}))
    both = [events(root=str(tmp_path / "audio")), events(root=str(tmp_path / "audio"), annotations=files)]
    for data in both:
        data.setup()
        names = {split: sorted({str(clip.group) for clip in clips}) for split, clips in data.clips.items()}
        assert names == {"train": ["train/a.wav"], "val": ["val/b.wav"], "test": ["test/c.wav"]}
    assert both[0].fingerprint() == both[1].fingerprint()


@pytest.mark.parametrize(
    ("text", "events_of_a"),
    [
        ("", ()),
        ("\n \n", ()),
        ("0,250000\t1,000000\tbark\n", ((0.25, 1.0, "bark"),)),  # the decimal comma of some systems
        ("\ufeff0.25\t1.0\tbark\r\n", ((0.25, 1.0, "bark"),)),
        ("0.25\t1.0\tbark\n\\\t100.0\t2000.0\n", ((0.25, 1.0, "bark"),)),  # with frequencies, as Audacity writes them
        ("0.25\t1.0\ttwo words\n", ((0.25, 1.0, "two words"),)),
        ("2.5\t3.09\tbark\n", ((2.5, 3.0, "bark"),)),  # beyond the end by what label files round
    ],
)
def test_a_label_track_is_read_as_audacity_writes_it(tmp_path: Path, text: str, events_of_a: Any) -> None:
    keys = write_all(tmp_path, "track")
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert found(events(**keys, segment_seconds=60.0))["a.wav"] == events_of_a


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1.0\t1.0\tbark\n",
            "a.txt line 1: an event must end after its start, and start at 0 s or later, got 1 to 1 s, a point",
        ),
        (
            "2.0\t1.0\tbark\n",
            "a.txt line 1: an event must end after its start, and start at 0 s or later, got 2 to 1 s",
        ),
        ("-1.0\t1.0\tbark\n", "got -1 to 1 s"),
        (
            "0.5\t1.0\thum\n2.5\t3.2\tbark\n",
            "a.txt line 2: an event must lie within the 3 s of a.wav, got 2.5 to 3.2 s",
        ),
        ("5\t6\tbark\n", "a.txt line 1: an event must lie within the 3 s of a.wav, got 5 to 6 s"),
        ("0.5\t1.0\t\n", "a.txt line 1: the event from 0.5 to 1 s has no label"),
        ("0.5\t1.0\n", "a.txt line 1 must be start, end and label, parted by tabs, got 0.5"),
        ("0.5 1.0 bark\n", "a.txt line 1 must be start, end and label, parted by tabs, got 0.5 1.0 bark"),
        ("1.000,5\t2.000,5\tbark\n", "a.txt line 1: the start of an event must be a number of seconds, got 1.000,5"),
        ("nan\t1\tbark\n", "the start of an event must be a number of seconds, got nan"),
        ("0.5\t1.0\tbark\n0.5\t1.0\tbark\n", "a.txt line 2: bark from 0.5 to 1 s is there twice"),
    ],
)
def test_a_line_of_a_label_track_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    keys = write_all(tmp_path, "track")
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        events(**keys).find_clips()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audio_filepath": "a.wav"}', "l.jsonl line 1 must have events, a list of objects with start, end and label"),
        ('{"audio_filepath": "a.wav", "events": {}}', "l.jsonl line 1 must have events, a list of objects"),
        ('{"events": []}', "l.jsonl line 1 must have audio_filepath, the path of a file"),
        ('{"audio_filepath": ', "l.jsonl line 1 must be a JSON object, it cannot be parsed"),
        (
            '{"audio_filepath": "a.wav", "events": [{"start": true, "end": 1, "label": "x"}]}',
            "l.jsonl line 1: the start of an event must be a number of seconds, got True",
        ),
        (
            '{"audio_filepath": "a.wav", "events": [{"start": 0, "label": "x"}]}',
            "l.jsonl line 1: the end of an event must be a number of seconds, got None",
        ),
        ('{"audio_filepath": "a.wav", "events": [{"start": 0, "end": 1}]}', "the event from 0 to 1 s has no label"),
        ("file\tonset\toffset\tevent_label\na.wav\t0\t1\tx\n", "got none of the name filename"),
        ("filename\tonset\toffset\tevent_label\na.wav\t0\t1\n", "l.jsonl line 2: must have 4 cells, got 3"),
        (
            "filename\tonset\toffset\tevent_label\na.wav\t0\t\tx\n",
            "l.jsonl line 2: the end of an event must be a number",
        ),
    ],
)
def test_a_line_of_annotations_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_all(tmp_path, "jsonl")
    (tmp_path / "l.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        events(annotations=str(tmp_path / "l.jsonl")).find_clips()


def test_recordings_without_any_event_and_without_a_track_are_named(tmp_path: Path) -> None:
    keys = write_all(tmp_path, "track")
    (tmp_path / "c.txt").unlink()
    with pytest.raises(ValueError, match=r"c\.wav must have a label track, c\.txt, which is empty if it has no events"):
        events(**keys).find_clips()
    for name in SPANS:
        (tmp_path / name).with_suffix(".txt").write_text("")
    with pytest.raises(ValueError, match="data must have an event in one of its recordings, got none in"):
        events(**keys).find_clips()
    with pytest.raises(ValueError, match=r"data\.root or data\.annotations must be given"):
        events()
    with pytest.raises(ValueError, match=r"data\.negatives must be empty for a task that hears events: see data"):
        events(**keys, negatives=["hum"])


def test_a_recording_that_cannot_be_read_is_named_with_the_others(tmp_path: Path) -> None:
    keys = write_all(tmp_path, "jsonl")
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"Audio file .*c\.wav"):
        events(**keys).setup()
    rest = events(**keys, on_bad="skip", max_bad=1.0)
    assert {name.partition("[")[0] for name in found(rest)} == {"a.wav", "b.wav", "d.wav"}


def test_an_audit_counts_the_recordings_of_each_class_of_events(tmp_path: Path) -> None:
    audit = Audit(events(**write_all(tmp_path, "jsonl"), segment_seconds=3.0))
    assert {name: sum(counts.values()) for name, counts in audit.table().items()} == {"bark": 3, "hum": 3}
    assert {clip.name: audit.named(clip) for _, clip, _ in audit.usable}["a.wav"] == "bark, hum"
