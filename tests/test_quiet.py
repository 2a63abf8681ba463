import logging

import pytest

from hopscotch.report.progress import quiet_lightning


def test_lightning_says_a_thing_once_and_advertises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    quiet_lightning()
    quiet_lightning()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO):
        logger.info("💡 Tip: For seamless cloud logging try installing [litlogger]")
        logger.info("GPU available: False")
    assert [record.getMessage() for record in caplog.records] == ["GPU available: False"]
    assert logging.getLogger("lightning").handlers == []
    assert logging.getLogger("lightning.pytorch").handlers == []
