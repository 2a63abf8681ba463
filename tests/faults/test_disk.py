"""A disk that takes no more: whatever a run writes, the error names the file and its bytes."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hopscotch.files import DiskError, append_line, replace_file, write_csv, write_file
from hopscotch.report.metrics_log import MetricsLog
from hopscotch.report.paint import save
from hopscotch.report.summary import write_summary
from hopscotch.sweep import append_ledger
from tests.faults.children import config, train

resource = pytest.importorskip("resource", reason="needs limits of the system")
LIMIT = 64  # bytes of a file


@contextmanager
def full(num_bytes: int = LIMIT) -> Iterator[None]:
    """Let no file of this process grow beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def draw(path: Path) -> None:
    from matplotlib.figure import Figure

    save(Figure(figsize=(1, 1)), path)


def told(run: Path) -> None:
    write_summary(run, status="failed", model="dense", seed=0, error="x" * 200)


WRITERS: dict[str, Callable[[Path], object]] = {
    "metrics.jsonl": lambda run: MetricsLog(run).log_metrics({f"train/loss_{n}": 0.5 for n in range(9)}, 3),
    "summary.json.unfinished": told,
    "sweep.jsonl": lambda run: append_ledger(run, {"folder": "0", "error": "x" * 200}),
    "clips.csv": lambda run: write_csv(run / "clips.csv", ["path"], [["a"] * 99]),
    "page.html": lambda run: write_file(run / "page.html", "x" * 200),
    "skips.png": lambda run: draw(run / "skips.png"),
    "skips.svg": lambda run: draw(run / "skips.svg"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_does_not_fit_is_named_with_its_bytes(tmp_path: Path, name: str) -> None:
    with full(), pytest.raises(DiskError, match="cannot be written: File too large") as caught:
        WRITERS[name](tmp_path)
    WRITERS[name](tmp_path)
    size = (tmp_path / name.removesuffix(".unfinished")).stat().st_size - (LIMIT if name.endswith("jsonl") else 0)
    said = re.search(
        r"^(.*) cannot be written: .* It has ([0-9,]+) bytes, [0-9,]+ are free there\.$", str(caught.value)
    )
    assert said is not None
    assert said[1] == str(tmp_path / name)
    assert int(said[2].replace(",", "")) == size - name.endswith("jsonl")  # the line break after the half line


def test_what_was_there_stays_and_nothing_unfinished_is_left(tmp_path: Path) -> None:
    write_summary(tmp_path, status="stopped", model="dense", seed=0)
    before = (tmp_path / "summary.json").read_bytes()
    with full(), pytest.raises(DiskError):
        replace_file(tmp_path / "summary.json", "x" * 200)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_bytes() == before


def test_a_line_after_half_a_line_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_line(log, json.dumps({"step": 1}))
    with full(), pytest.raises(DiskError):
        append_line(log, json.dumps({"step": 2, "more": "x" * 200}))
    assert log.stat().st_size == LIMIT  # it took what it could
    append_line(log, json.dumps({"step": 3}))
    lines = log.read_text().splitlines()
    assert (lines[0], lines[2]) == ('{"step": 1}', '{"step": 3}')


def test_a_run_that_cannot_log_ends_with_the_name_of_the_log(tones: Path, tmp_path: Path) -> None:
    def arrange() -> None:
        def limited(self: MetricsLog, *given: Any, **more: Any) -> None:
            with full(10):
                log_metrics(self, *given, **more)

        log_metrics = MetricsLog.log_metrics
        MetricsLog.log_metrics = limited  # type: ignore[method-assign]

    run = tmp_path / "run"
    ended = train(config(tones, run, "model=dense"), arrange)
    assert ended.code == 1
    assert f"Error: {run}/metrics.jsonl cannot be written: File too large. It has " in ended.said
    assert "Traceback" not in ended.said
    assert "metrics.jsonl cannot be written" in json.loads((run / "summary.json").read_text())["error"]
