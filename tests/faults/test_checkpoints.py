"""A checkpoint is whole or it is not there; a damaged one is refused by name."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from hopscotch.training.checkpoint import check_resumable, keep_budgets, read_checkpoint
from hopscotch.training.saving import WholeCheckpoints
from hopscotch.training.whole import (
    LAST,
    PREVIOUS,
    DiskError,
    content_of,
    copy_whole,
    hash_file,
    write_whole,
)
from tests.test_callbacks import fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]
NUM_BITS = 60


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Killed(BaseException):
    """As kill -9: nothing is cleaned up."""


def checkpoint(step: int, value: float = 1.0) -> dict[str, Any]:
    needed = {"epoch": 0, "global_step": step, "pytorch-lightning_version": "2.6.6", "loops": {}, "callbacks": {}}
    weights = {"weight": torch.full((40,), value + step), "bias": torch.ones(2), "steps": torch.tensor(step)}
    return {
        **needed,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}],
        "lr_schedulers": [],
        **{"state_dict": weights},
    }


def save(step: int, path: Path) -> None:
    write_whole(content_of(checkpoint(step)), path)


def step_of(path: Path) -> int:
    return read_checkpoint(path)["global_step"]


def killing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Die after so many calls that change a folder or wait for the disk."""
    calls = 0

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == after:
                raise Killed
            calls += 1
            return call(*arguments, **options)

        return counted

    monkeypatch.setattr(os, "replace", wrapped(os.replace))
    monkeypatch.setattr(os, "fsync", wrapped(os.fsync))
    monkeypatch.setattr(Path, "unlink", wrapped(Path.unlink))


@pytest.mark.parametrize("name", [LAST, "best.ckpt"])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = []
    for after in range(20):
        path = tmp_path / str(after) / name
        for step in (1, 2):
            save(step, path)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            killing(patch, after)
            save(3, path)
            break
        found.append([step_of(one) for one in (path, path.with_name(PREVIOUS)) if one.exists()])
        save(4, path)
        assert step_of(path) == 4
    assert len(found) >= 6
    if name == LAST:  # [2]: on its way to be the previous one, with nothing under its own name
        assert all(some in ([2, 1], [2], [3, 2]) for some in found), found
    else:
        assert all(some in ([2], [3]) for some in found), found


def test_the_folder_for_temporary_files_has_no_part_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    fit(tmp_path / "run", 2)
    assert step_of(tmp_path / "run" / LAST) == 12


def test_every_kept_checkpoint_has_its_hash(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    keep_budgets(tmp_path / "best.ckpt", [])
    copy_whole(tmp_path / LAST, tmp_path / "copy.ckpt")
    names = {path.name for path in tmp_path.glob("*.ckpt")}
    assert names == {"best.ckpt", "copy.ckpt", LAST, PREVIOUS}
    for name in names:
        digest, named = hash_file(tmp_path / name).read_text().split()
        assert (digest, named) == (hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), name)


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_flipped_bit_is_never_loaded_silently(tmp_path: Path, has_hash: bool) -> None:
    path = tmp_path / "best.ckpt"
    save(1, path)
    content, good = path.read_bytes(), read_checkpoint(path)
    if not has_hash:
        hash_file(path).unlink()
    silent = []
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), NUM_BITS).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            assert "best.ckpt" in str(error)  # noqa: PT017
            continue
        assert not has_hash
        silent += [] if str(found) == str(good) else [bit]  # padding and dates in the zip file
    assert silent == []


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_cut_file_is_named(tmp_path: Path, left: int) -> None:
    path = tmp_path / LAST
    save(1, path)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        ValueError, match=r"ckpt must be a checkpoint as it was written, got .*last\.ckpt: it was changed"
    ):
        read_checkpoint(path)
    hash_file(path).unlink()
    with pytest.raises(ValueError, match=r"ckpt must be a checkpoint that train\.py wrote, got .*last\.ckpt"):
        read_checkpoint(path)


def test_what_is_kept_is_of_the_step_at_which_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, goes_on, write = checkpoint(1), Event(), torch.save

    def late(*arguments: Any) -> None:
        assert goes_on.wait(10)
        write(*arguments)

    monkeypatch.setattr(torch, "save", late)
    saved = WholeCheckpoints()
    saved.save_checkpoint(state, tmp_path / LAST)
    state["state_dict"]["weight"] += 1
    state["optimizer_states"][0]["state"][0]["exp_avg"] += 1
    state["loops"]["step"] = 2
    goes_on.set()
    saved.wait()
    kept = read_checkpoint(tmp_path / LAST)
    assert kept["loops"] == {}
    assert kept["state_dict"]["weight"].tolist() == [2.0] * 40
    assert kept["optimizer_states"][0]["state"][0]["exp_avg"].tolist() == [1.0] * 4


@pytest.mark.parametrize("part", ["state_dict", "optimizer_states"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_neither_kept_nor_gone_on_from(tmp_path: Path, part: str, value: float) -> None:
    poisoned = checkpoint(7)
    tensor = poisoned[part]["weight"] if part == "state_dict" else poisoned[part][0]["state"][0]["exp_avg"]
    tensor[1] = value
    with pytest.raises(ValueError, match=f"The weights must stay finite, {part} .* is not at step 7"):
        WholeCheckpoints().save_checkpoint(poisoned, tmp_path / LAST)
    assert not (tmp_path / LAST).exists()
    torch.save(poisoned, tmp_path / LAST)
    with pytest.raises(ValueError, match=rf"got .*last\.ckpt: it has others in {part} "):
        check_resumable(read_checkpoint(tmp_path / LAST), tmp_path / LAST)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("written", [0, 1, 2])  # files before: the state, its hash, that of the one before
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, written: int
) -> None:
    path, calls = tmp_path / LAST, []
    save(1, path)
    size = path.stat().st_size

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > written:
            raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=rf"last\.ckpt cannot be written: {os.strerror(fault)}\. It has {size:,} bytes"):
        save(2, path)
    assert step_of(path) == 1
    assert {file.name for file in tmp_path.iterdir()} == {LAST, hash_file(path).name}


def test_a_folder_that_cannot_be_made_is_told_likewise(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(DiskError, match=r"checkpoints/last\.ckpt cannot be written: File exists. It has [0-9,]+ bytes"):
        save(1, tmp_path / "checkpoints" / LAST)


def test_what_could_not_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="cannot be written: No space left on device"):
        fit(tmp_path, 2)


def test_the_last_state_is_kept_every_so_many_steps_and_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hopscotch.training.callbacks import BestAndLast

    kept: list[int] = []
    keep = BestAndLast.keep
    monkeypatch.setattr(
        BestAndLast, "keep", lambda self, trainer: (kept.append(trainer.global_step), keep(self, trainer))
    )
    kinds: list[tuple[dict[str, Any], list[int]]] = [
        ({"every_steps": 2}, [2, 4, 8, 10]),
        ({"every_minutes": 1e-9}, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]),
    ]
    for options, steps in kinds:
        kept.clear()
        fit(tmp_path / str(len(steps)), 2, partial(BestAndLast, **options))  # pyright: ignore[reportArgumentType]
        assert kept == steps  # of two epochs of six; the last step of each is kept after its validation
    with pytest.raises(ValueError, match=r"callbacks\.checkpoint\.every_steps must be at least 0, got -1"):
        BestAndLast(tmp_path, every_steps=-1)
