"""folder.py: any folder of class folders trains, and one that cannot says which key and file are wrong."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hopscotch.data.folder import Folder


def folder(root: Path, **changes: object) -> Folder:
    keys = {"root": str(root), "val_fraction": 0.2, "test_fraction": 0.2, "sample_rate": 8000, "batch_size": 4}
    keys |= {"num_workers": 0, "cache_gib": 1.0, "on_bad": "raise", "seed": 0, "augment": None}
    return Folder(**(keys | changes))  # pyright: ignore[reportArgumentType]


def add(path: Path, *, rate: int = 8000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, (rate // 20, channels)), rate)


def add_splits(root: Path, names: tuple[str, ...] = ("train", "val", "test")) -> None:
    """A clip of each class in each split."""
    for name in names:
        for label in ("cat", "dog"):
            add(root / name / label / "0.wav")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for i in range(10):
            add(tmp_path / name / f"{i}.wav")
    return tmp_path


def names(data: Folder, split: str) -> list[str]:
    return [clip.name.replace("\\", "/") for clip in data.clips[split]]  # type: ignore[index]


def test_class_folders_are_dealt_into_three_splits_by_name(root: Path) -> None:
    data = folder(root)
    data.setup()
    assert data.classes == ["cat", "dog"]
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 13, "val": 3, "test": 4}
    everything = [name for split in ("train", "val", "test") for name in names(data, split)]
    assert sorted(everything) == sorted(f"{c}/{i}.wav" for c in ("cat", "dog") for i in range(10))
    assert all(clip.label == ["cat", "dog"].index(clip.name[:3]) for clip in data.clips["train"])


def test_the_split_depends_on_names_alone(root: Path) -> None:
    first, second = folder(root, seed=0), folder(root, seed=1)
    first.setup()
    second.setup()
    assert first.clips == second.clips
    assert first.fingerprint() == second.fingerprint()


def test_folders_named_train_val_and_test_are_the_splits(tmp_path: Path) -> None:
    for split, num in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for i in range(num):
                add(tmp_path / split / name / f"{i}.wav")
    data = folder(tmp_path)
    data.setup()
    assert {split: len(clips) for split, clips in data.clips.items()} == {"train": 6, "val": 4, "test": 2}
    assert set(names(data, "test")) == {"test/cat/0.wav", "test/dog/0.wav"}


def test_formats_rates_channels_and_depths_may_mix(root: Path) -> None:
    add(root / "cat" / "deep" / "er" / "a.flac", rate=44100, channels=2)
    add(root / "dog" / "b.OGG", rate=16000, channels=3)
    (root / "cat" / "notes.txt").write_text("a text that is no clip")
    (root / "cat" / ".hidden.wav").write_text("nor is this")
    data = folder(root)
    data.setup()
    found = {clip.name.replace("\\", "/"): clip.num_samples for clips in data.clips.values() for clip in clips}
    assert len(found) == 22
    assert found["cat/deep/er/a.flac"] == found["dog/b.OGG"] == 400


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root must be a folder of class folders, got .*nowhere, which"):
        folder(tmp_path / "nowhere").setup()


def test_an_empty_root_or_a_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root must hold at least two class folders, got none in"):
        folder(tmp_path).setup()
    add(tmp_path / "cat" / "0.wav")
    with pytest.raises(ValueError, match=r"data\.root must hold at least two class folders, got only 'cat' in"):
        folder(tmp_path).setup()


def test_a_class_without_clips_is_named(root: Path) -> None:
    (root / "emu").mkdir()
    with pytest.raises(ValueError, match=r"data\.root: every class needs at least one audio file, got none in emu"):
        folder(root).setup()


def test_a_root_with_two_of_three_split_folders_is_not_taken_for_two_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        add(tmp_path / split / "cat" / "0.wav")
    with pytest.raises(ValueError, match="with class folders in each; got test, train in"):
        folder(tmp_path).setup()


@pytest.mark.parametrize(
    ("files", "config"),
    [
        (("yes/a_nohash_0.wav", "no/a_nohash_0.wav", "validation_list.txt"), "data=speech_commands."),
        (("yes/0.wav", "no/0.wav", "_background_noise_/hum.wav"), "data=speech_commands."),
        (("fold1/0.wav", "fold2/0.wav", "fold3/0.wav"), "data=table data.table=<csv with path, label and fold>."),
        (("audio/0.wav", "meta/esc50.csv"), "data=esc50."),
        (("audio/close/0.wav", "words20.csv"), "data=words20."),
        (("audio/fold1/0.wav", "metadata/UrbanSound8K.csv"), "data=table data.table=<root>/metadata/UrbanSound8K.csv."),
        (("audio/0.wav", "clips.tsv"), "data=table data.table=<root>/clips.tsv."),
    ],
)
def test_a_data_set_whose_folders_are_no_classes_stops_with_the_config_that_is_meant(
    tmp_path: Path, files: tuple[str, ...], config: str
) -> None:
    for name in files:
        if name.endswith(".wav"):
            add(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    config = re.escape(config.replace("<root>", str(tmp_path)))
    with pytest.raises(ValueError, match=f"must hold class folders, got .*: use {config}$"):
        folder(tmp_path).setup()


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("train", "val", "test", "extra_takes")])
def test_split_folders_are_never_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    add_splits(tmp_path, names)
    with pytest.raises(ValueError, match="so written, and nothing else"):
        folder(tmp_path).setup()


def test_a_class_may_be_named_test(tmp_path: Path) -> None:
    for name in ("speech", "test"):
        for i in range(5):
            add(tmp_path / name / f"{i}.wav")
    data = folder(tmp_path)
    data.setup()
    assert data.classes == ["speech", "test"]


def test_files_beside_the_class_folders_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root / "stray.wav")
    (root / "readme.txt").write_text("no clip")
    folder(root).setup()
    assert "files outside the class folders are not used: stray.wav" in caplog.text
    assert "readme" not in caplog.text


def test_files_beside_the_class_folders_of_a_split_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_splits(tmp_path)
    add(tmp_path / "val" / "stray.wav")
    folder(tmp_path).setup()
    assert f"files outside the class folders are not used: {Path('val', 'stray.wav')}" in caplog.text


@pytest.mark.parametrize("where", [".", "cat", "cat/deep"])
def test_a_folder_that_cannot_be_listed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    add(root / "cat" / "deep" / "0.wav")
    place = root / where

    def listing(listed: Callable[[Any], Any], path: Any) -> Any:
        if Path(path) == place:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, partial(listing, getattr(os, name)))
    with pytest.raises(ValueError, match=re.escape(f"Folder {place}: cannot be listed (Permission denied).")):
        folder(root).setup()


def test_a_class_that_is_a_broken_link_is_named(root: Path) -> None:
    (root / "emu").symlink_to(root / "gone")
    with pytest.raises(ValueError, match=r"a link must lead to a class folder, got .*emu, which leads nowhere"):
        folder(root).setup()


def test_a_file_that_two_splits_share_by_a_link_is_named(tmp_path: Path) -> None:
    add_splits(tmp_path)
    (tmp_path / "test" / "dog" / "again.wav").symlink_to(tmp_path / "train" / "dog" / "0.wav")
    names = f"got {Path('train/dog/0.wav')} in train and {Path('test/dog/again.wav')} in test, which are the same file"
    with pytest.raises(ValueError, match=re.escape(names)):
        folder(tmp_path).setup()


def test_a_test_split_without_clips_is_found_before_training(tmp_path: Path) -> None:
    add_splits(tmp_path)
    for label in ("cat", "dog"):
        (tmp_path / "test" / label / "0.wav").unlink()
    with pytest.raises(ValueError, match="the test split must hold at least one usable clip"):
        folder(tmp_path).setup("fit")


def test_clips_to_be_evaluated_on_need_none_to_train_on(tmp_path: Path) -> None:
    add_splits(tmp_path)
    (tmp_path / "train" / "dog" / "0.wav").unlink()
    data = folder(tmp_path)
    data.setup("validate")
    data.setup("test")
    assert len(data.clips["test"]) == 2


def test_a_class_without_training_clips_is_named(tmp_path: Path) -> None:
    add_splits(tmp_path)
    (tmp_path / "train" / "dog" / "0.wav").unlink()
    with pytest.raises(ValueError, match="every class needs a usable training clip, got none of dog"):
        folder(tmp_path).setup()


def test_a_text_file_named_wav_stops_with_its_name_and_the_way_round_it(root: Path) -> None:
    (root / "cat" / "fake.wav").write_text("hello")
    with pytest.raises(ValueError, match=r"fake.wav: libsndfile cannot read it .* pass data.on_bad=skip"):
        folder(root).setup()


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_bad_files_can_be_skipped_counted_and_named_with_their_reason(root: Path, cache_gib: float) -> None:
    (root / "cat" / "fake.wav").write_text("hello")  # its header fails
    soundfile.write(root / "dog" / "silent.wav", np.zeros(400), 8000)  # only decoding shows it
    data = folder(root, on_bad="skip", max_bad=1.0, cache_gib=cache_gib)
    data.setup()
    skipped = {name.replace("\\", "/"): reason for name, reason in data.skipped.items()}
    assert set(skipped) == {"cat/fake.wav", "dog/silent.wav"}
    assert "libsndfile cannot read it" in skipped["cat/fake.wav"]
    assert "must not be silent" in skipped["dog/silent.wav"]
    assert data.summary()["skipped"] == data.skipped
    assert sum(len(clips) for clips in data.clips.values()) == 20


def test_fractions_that_leave_nothing_to_train_on_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.val_fraction and data.test_fraction must be above 0 and leave"):
        folder(root, val_fraction=0.5, test_fraction=0.5)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("cat", "dog"):
        for i in range(5):
            add(root / name / f"{i}.wav")
            add(elsewhere / f"{i}.wav")
    (root / "cat" / "more").symlink_to(elsewhere)
    (root / "cat" / "again").symlink_to(elsewhere)
    (root / "cat" / "loop").symlink_to(root / "cat")
    data = folder(root)
    data.setup()
    everything = [name for split in ("train", "val", "test") for name in names(data, split)]
    assert len(everything) == len(set(everything)) == 15
