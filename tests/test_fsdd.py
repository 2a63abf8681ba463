"""fsdd.py: the official split is the data set's own, and a speaker left out is heard nowhere else."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hopscotch.data.fsdd import DIGITS, Fsdd

SHARED = Path(__file__).parents[2] / "shared" / "data" / "fsdd"
SPEAKERS = ["ann", "ben"]


def fsdd(root: Path, **changes: object) -> Fsdd:
    keys = {"root": str(root), "split": "official", "test_speaker": None, "sample_rate": 8000, "batch_size": 8}
    keys |= {"num_workers": 0, "cache_gib": 1.0, "on_bad": "raise", "seed": 0, "augment": None}
    return Fsdd(**(keys | changes))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two speakers, ten digits, takes 0, 5 and 10: one for each split."""
    (tmp_path / "recordings").mkdir()
    generator = np.random.default_rng(0)
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in (0, 5, 10):
                path = tmp_path / "recordings" / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(path, generator.uniform(-0.5, 0.5, 200 + 10 * digit), 8000)
    return tmp_path


def takes(data: Fsdd) -> dict[str, set[tuple[str, str]]]:
    """Split -> (speaker, take) of its clips."""
    data.setup()
    return {
        split: {tuple(Path(clip.name).stem.split("_")[1:]) for clip in clips}  # type: ignore[misc]
        for split, clips in data.clips.items()
    }


def test_official_split_goes_by_take(root: Path) -> None:
    data = fsdd(root)
    assert takes(data) == {
        split: {(s, t) for s in SPEAKERS} for split, t in (("train", "10"), ("val", "5"), ("test", "0"))
    }
    assert data.classes == DIGITS
    clip = data.clips["train"][0]
    assert (clip.name, clip.label, clip.facts) == (str(Path("recordings/0_ann_10.wav")), 0, {"speaker": "ann"})


def test_a_speaker_left_out_is_all_of_the_test_and_nothing_else(root: Path) -> None:
    split = takes(fsdd(root, split="speaker", test_speaker="ben"))
    assert split == {
        "train": {("ann", "0"), ("ann", "10")},
        "val": {("ann", "5")},
        "test": {("ben", "0"), ("ben", "5"), ("ben", "10")},
    }


def test_an_unknown_speaker_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.test_speaker must be one of ann, ben, got 'bem'; did you mean ben\?"):
        fsdd(root, split="speaker", test_speaker="bem").setup()


def test_a_root_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root must be a folder that holds recordings/, got"):
        fsdd(tmp_path).setup()
    (tmp_path / "recordings").mkdir()
    with pytest.raises(ValueError, match=r"must hold <digit>_<speaker>_<take>.wav files, got none"):
        fsdd(tmp_path).setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "speaker"}, "data.split=speaker needs data.test_speaker=<name>"),
        ({"test_speaker": "ann"}, "data.test_speaker=ann has no effect unless data.split=speaker"),
    ],
)
def test_settings_that_contradict_are_refused(root: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fsdd(root, **changes)


def test_a_speaker_may_have_an_underscore_and_a_suffix_capitals(root: Path) -> None:
    for path in (root / "recordings").glob("*_ben_*.wav"):
        path.rename(path.with_name(path.name.replace("ben", "ben_2").replace(".wav", ".WAV")))
    data = fsdd(root, split="speaker", test_speaker="ben_2")
    data.setup()
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 20, "val": 10, "test": 30}


def test_recordings_whose_names_do_not_fit_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    fsdd(root).setup()
    assert caplog.text == ""
    for name in ("seven_ann_3.wav", "7_ann.wav", "README.md"):
        (root / "recordings" / name).touch()
    fsdd(root).setup()
    assert "<digit>_<speaker>_<take>.wav are not used, 2 of 62: 7_ann.wav, seven_ann_3.wav" in caplog.text
    assert "README" not in caplog.text


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data set is not beside this checkout")
def test_the_real_data_set_splits_into_2400_300_and_300_clips() -> None:
    data = fsdd(SHARED)
    data.setup("validate")
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 2400, "val": 300, "test": 300}
    listed = {line.strip() for line in (SHARED / "test.txt").read_text().splitlines()}
    assert {clip.name for clip in data.clips["test"]} == listed
    assert Counter(clip.label for clip in data.clips["train"]) == dict.fromkeys(range(10), 240)
