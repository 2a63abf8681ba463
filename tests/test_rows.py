"""rows.py: what a source says of its recordings becomes clips, labels and splits, or a line that says why not."""

import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import soundfile
import torch

from hopscotch.data import files
from hopscotch.data.audio import read_clip
from hopscotch.data.datamodule import Split
from hopscotch.data.folder import Folder
from hopscotch.data.rows import Row, RowSource
from tests.row_sources import RATE, add, source, split_of

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


class Given(RowSource):
    """Rows that a test gives."""

    def __init__(self, given: Iterable[Row], **common: Any) -> None:
        super().__init__(**common)
        self.given = given

    def rows(self) -> Iterable[Row]:
        return self.given


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    names = [f"{who}_{i}.wav" for who in ("ann", "ben", "cy", "di") for i in range(5)]
    for name in names:
        add(tmp_path / name)
    return [Row(tmp_path / name, name, "ab"[i % 2]) for i, name in enumerate(names)]


def given(rows: Iterable[Row], **keys: Any) -> Given:
    return source(Given, given=rows, root="", **({"val_fraction": 0.1, "test_fraction": 0.1} | keys))


@pytest.mark.parametrize(
    ("labels", "label", "classes", "expected"),
    [
        ("one", ("b", "a"), ["a", "b"], torch.tensor([1, 0])),
        ("one", (2.0, 1.0), ["1", "2"], torch.tensor([1, 0])),
        ("several", (("c", "a"), ()), ["a", "c"], torch.tensor([[1.0, 1.0], [0.0, 0.0]])),
        ("several", ("b", ("a",)), ["a", "b"], torch.tensor([[0.0, 1.0], [1.0, 0.0]])),
        ("number", ("1.5", -2.0), ["label"], torch.tensor([1.5, -2.0])),
    ],
)
def test_a_label_becomes_what_the_task_takes(
    rows: list[Row], labels: str, label: tuple[Any, Any], classes: list[str], expected: torch.Tensor
) -> None:
    splits: tuple[Split, ...] = ("train", "train", "val", "val", "test", "test")
    marked = [
        replace(row, label=label[i % 2], split=split) for i, (row, split) in enumerate(zip(rows, splits, strict=False))
    ]
    data = given(marked, labels=labels)
    data.setup()
    assert data.classes == classes
    (batch,) = list(data.val_dataloader())
    assert batch.labels.dtype == expected.dtype
    assert torch.equal(batch.labels[batch.indices.argsort()], expected)


@pytest.mark.parametrize(
    ("labels", "label", "words"),
    [
        ("one", ("a", "b"), r"ann_0\.wav must have one label for this task, got 2"),
        ("one", None, r"ann_0\.wav has no label"),
        ("number", "loud", "must have a finite number as its label for this task, got loud"),
        ("number", "nan", "must have a finite number as its label for this task, got nan"),
    ],
)
def test_a_label_that_the_task_does_not_take_is_named(rows: list[Row], labels: str, label: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"data: t.csv line 2: .*{words}"):
        given([replace(rows[0], label=label, where="t.csv line 2"), *rows[1:]], labels=labels).find_clips()


def test_more_faults_than_a_line_holds_are_all_in_the_log(rows: list[Row], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="and 15 more"):
        given([replace(row, label=None) for row in rows]).find_clips()
    assert all(f"{row.name} has no label" in caplog.text for row in rows)


def test_a_row_of_a_part_is_those_samples(tmp_path: Path, rows: list[Row]) -> None:
    add(tmp_path / "long.wav", 2)
    soundfile.write(tmp_path / "fast.wav", soundfile.read(tmp_path / "long.wav")[0].repeat(2), 2 * RATE)
    parts = [
        replace(rows[0], path=tmp_path / name, name=name, start=0.5, end=1.25) for name in ("long.wav", "fast.wav")
    ]
    data = given([*parts, *rows[1:]])
    clips = {clip.name: clip for part in data.find_clips()[1].values() for clip in part}
    clip = clips["long.wav[0.5-1.25]"]
    assert (clip.start, clip.num_samples) == (4000, 6000)
    whole = read_clip(tmp_path / "long.wav", RATE)
    assert torch.equal(data.load(clip), whole[4000:10000])
    resampled = data.load(clips["fast.wav[0.5-1.25]"])
    assert len(resampled) == 6000
    same = read_clip(tmp_path / "fast.wav", RATE)[4000:10000]
    assert torch.allclose(resampled[100:-100], same[100:-100], atol=1e-4)


def test_a_part_that_is_the_whole_file_but_for_rounding_is_the_file(rows: list[Row]) -> None:
    data = given([replace(rows[0], start=0.0, end=0.06), *rows[1:]])
    assert "ann_0.wav" in split_of(data)


@pytest.mark.parametrize(("start", "end"), [(0.02, 0.01), (0.5, None), (0.0, 1.0), (-0.1, 0.04)])
def test_a_part_beyond_the_file_is_named(rows: list[Row], start: float, end: float | None) -> None:
    with pytest.raises(ValueError, match=r"ann_0\.wav: a clip must lie within its 0\.05 s, got "):
        given([replace(rows[0], start=start, end=end), *rows[1:]]).setup()


def test_a_clip_that_is_there_twice_is_named(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"m line 9: ann_0\.wav is there a second time"):
        given([*rows, replace(rows[0], where="m line 9")]).find_clips()


def test_a_pattern_on_the_name_keeps_speakers_on_one_side(rows: list[Row]) -> None:
    data = given(rows, group_by=r"^([a-z]+)_")
    splits = split_of(data)
    assert set(splits.values()) == {"train", "val", "test"}
    for who in ("ann", "ben", "cy", "di"):
        assert len({split for name, split in splits.items() if name.startswith(who)}) == 1
    (clip, *_) = data.find_clips()[1]["train"]
    assert clip.group == clip.facts["group"] == clip.name.partition("_")[0]


def test_a_column_keeps_its_values_on_one_side(rows: list[Row]) -> None:
    data = given([replace(row, facts={"room": "xyz"[i % 3]}) for i, row in enumerate(rows)], group_by="room")
    assert len({(clip.group, split) for split, clips in data.find_clips()[1].items() for clip in clips}) == 3


@pytest.mark.parametrize(("group_by", "words"), [("(", r"got '\('"), ("ann", r"has no group for ben_0\.wav")])
def test_a_pattern_that_does_not_fit_is_refused(rows: list[Row], group_by: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"data.group_by must be a column, or a regular expression .*{words}"):
        given(rows, group_by=group_by).find_clips()


def test_folds_are_dealt_by_name_and_each_is_tested_on_once(rows: list[Row]) -> None:
    tested = [name for k in (1, 2, 3) for name, s in split_of(given(rows, folds=3, fold=k)).items() if s == "test"]
    assert sorted(tested) == sorted(row.name for row in rows)


def test_folds_of_the_data_come_before_its_splits_where_one_is_asked_for(rows: list[Row]) -> None:
    folded = [replace(row, fold="pqr"[i % 3], split="train") for i, row in enumerate(rows)]
    splits = split_of(given(folded, fold="q"))
    assert [splits[row.name] for row in rows[:3]] == ["train", "test", "val"]


@pytest.mark.parametrize(
    ("fold_of", "keys", "words"),
    [
        ("12345", {}, r"data\.fold must be given, or -m data\.fold=\.\.\.: the one to test on, of 1, 2, 3, 4, 5"),
        ("12345", {"fold": 1, "folds": 5}, "data.folds must be null where clips have folds of their own, got 5"),
        ("", {"fold": 1}, "data.fold=1 needs data.folds=5 or so"),
        ("", {"folds": 5}, r"data\.folds=5 needs data\.fold=1"),
        ("1234", {"fold": 1}, r"di_4\.wav has no fold"),
    ],
)
def test_keys_of_folds_that_do_not_fit_are_refused(
    rows: list[Row], fold_of: str, keys: dict[str, Any], words: str
) -> None:
    folded = [replace(row, fold=fold_of[i % 5] if i % 5 < len(fold_of) else None) for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match=words):
        given(folded, **keys).find_clips()


def test_validation_is_drawn_from_training_where_a_split_has_none(rows: list[Row]) -> None:
    halves = [replace(row, split="test" if i % 4 < 2 else "train") for i, row in enumerate(rows)]
    splits = split_of(given(halves, val_fraction=0.3))
    assert {splits[row.name] for row in halves if row.split == "test"} == {"test"}
    assert {splits[row.name] for row in halves if row.split == "train"} == {"train", "val"}


def test_a_row_without_the_split_that_others_have_is_named(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"data: ann_0\.wav has no split\."):
        given([rows[0], *(replace(row, split="train") for row in rows[1:])]).find_clips()


@pytest.mark.parametrize("labels", ["one", "several"])
def test_clips_of_negatives_are_one_class_the_last_and_are_counted(rows: list[Row], labels: str) -> None:
    named = [replace(row, label=("noise", "yes", "hum", "no")[i % 4]) for i, row in enumerate(rows)]
    data = given(named, negatives=["hum", "noise"], labels=labels)
    data.setup()
    assert data.classes == ["no", "yes", "none of these"]
    assert data.summary()["negatives"] == {"noise": 5, "hum": 5}
    was = {row.name: row.label for row in named}
    for clip in (clip for clips in data.clips.values() for clip in clips):
        (number,) = clip.label if isinstance(clip.label, tuple) else (clip.label,)
        assert data.classes[int(number)] == {"noise": "none of these", "hum": "none of these"}.get(
            str(was[clip.name]), was[clip.name]
        )
    assert "negatives" not in given(named).summary()
    assert given(named, negatives=["hum"], negatives_name="a").find_clips()[0] == ["no", "noise", "yes", "a"]


def test_negatives_among_several_labels_are_named_once(rows: list[Row]) -> None:
    several = [replace(row, label=(("hum", "noise", "yes"), ("yes", "no"))[i % 2]) for i, row in enumerate(rows)]
    classes, clips = given(several, negatives=["hum", "noise"], labels="several").find_clips()
    assert classes == ["no", "yes", "none of these"]
    assert {clip.label for part in clips.values() for clip in part} == {(1, 2), (0, 1)}


def test_negatives_that_are_no_class_and_those_of_numbers_are_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=r"data\.negatives must name classes of the data \(a, b\), got hum\."):
        given(rows, negatives=["a", "hum"]).find_clips()
    with pytest.raises(ValueError, match=r"data\.negatives must be empty for a task that predicts a number"):
        given(rows, negatives=["a"], labels="number")


def test_accents_apart_or_composed_are_the_same_clips_in_the_same_splits(tmp_path: Path) -> None:
    splits = []
    for form in FORMS:
        for label in ("Käse", "Müll", "Zorn"):
            for i in range(20):
                add(tmp_path / form / unicodedata.normalize(form, label) / unicodedata.normalize(form, f"é{i}.wav"))
        data = source(Folder, root=str(tmp_path / form), val_fraction=0.2, test_fraction=0.2)
        data.name_classes(["Käse", "Müll", "Zorn"])  # as a model was trained with
        data.setup()
        splits.append((data.fingerprint(), [clip.name for clip in data.clips["test"]]))
    assert splits[0] == splits[1]


def test_a_name_has_slashes_where_the_system_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "sep", "\\")
    monkeypatch.setattr(files.os.path, "relpath", lambda path, root: path.name)
    assert files.clip_name(Path("cat\\deep\\0.wav"), Path("anywhere")) == "cat/deep/0.wav"


def test_two_folders_that_differ_in_their_accents_form_alone_are_one_class(tmp_path: Path) -> None:
    for form, first in zip(FORMS, (0, 5), strict=True):
        for i in range(first, first + 5):
            add(tmp_path / unicodedata.normalize(form, "Käse") / f"{i}.wav")
            add(tmp_path / "Müll" / f"{i}.wav")
    data = source(Folder, root=str(tmp_path), val_fraction=0.2, test_fraction=0.2)
    assert data.find_clips()[0] == ["Käse", "Müll"]
