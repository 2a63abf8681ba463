import logging
from pathlib import Path

import pytest

from hopscotch.report.progress import SkipProgressBar, quiet_lightning
from tests.hand_made import FourClips, Replay, make_trainer, stride_trace

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_without_a_terminal_an_epoch_is_one_plain_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()], max_epochs=2)
    trainer.fit(Replay(stride_trace()), datamodule=FourClips())
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss 1.154  val acc 0.500  ")
    assert second.startswith("epoch 2/2  ")
    assert "\x1b" not in first


def test_in_a_terminal_the_bar_shows_loss_accuracy_and_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("hopscotch.report.progress.REFRESH_SECONDS", 0.0)
    trainer = make_trainer(tmp_path, callbacks=[SkipProgressBar()], max_epochs=2)
    trainer.fit(Replay(stride_trace()), datamodule=FourClips())
    screen = capsys.readouterr().out
    assert "loss: 1.154 val acc: 0.500" in screen
    assert "epoch 1/2" not in screen


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
