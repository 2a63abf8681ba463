"""Decoded clips are kept with the bits that decoding gives, in memory and on disk, and never served old or half."""

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hopscotch.data import datamodule
from hopscotch.data.audio import read_clip, read_part
from hopscotch.data.folder import Folder
from hopscotch.data.store import Disk, InMemory, packed, unpacked
from tests.row_sources import RATE, add, source

CLIPS = [torch.tensor([0.5, -1.0]), torch.tensor([0.1]), torch.tensor([0.25, 0.75, 0.0])]


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ([0.0, 0.5, -1.0, 32767 / 32768], np.int16),
        ([-0.0], np.float32),
        ([0.1], np.float32),
        ([1.0], np.float32),  # one more than 16 bits hold
        ([1e9, -1e9], np.float32),
    ],
)
def test_a_clip_takes_16_bits_only_where_they_lose_nothing(samples: list[float], kind: type) -> None:
    found = packed(torch.tensor(samples))
    assert found.dtype == kind
    assert unpacked(found).tobytes() == np.array(samples, dtype=np.float32).tobytes()


def keep(disk: Disk, key: str = "a") -> None:
    with disk.writer() as writer:
        for clip in CLIPS:
            writer.add(clip)
        assert writer.shelf(key) is not None


def test_memory_and_disk_hold_the_same(tmp_path: Path) -> None:
    memory = InMemory(6)
    for clip in CLIPS:
        memory.add(clip)
    disk = Disk(tmp_path, 1.0)
    keep(disk)
    disk.keep("b", memory.shelf())
    shelves = [memory.shelf(), disk.find("a", [2, 1, 3]), disk.find("b", [2, 1, 3])]
    for shelf in [*shelves, *map(pickle.loads, map(pickle.dumps, shelves))]:
        assert shelf is not None
        assert all(torch.equal(shelf.part(i, len(clip), 0, None), clip) for i, clip in enumerate(CLIPS))
        assert shelf.part(2, 3, 1, 1).tolist() == [0.75]
        shelf.part(0, 2, 0, None).zero_()
        assert shelf.part(0, 2, 0, None).tolist() == [0.5, -1.0]  # what is handed out is the caller's own


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"\0" * len(b), lambda b: b + b"\0" * 8, lambda b: b""])
def test_a_damaged_file_is_not_there(tmp_path: Path, damage: Any) -> None:
    disk = Disk(tmp_path, 1.0)
    keep(disk)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert disk.find("a", [2, 1, 3]) is None


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    keep(Disk(tmp_path, 1.0), "old")
    size = next(tmp_path.iterdir()).stat().st_size
    disk = Disk(tmp_path, 2.5 * size / 2**30)
    keep(disk, "new")
    for age, name in enumerate(("new", "old"), start=1):
        os.utime(tmp_path / f"{name}.clips", (1000 - age, 1000 - age))
    assert disk.find("old", [2, 1, 3]) is not None  # is used
    keep(disk, "newest")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["newest.clips", "old.clips"]


def test_what_is_unfinished_does_not_stay(tmp_path: Path) -> None:
    disk, seen = Disk(tmp_path, 1.0), []

    def stopped() -> None:
        with disk.writer() as writer:
            writer.add(CLIPS[0])
            seen.extend(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_several_builders_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    disk, both = Disk(tmp_path, 1.0), threading.Barrier(4)

    def build() -> None:
        both.wait()
        for _ in range(20):
            keep(disk)
            assert disk.find("a", [2, 1, 3]) is not None

    errors: list[BaseException] = []
    threads = [threading.Thread(target=lambda: _noted(build, errors)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.clips"]


def _noted(call: Any, errors: list[BaseException]) -> None:
    try:
        call()
    except BaseException as error:  # a thread would swallow it
        errors.append(error)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for i in range(4):
            add(tmp_path / "data" / split / "cat" / f"{i}.wav", 0.05 + 0.01 * i)
            add(tmp_path / "data" / split / "dog" / f"{i}.wav")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 44_100)
    soundfile.write(tmp_path / "data" / "train" / "cat" / "long.flac", noise, 44_100)  # resampled, and cropped
    return tmp_path / "data"


MODES = {"memory": {}, "disk": {"cache_gib": 0.0, "disk_cache_gib": 1.0}, "nowhere": {"cache_gib": 0.0}}


def batches(root: Path, mode: str, **keys: Any) -> list[list[Tensor]]:
    data = source(Folder, root=str(root), cache_dir=str(root.parent / "cache"), max_seconds=0.5, **MODES[mode], **keys)
    data.setup("fit")
    assert data.summary()["kept"] == [mode]
    loaders = (data.train_dataloader(), data.val_dataloader())
    return [list(batch) for loader in loaders for batch in loader]


def same(a: list[list[Tensor]], b: list[list[Tensor]]) -> bool:
    pairs = [pair for x, y in zip(a, b, strict=False) for pair in zip(x, y, strict=True)]
    return len(a) == len(b) and all(torch.equal(*pair) for pair in pairs)


def test_batches_are_the_same_bits_from_memory_disk_and_files(root: Path) -> None:
    memory, first, second, none = (batches(root, mode) for mode in ("memory", "disk", "disk", "nowhere"))
    assert same(memory, first)
    assert same(memory, second)
    assert same(memory, none)


def test_the_second_start_decodes_nothing_and_changed_data_are_decoded_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = batches(root, "disk")
    monkeypatch.setattr(datamodule, "read_clip", None)
    monkeypatch.setattr(datamodule, "read_part", None)
    assert same(first, batches(root, "disk"))
    monkeypatch.undo()
    add(root / "val" / "cat" / "new.wav", 0.2)
    soundfile.write(root / "train" / "dog" / "0.wav", np.full(400, 0.5), RATE)  # as long as it was
    assert not same(first, batches(root, "disk"))
    assert same(batches(root, "memory"), batches(root, "disk"))


def test_what_takes_long_is_kept_for_the_next_start_also_where_it_fits_into_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule, "SLOW", 0.0)
    where = {"root": str(root), "cache_dir": str(root.parent / "cache"), "disk_cache_gib": 1.0}
    kept = []
    for _ in range(2):
        data = source(Folder, **where)
        data.setup("fit")
        kept.append(data.summary()["kept"])
    assert kept == [["memory"], ["disk"]]


def test_without_room_on_disk_clips_are_decoded_on_demand(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = root.parent / "cache"
    place.write_text("a file where the folder should be")
    assert same(batches(root, "memory"), batches(root, "nowhere", disk_cache_gib=1.0))
    assert "Clips cannot be kept in" in caplog.text


@pytest.mark.parametrize("rate", [8000, 44_100, 11_025, 44_101, 4000])
@pytest.mark.parametrize("seconds", [0.7, 3.3])
def test_a_part_of_a_file_is_a_slice_of_the_whole_to_the_bit(tmp_path: Path, rate: int, seconds: float) -> None:
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, noise, rate, subtype="FLOAT")
    whole = read_clip(path, RATE)
    for start in {0, 1234, RATE // 2, len(whole) - 900}:
        assert torch.equal(read_part(path, RATE, start, 900), whole[start : start + 900])


def test_a_part_of_a_file_that_cannot_be_sought_in_is_a_slice_too(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE), RATE, subtype="GSM610")
    assert torch.equal(read_part(path, 16_000, 30_000, 900), read_clip(path, 16_000)[30_000:30_900])


def test_resampling_in_steps_is_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 100_001), 44_100, subtype="FLOAT")
    stepwise = read_clip(path, RATE)
    monkeypatch.setattr("hopscotch.data.audio.STEP_SECONDS", 100.0)
    torch.testing.assert_close(stepwise, read_clip(path, RATE), rtol=0, atol=1e-6)
