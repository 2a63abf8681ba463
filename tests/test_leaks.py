"""leaks.py: audio in two splits is refused if it is one file, and named if it is a copy."""

import shutil
from pathlib import Path

import pytest

from hopscotch.data.folder import Folder
from hopscotch.data.table import Table
from tests.row_sources import add, source

AUTO = dict.fromkeys(("path", "label", "split", "fold", "group", "start", "end"), "auto")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for i in range(2):
                add(tmp_path / split / label / f"{i}.wav")
    return tmp_path


def test_a_hard_link_in_two_splits_is_refused(root: Path) -> None:
    (root / "test" / "cat" / "again.wav").hardlink_to(root / "train" / "cat" / "1.wav")
    with pytest.raises(ValueError, match=r"got train/cat/1\.wav in train and test/cat/again\.wav in test, which are"):
        source(Folder, root=str(root)).find_clips()


def test_a_hard_link_within_a_split_is_allowed(root: Path) -> None:
    (root / "test" / "cat" / "again.wav").hardlink_to(root / "test" / "cat" / "1.wav")
    assert len(source(Folder, root=str(root)).find_clips()[1]["test"]) == 5


def test_copies_of_training_clips_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    source(Folder, root=str(root)).find_clips()
    assert caplog.text == ""  # files of equal size whose bytes differ
    shutil.copy(root / "train" / "cat" / "0.wav", root / "test" / "cat" / "0 copy.wav")
    source(Folder, root=str(root)).find_clips()
    words = "data: 1 of 5 test clips are copies of training clips, so that their accuracy says too much: "
    assert f"{words}test/cat/0 copy.wav (of train/cat/0.wav). Remove them" in caplog.text
    assert "val clips" not in caplog.text


def table(root: Path, *lines: str) -> Table:
    (root / "t.csv").write_text("\n".join(["path,label,split,group,start,end", *lines]))
    return source(Table, table=str(root / "t.csv"), columns=AUTO, label_separator=",")


def test_parts_of_a_file_may_be_in_two_splits_unless_they_overlap(root: Path) -> None:
    add(root / "long.wav", 3)
    lines = ["long.wav,a,train,,0,1", "long.wav,b,train,,2,3", "long.wav,b,val,,1,1.5"]
    data = table(root, *lines, "long.wav,a,test,,1.5,2")
    assert [len(clips) for clips in data.find_clips()[1].values()] == [2, 1, 1]
    data = table(root, *lines, "long.wav,a,test,,1.4,2")
    with pytest.raises(ValueError, match=r"got long\.wav\[1-1\.5\] in val and long\.wav\[1\.4-2\] in test, which are"):
        data.find_clips()


def test_groups_on_both_sides_of_a_given_split_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = [("train", "ann"), ("train", "ben"), ("val", "ben"), ("test", "cy")]
    lines = [
        f"{split}/{label}/{int(who == 'ben')}.wav,{label},{split},{who},,"
        for split, who in where
        for label in ("cat", "dog")
    ]
    table(root, *lines).find_clips()
    assert "data: 1 groups stand in training and in validation or test: ben" in caplog.text
