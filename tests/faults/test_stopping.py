"""Signals end a run with its state kept; loader processes that hang or die are told with their clips."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hopscotch.data.clips import Batches, leave_signals
from hopscotch.training.task import AudioTask
from tests.faults.children import OFTEN, config, differing, train

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("model=learned_skip", "trainer.max_epochs=2")
LAST_KEPT = ("callbacks.checkpoint.every_minutes=0",)  # after validations alone
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(scope="module")
def straight(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    assert train(config(tones, run, *WORDS)).code == 0
    return run


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def signalling(number: int, at: int) -> Callable[[], None]:
    """Send a signal to this process within a training step."""

    def arrange() -> None:
        step = AudioTask.training_step

        def training_step(self: AudioTask, *arguments: Any) -> Any:
            if self.global_step == at:
                os.kill(os.getpid(), number)
            return step(self, *arguments)

        AudioTask.training_step = training_step  # type: ignore[method-assign]

    return arrange


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGINT,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGUSR1, signal.SIGHUP)),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_keeps_the_state_of_its_step(
    tones: Path, tmp_path: Path, straight: Path, number: signal.Signals
) -> None:
    run, at = tmp_path / "run", 5
    ended = train(config(tones, run, *WORDS, *LAST_KEPT), signalling(number, at))
    assert ended.code == 128 + number, ended.said
    assert "Traceback" not in ended.said
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == at + 1
    found = summary(run)
    assert (found["status"], found["signal"]) == ("stopped", number.name)
    assert (found["test"] is not None) == (number == signal.SIGINT)
    assert train(config(tones, run, *WORDS)).code == 0
    only_last = number == signal.SIGINT  # its validation may have found a better one
    assert [name for name in differing(run, straight) if not only_last or name.startswith("last")] == []


@pytest.mark.parametrize("ends", ["exits", "refuses"])
def test_a_signal_of_submitit_is_handed_on_once_the_state_is_kept(tones: Path, tmp_path: Path, ends: str) -> None:
    run, at, seen = tmp_path / "run", 5, tmp_path / "seen"

    def requeue(number: int, frame: object) -> None:
        seen.write_text(f"{number}, {torch.load(run / 'checkpoints' / 'last.ckpt', weights_only=True)['global_step']}")
        if ends == "refuses":
            raise RuntimeError("Job not requeued because: timed-out too many times.")
        raise SystemExit(-1)

    def arrange() -> None:
        signal.signal(signal.SIGUSR2, requeue)
        signalling(signal.SIGUSR2, at)()

    ended = train(config(tones, run, *WORDS, *LAST_KEPT), arrange)
    assert seen.read_text() == f"{signal.SIGUSR2.value}, {at + 1}"
    found = summary(run)
    if ends == "exits":
        assert (ended.code, found["status"], found["signal"]) == (128 + signal.SIGUSR2, "stopped", "SIGUSR2")
    else:  # submitit waits for a result then, and the sweep goes on
        assert (ended.code, found["status"]) == (1, "failed")
        assert "timed-out too many times" in found["error"]


def test_a_signal_that_nobody_handles_ends_a_run_as_the_system_does(tones: Path, tmp_path: Path) -> None:
    assert train(config(tones, tmp_path / "run", *WORDS), signalling(signal.SIGUSR2, 5)).code == -signal.SIGUSR2


@pytest.mark.slow
@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("more", [(), ("trainer.val_check_interval=2",), ("trainer.accumulate_grad_batches=2",)])
def test_a_run_goes_on_from_every_step_that_a_signal_stops_it_at(
    tones: Path, tmp_path: Path, at: int, more: tuple[str, ...]
) -> None:
    whole = tmp_path / "straight"
    assert train(config(tones, whole, *WORDS, *more)).code == 0
    run = tmp_path / "run"
    ended = train(config(tones, run, *WORDS, *more), signalling(signal.SIGTERM, at))
    assert ended.code in (0, 143)
    assert ended.code == 143 or "accumulate" in str(more)
    assert train(config(tones, run, *WORDS, *more)).code == 0
    assert differing(run, whole) == []


def test_a_second_signal_ends_it_at_once(tones: Path, tmp_path: Path) -> None:
    def arrange() -> None:
        step = AudioTask.training_step

        def training_step(self: AudioTask, *arguments: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
            return step(self, *arguments)

        AudioTask.training_step = training_step  # type: ignore[method-assign]

    ended = train(config(tones, tmp_path / "run", *WORDS), arrange)
    assert ended.code == 130
    assert not (tmp_path / "run" / "checkpoints").exists()


def reading(what: Callable[[], object]) -> Callable[[], None]:
    """Have a loader process do something else for the batch with a certain clip."""

    def arrange() -> None:
        read = Batches.__getitems__

        def getitems(self: Batches, pairs: list[tuple[int, int]]) -> Any:
            if torch.utils.data.get_worker_info() is not None and self.augment is not None and pairs[0][0] == 1:
                what()
            return read(self, pairs)

        Batches.__getitems__ = getitems  # type: ignore[method-assign]

    return arrange


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda: time.sleep(60), "data: a loader process hangs: no batch for data.timeout=2 seconds. It had to read "),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "data: a loader process was killed, or crashed. It had to read ",
        ),
    ],
    ids=["hung", "killed"],
)
def test_a_loader_process_that_hangs_or_dies_is_told_with_its_clips(
    tones: Path, tmp_path: Path, what: Callable[[], object], said: str
) -> None:
    run, begun = tmp_path / "run", time.monotonic()
    words = (*WORDS, *OFTEN, "data.num_workers=2", "data.timeout=2", "augment=default")
    ended = train(config(tones, run, *words), reading(what))
    assert ended.code == 1, ended.said
    assert said in ended.said
    assert ".wav" in ended.said.partition(said)[2]
    assert "Traceback" not in ended.said
    assert time.monotonic() - begun < 50
    assert summary(run)["status"] == "failed"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 3


def test_loader_processes_leave_signals_to_the_main_one() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        leave_signals(0)
        assert [signal.getsignal(number) for number in SIGNALS[1:]] == [signal.SIG_IGN] * 3
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        assert signal.alarm(0) > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
