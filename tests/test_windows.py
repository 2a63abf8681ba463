"""windows.py: files become pieces in order, bad ones with their reason, and are shared out without a loss."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hopscotch.data import windows
from hopscotch.data.audio import read_clip
from hopscotch.data.windows import (
    Windowing,
    find_files,
    groups,
    pieces_of,
    shares_of,
    side_by_side,
    windows_of,
)
from tests.tiny import SAMPLE_RATE, write_tone

WINDOWING = Windowing(longest=2000, window=1600, hop=800)


def write_noise(path: Path, num_samples: int, rate: int = SAMPLE_RATE) -> Path:
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(num_samples), rate, subtype="PCM_16")
    return path


def test_windows_are_equally_long_and_the_last_ends_with_the_recording() -> None:
    assert WINDOWING.starts(2000) == [0]
    assert WINDOWING.starts(2001) == [0, 401]
    assert WINDOWING.starts(3200) == [0, 800, 1600]
    assert WINDOWING.starts(3300) == [0, 800, 1600, 1700]


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_window_holds_the_samples_that_the_whole_file_has_there(tmp_path: Path, rate: int) -> None:
    path = write_noise(tmp_path / "long.wav", 50 * rate, rate)  # three blocks
    whole = read_clip(path, SAMPLE_RATE)
    windowing = Windowing(longest=24_000, window=24_000, hop=16_000)
    pieces = list(pieces_of(path, SAMPLE_RATE, windowing))
    assert [piece.start for piece in pieces] == windowing.starts(len(whole))
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sum(piece.share for piece in pieces) == pytest.approx(1.0)
    for piece in pieces:
        assert piece.waveform is not None
        torch.testing.assert_close(piece.waveform, whole[piece.start : piece.start + 24_000], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_windows_do_not_depend_on_the_blocks_that_samples_come_in(size: int) -> None:
    samples = torch.arange(100.0)
    cut = list(windows_of(samples.split(size), [0, 30, 60, 90], 10))
    assert [(start, window.tolist()) for start, window in cut] == [
        (start, [*range(start, start + 10)]) for start in (0, 30, 60, 90)
    ]


def test_a_file_that_fails_says_why_and_the_next_one_comes(tmp_path: Path) -> None:
    text, good = tmp_path / "text.wav", tmp_path / "good.wav"
    text.write_text("no audio")
    write_tone(good, 440, 0.1)
    cut = tmp_path / "cut.flac"
    write_noise(cut, 100_000)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (group,) = groups([text, cut, good], SAMPLE_RATE, WINDOWING, first=1000, most=1000)
    last = [piece for piece in group if piece.is_last]
    assert [piece.path.name for piece in last] == ["text.wav", "cut.flac", "good.wav"]
    assert [piece.error is None for piece in last] == [False, False, True]
    assert "text.wav: libsndfile cannot read it" in str(last[0].error)
    assert sum(piece.share for piece in group) == pytest.approx(3.0)


def test_files_are_opened_when_their_turn_comes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(10)]
    for path in paths:
        write_tone(path, 440, 0.1)
    coming = groups(paths, SAMPLE_RATE, WINDOWING, first=2, most=4)
    assert len(next(coming)) == 2
    for path in paths[2:]:
        path.unlink()
    rest = list(coming)
    assert [len(group) for group in rest] == [4, 4]
    assert [piece.error is None for group in rest for piece in group] == [False] * 8


def test_long_pieces_wait_in_smaller_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hopscotch.data.windows.MAX_SAMPLES", 3000)
    path = write_noise(tmp_path / "long.wav", 16_000)
    sizes = [len(group) for group in groups([path], SAMPLE_RATE, WINDOWING, first=1000, most=1000)]
    assert sum(sizes) == len(WINDOWING.starts(16_000))
    assert max(sizes) == 2


def test_a_folder_a_pattern_and_a_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.wav", "a/b/2.flac", "a/notes.txt", "a/.hidden.wav", "c[1].wav", "d.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert [str(path) for path in find_files(["a"])] == ["a/1.wav", "a/b/2.flac"]
    assert [str(path) for path in find_files(["?.wav", "c[1].wav"])] == ["d.wav", "c[1].wav"]
    assert [str(path) for path in find_files(["a/**/*.flac"])] == ["a/b/2.flac"]
    assert [str(path) for path in find_files(["a/b/**", "a/b/2.flac"])] == ["a/b/2.flac"]
    assert [str(path) for path in find_files(["*/b"])] == ["a/b"] if os.name == "nt" else ["a/b/2.flac"]
    assert [str(path) for path in find_files(["gone.wav"])] == ["gone.wav"]


def test_a_pattern_that_fits_nothing_and_a_folder_without_audio_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"A pattern must fit at least one file, got none for .*x\*\.wav"):
        find_files([str(tmp_path / "x*.wav")])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="A folder must hold at least one audio file, got none in"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize(("num_files", "num_workers", "sizes"), [(8, 2, [2, 2, 2, 2]), (9, 2, [3, 3, 3]), (1, 4, [1])])
def test_every_worker_has_two_shares(num_files: int, num_workers: int, sizes: list[int]) -> None:
    files = [Path(f"{index}.wav") for index in range(num_files)]
    found = list(shares_of(files, num_workers))
    assert [len(share) for share in found] == sizes
    assert [file for share in found for file in share] == files


def test_long_recordings_make_small_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MAX_BYTES", 10)
    files = [tmp_path / name for name in ("long", "a", "b", "c")]
    for file, size in zip(files, (100, 4, 6, 1), strict=True):
        file.write_bytes(bytes(size))
    assert list(shares_of(files, 1)) == [[files[0]], files[1:3], files[3:]]


def test_results_come_in_the_order_of_the_files() -> None:
    files = [Path(str(index)) for index in range(7)]
    assert [name for part in side_by_side(_names, files, 2) for name in part] == [str(file) for file in files]


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]
