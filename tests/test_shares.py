"""Files are shared out in order, none lost, none twice."""

from pathlib import Path

import pytest

from hopscotch.data import windows
from hopscotch.data.windows import shares_of, side_by_side


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
