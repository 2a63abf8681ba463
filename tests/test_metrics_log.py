import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hopscotch.plain import read_json_lines
from hopscotch.report.metrics_log import MetricsLog


def test_a_line_holds_step_epoch_and_tags(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log_metrics({"train/loss": torch.tensor(0.5), "epoch": 2}, step=7)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, "epoch": 2, "train/loss": 0.5}


def test_a_line_is_in_the_file_before_the_next_step(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.log_metrics({"a": step}, step=step)
        assert len(read_json_lines(log.path)) == step + 1


def test_what_was_logged_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from hopscotch.report.metrics_log import MetricsLog\n"
        "log = MetricsLog(sys.argv[1])\n"
        "log.log_metrics({'a': 1.0, 'epoch': 0}, step=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    source = Path(__file__).parent.parent / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert read_json_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "epoch": 0, "a": 1.0}]


def test_a_resumed_run_appends_past_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "epoch": 0, "a": 1.0}\n{"step": 2, "ep')
    MetricsLog(tmp_path).log_metrics({"a": 2.0}, step=2)
    assert [line["step"] for line in read_json_lines(path)] == [1, 2]


def test_a_number_that_is_not_finite_is_null_and_warns_once_per_tag(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    with pytest.warns(UserWarning, match="train/loss is nan: metrics.jsonl has null there"):
        log.log_metrics({"train/loss": float("nan")}, step=1)
    log.log_metrics({"train/loss": float("inf")}, step=2)
    assert [line["train/loss"] for line in read_json_lines(log.path)] == [None, None]
