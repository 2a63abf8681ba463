"""What holds for every test: shapes are checked at each call, one thread, no window."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors are faster on one, and the last bits do not depend on the machine
os.environ["MPLBACKEND"] = "Agg"
os.environ["MPLCONFIGDIR"] = str(Path(sys.prefix) / "matplotlib")  # its list of fonts is dear, and this environment's

from jaxtyping import install_import_hook

from tests import checks

# Byte code of instrumented modules and rewritten tests takes ten seconds to make: keep it, for child processes too.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Before any module of ours is imported: from here on a tensor of the wrong shape is an error where it is passed.
install_import_hook("hopscotch", f"{checks.__name__}.{checks.at_first_calls.__name__}")

if TYPE_CHECKING:
    from tests.tiny import Command


@pytest.fixture(autouse=True)
def shapes_are_checked() -> None:
    checks.again()


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    """`train.py --info` in this process leaves Hydra's handler behind, on a stream that pytest then closes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    added = [handler for handler in root.handlers if handler not in handlers]
    for handler in added:
        root.removeHandler(handler)
    if added:
        root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def own_notes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests train with is noted and kept in folders of theirs, for the processes that they start, too."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of tones, seven clips each: 15 for training (four batches), 3 for validation, 3 for test."""
    from tests.tiny import write_tones

    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="session")
def trained(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `jump_attention` on the tones; its clips take many routes."""
    from tests.trained import write_run

    return write_run(tmp_path_factory.mktemp("trained"), tones)


@pytest.fixture
def pages() -> None:
    """Asked for by tests of the pages that a run writes at its end: two seconds that all others save."""


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> "Command":
    """`python train.py <arguments>`, typed in an empty folder, without the seconds that a process costs."""
    from tests.tiny import prompt

    if "pages" not in request.fixturenames:
        monkeypatch.setattr("hopscotch.report.summary.write_report", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return prompt(monkeypatch, capsys)
