import itertools
import logging
import re
from pathlib import Path

import pytest

from hopscotch import progress
from hopscotch.report.progress import SkipProgressBar, opening, quiet_lightning
from tests.hand_made import FourClips, Replay, make_trainer, stride_trace
from tests.tiny import build, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_without_a_terminal_an_epoch_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()], max_epochs=2)
    trainer.fit(Replay(stride_trace()), datamodule=FourClips())
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss 1.154  val acc 0.500  ")
    assert second.startswith("epoch 2/2  ")
    assert "\x1b" not in first


def test_in_a_terminal_each_epoch_leaves_a_line_above_the_bar_and_both_count_from_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("hopscotch.report.progress.REFRESH_SECONDS", 0.0)
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()], max_epochs=2)
    trainer.fit(Replay(stride_trace()), datamodule=FourClips())
    screen = capsys.readouterr().out
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in re.split(r"[\r\n]+", screen)]
    assert [line[:40] for line in lines if " s" in line[-3:]] == [
        "epoch 1/2  loss 1.154  val acc 0.500  0.",
        "epoch 2/2  loss 1.154  val acc 0.500  0.",
    ]
    bars = [line for line in lines if "━" in line]
    assert any(line.startswith("epoch 2/2") and line.endswith("loss: 1.154") for line in bars)
    assert not any("poch 0" in line for line in lines)
    assert "━" not in lines[-1]  # the last bar makes room for its line


def test_a_log_hears_of_a_long_epoch_and_a_long_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hopscotch.report.progress.HEARTBEAT", 0.0)
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()], max_epochs=2)
    trainer.fit(Replay(stride_trace()), datamodule=FourClips())
    trainer.test(Replay(stride_trace()), datamodule=FourClips(), verbose=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 1/2  step 1/1  loss 1.154"
    assert lines[1] == "epoch 1/2  validation 1/1"
    assert lines[2].startswith("epoch 1/2  loss 1.154  val acc 0.500  ")
    assert lines[3].startswith("epoch 2/2  step 1/1")
    assert lines[-2:] == ["test 1/1", "test  acc 0.500"]


def test_a_log_hears_of_a_slow_step_before_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(step=1.0)  # a second for each clip, and for each look at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.with_progress(range(100), 100, "Speaking words")) == list(range(100))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Speaking words: 2 of 100, 98 s left"
    assert len(said) == 10
    monkeypatch.undo()
    list(progress.with_progress(range(100), 100, "Speaking words"))
    assert capsys.readouterr().out == ""  # quick


def test_a_run_opens_with_what_is_trained_on_what_and_where(tones: Path, tmp_path: Path) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=learned_skip"))
    line = opening(make_trainer(tmp_path), task, data, tmp_path / "run")
    assert line.startswith(f"learned_skip: {task.num_parameters:,} parameters, target {task.target:.3f} of the dense")
    assert "; 15 training clips of 3 classes, 0.0 minutes (3 to validate, 3 to test); CPU, 1 thread; " in line
    assert line.endswith(f"; {tmp_path / 'run'}")


def test_the_test_set_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()])
    trainer.test(Replay(stride_trace()), datamodule=FourClips(), verbose=False)
    assert capsys.readouterr().out == "test  acc 0.500\n"


def test_lightning_says_a_thing_once_and_advertises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    quiet_lightning()
    quiet_lightning()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO):
        logger.info("💡 Tip: For seamless cloud logging try installing [litlogger]")
        logger.info("GPU available: False")
        logger.info("`Trainer.fit` stopped: `max_steps=5` reached.")
    assert [record.getMessage() for record in caplog.records] == ["`Trainer.fit` stopped: `max_steps=5` reached."]
    assert logging.getLogger("lightning").handlers == []
    assert logging.getLogger("lightning.pytorch").handlers == []
