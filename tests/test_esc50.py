"""esc50.py: the five folds of the data set, as published or as one table beside the clips."""

from pathlib import Path

import pytest

from hopscotch.data.esc50 import Esc50
from tests.row_sources import add, source

SHARED = Path(__file__).parents[2] / "shared" / "data" / "esc50"


@pytest.mark.parametrize(("place", "recording"), [("esc50.csv", "recording"), ("meta/esc50.csv", "src_file")])
def test_a_fold_is_tested_on_and_the_next_validates(tmp_path: Path, place: str, recording: str) -> None:
    rows = [f"{fold}-{i}.wav,{fold},{i},{['dog', 'cat'][i]},{fold}{i}" for fold in range(1, 6) for i in range(2)]
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("\n".join([f"filename,fold,target,category,{recording}", *rows]))
    for row in rows:
        add(tmp_path / "audio" / row.partition(",")[0])
    classes, clips = source(Esc50, root=str(tmp_path), fold=5).find_clips()
    assert classes == ["cat", "dog"]
    assert [clip.name for clip in clips["test"]] == ["5-0.wav", "5-1.wav"]
    assert [clip.name for clip in clips["val"]] == ["1-0.wav", "1-1.wav"]
    assert len(clips["train"]) == 6
    assert (clips["test"][0].group, clips["test"][0].facts) == ("50", {recording: "50", "fold": "5"})


def test_a_root_without_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root must hold esc50\.csv, or meta/ with it, got"):
        source(Esc50, root=str(tmp_path), fold=1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data set is not beside this checkout")
def test_the_real_data_set_has_400_clips_of_50_classes_in_a_fold() -> None:
    classes, clips = source(Esc50, root=str(SHARED), fold=3, sample_rate=16000).find_clips()
    assert {split: len(part) for split, part in clips.items()} == {"train": 1200, "val": 400, "test": 400}
    assert len(classes) == 50
    assert {str(clip.facts["fold"]) for clip in clips["val"]} == {"4"}
