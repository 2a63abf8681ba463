"""words20.py: the split of the data set, in which no speaker is on two sides."""

from pathlib import Path

import pytest

from hopscotch.data.words20 import Words20
from tests.row_sources import add, source, split_of

SHARED = Path(__file__).parents[2] / "shared" / "data" / "words20"


def test_speakers_are_groups_and_the_split_is_the_tables(tmp_path: Path) -> None:
    rows = [
        f"zoom in/{who}_{i}.wav,zoom in,{who},{i},{split},400\nclose/{who}_{i}.wav,close,{who},{i},{split},400"
        for who, split in (("s01", "train"), ("s02", "val"), ("s03", "test"))
        for i in range(2)
    ]
    (tmp_path / "words20.csv").write_text("\n".join(["path,word,speaker,take,split,frames", *rows]))
    for row in "\n".join(rows).splitlines():
        add(tmp_path / "audio" / row.partition(",")[0])
    data = source(Words20, root=str(tmp_path))
    assert data.find_clips()[0] == ["close", "zoom in"]
    assert split_of(data)["zoom in/s02_1.wav"] == "val"
    assert {clip.group for clip in data.find_clips()[1]["test"]} == {"s03"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data set is not beside this checkout")
def test_the_real_data_set_has_2800_800_and_1200_clips() -> None:
    clips = source(Words20, root=str(SHARED), sample_rate=16000).find_clips()[1]
    assert {split: len(part) for split, part in clips.items()} == {"train": 2800, "val": 800, "test": 1200}
    assert len({clip.group for clip in clips["test"]}) == 6
