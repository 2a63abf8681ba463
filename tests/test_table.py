"""table.py: any columns of a CSV or TSV file, and a line for each row that is wrong."""

import csv
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from hopscotch.data.table import Table
from tests.row_sources import add, source, split_of

KEYS = ("path", "label", "split", "fold", "group", "start", "end")


def table(where: Path, rows: list[str], columns: dict[str, str | None] | None = None, **keys: Any) -> Table:
    (where / "t.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    chosen = {**dict.fromkeys(KEYS, "auto"), **(columns or {})}
    keys = {"val_fraction": 0.2, "test_fraction": 0.2, "label_separator": ";", **keys}
    return source(Table, table=str(where / "t.csv"), columns=chosen, **keys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(12):
        add(tmp_path / "wav" / f"{i}.wav")
    return tmp_path


@pytest.mark.parametrize("sign", [",", "\t", ";"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_columns_of_any_name_are_read(root: Path, sign: str, start: str) -> None:
    rows = [[f"wav/{i}.wav", "ab"[i % 2], f"s{i % 4}"] for i in range(12)]
    lines = [sign.join(row) for row in (["file", "Laut", "Sprecher"], *rows)]
    data = table(root, [start + lines[0], *lines[1:]], {"path": "file", "label": "Laut", "group": "Sprecher"})
    classes, clips = data.find_clips()
    assert classes == ["a", "b"]
    found = {clip.name: (clip.group, clip.facts) for part in clips.values() for clip in part}
    assert found == {f"wav/{i}.wav": (f"s{i % 4}", {"Sprecher": f"s{i % 4}"}) for i in range(12)}
    splits = split_of(data)
    assert all(len({splits[f"wav/{i}.wav"] for i in range(who, 12, 4)}) == 1 for who in range(4))


def test_columns_named_as_the_keys_are_used_unasked(root: Path) -> None:
    splits = ["train", "dev", "Test"]
    lines = [f"wav/{i}.wav,{'ab'[i % 2]},{splits[i // 4]},{i % 3 + 1}" for i in range(12)]
    data = table(root, ["path,label,split,fold", *lines])
    assert [len(clips) for clips in data.find_clips()[1].values()] == [4, 4, 4]
    assert {split_of(data)[f"wav/{i}.wav"] for i in range(4, 8)} == {"val"}
    folded = table(root, ["path,label,split,fold", *lines], {"split": None}, fold=3)
    assert {split_of(folded)[f"wav/{i}.wav"] for i in (2, 5, 8, 11)} == {"test"}


def test_paths_are_relative_to_the_root_if_it_is_given(root: Path) -> None:
    data = table(root, ["path,label", *(f"{i}.wav,{'ab'[i % 2]}" for i in range(12))], root=str(root / "wav"))
    assert set(split_of(data)) == {f"{i}.wav" for i in range(12)}


def test_several_labels_stand_in_a_cell(root: Path) -> None:
    cells = ["a;b", "a", "", " c ; b "]
    data = table(root, ["path,label", *(f"wav/{i}.wav,{cells[i % 4]}" for i in range(12))], labels="several")
    classes, clips = data.find_clips()
    assert classes == ["a", "b", "c"]
    assert {clip.name: clip.label for part in clips.values() for clip in part}["wav/3.wav"] == (1, 2)
    assert {clip.name: clip.label for part in clips.values() for clip in part}["wav/2.wav"] == ()


def test_a_number_is_named_by_its_column(root: Path) -> None:
    rows = ["path,Dezibel", *(f"wav/{i}.wav,-{i}.5" for i in range(12))]
    data = table(root, rows, {"label": "Dezibel"}, labels="number")
    classes, clips = data.find_clips()
    assert classes == ["Dezibel"]
    assert {clip.name: clip.label for part in clips.values() for clip in part}["wav/3.wav"] == -3.5


def test_a_column_that_is_not_there_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.columns\.label must be a column of .*t\.csv \(path, lable\), got None"
    ):
        table(root, ["path,lable", "x,y"], {"label": "auto"}).find_clips()
    with pytest.raises(ValueError, match=r"data\.columns\.group must be .*, got speeker\. Did you mean speaker\?"):
        table(root, ["path,label,speaker", "x,y,z"], {"group": "speeker"}).find_clips()


def test_every_wrong_row_is_named_with_its_line(root: Path) -> None:
    rows = [
        "path,label,split,start",
        "wav/0.wav,a,train,0",
        "wav/1.wav,a,training,x",
        "wav/2.wav,b,tset,",
        "b,val",
        ",a,,",
    ]
    with pytest.raises(ValueError, match=r"data: t\.csv line 3") as caught:
        table(root, rows).find_clips()
    assert str(caught.value) == (
        "data: t.csv line 3: the start must be a number of seconds, got x, "
        "t.csv line 4: the split must be train, val or test, got tset, "
        "t.csv line 5: must have 4 cells, got 2, t.csv line 6: has no path."
    )


def test_a_file_that_is_not_there_is_named_with_its_line(root: Path) -> None:
    rows = ["path,label", *(f"wav/{i}.wav,{'ab'[i % 2]}" for i in range(5)), "wav/99.wav,a"]
    with pytest.raises(ValueError, match=r"t\.csv line 7: Audio file .*99\.wav: cannot be opened"):
        table(root, rows).setup()


def test_a_name_is_found_on_a_disk_that_has_its_accents_apart(root: Path) -> None:
    for i in range(12):
        (root / "wav" / f"{i}.wav").rename(root / "wav" / unicodedata.normalize("NFD", f"ä{i}.wav"))
    data = table(root, ["path,label", *(f"wav/ä{i}.wav,{'ab'[i % 2]}" for i in range(12))])
    assert set(split_of(data)) == {f"wav/ä{i}.wav" for i in range(12)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([""], "must begin with the names of its columns, each once"),
        (["path,path", "a,b"], "must begin with the names of its columns, each once"),
        (["path,label"], "must have a row for each clip, got none"),
    ],
)
def test_a_table_without_heads_or_rows_is_refused(root: Path, rows: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        table(root, rows).find_clips()


def test_a_cell_may_hold_signs_and_line_breaks_and_lines_are_counted_on(root: Path) -> None:
    add(root / 'a,"b".wav')
    with (root / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "note"], ['a,"b".wav', "x", "two\nlines"], ["no.wav", "y", ""]])
    text = (root / "t.csv").read_text().splitlines()
    with pytest.raises(ValueError, match=r"t\.csv line 4: Audio file .*no\.wav"):
        table(root, [*text, "wav/1.wav,x,"]).setup()
