"""Several processes count every clip once, and none waits for one that has died or stands still."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, check_same, tiny_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo between processes, and SIGSTOP")
WATCHER = """\
import sys, time, torch
from hopscotch.training.alive import Alive
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
alive = Alive(lambda problem: print("told", problem, flush=True), patience=3.0)
alive.start(rank, 2)
print("ready", flush=True)
sys.stdin.readline()
alive.leave()
time.sleep(6)
print("left", flush=True)
"""


@pytest.fixture
def watching() -> Any:
    """Two processes that watch each other until they read a line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(PROJECT_ROOT / "src")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both: list[Any] = [
        subprocess.Popen([sys.executable, "-c", WATCHER, str(rank)], env=os.environ | place, **pipes)  # type: ignore[call-overload]
        for rank in range(2)
    ]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    yield both
    for one in both:
        one.kill()
        one.communicate()


@pytest.mark.parametrize(
    ("lost", "number"),
    [
        (0, signal.SIGKILL),
        (1, signal.SIGSTOP),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_or_stands_still_ends_the_other(watching: Any, lost: int, number: signal.Signals) -> None:
    watching[lost].send_signal(number)
    assert watching[1 - lost].wait(timeout=60) == 1
    assert f"told process {lost} has not shown itself for " in watching[1 - lost].stdout.read()


def test_processes_that_leave_do_not_miss_each_other(watching: Any) -> None:
    watching[0].stdin.write("\n")
    watching[0].stdin.flush()
    time.sleep(1)
    assert [one.communicate("\n", timeout=60)[0] for one in watching] == ["left\n"] * 2
    assert [one.returncode for one in watching] == [0, 0]


def run(folder: Path, tones: Path, *words: str) -> dict[str, Any]:
    given = [*TINY_MODEL, *TINY_RUN, *tiny_folder(tones), "augment=none", *words]
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), *given, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dense", "skip_transformer", "learned_skip", "skip_layer", "jump_attention"])
def test_two_processes_with_half_the_batch_train_and_report_as_one(tones: Path, tmp_path: Path, model: str) -> None:
    """15 training clips: batches of 8 and 7 for one process, of 4, 4, 4 and 3 for two."""
    words = [f"model={model}", "model.dropout=0", "model.ffn_ratio=2", "trainer.max_epochs=4", "callbacks.average=null"]
    one = run(tmp_path / "one", tones, *words, "data.batch_size=8")
    two = run(tmp_path / "two", tones, *words, "data.batch_size=4", "trainer=ddp", "trainer.accelerator=cpu")
    weights = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "two")]
    check_same(*weights)
    assert two["test"] == pytest.approx(one["test"], rel=1e-4)
    assert two["compute"]["macs"] == one["compute"]["macs"]
