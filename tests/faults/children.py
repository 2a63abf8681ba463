"""Runs in processes of their own that may be killed: a fork of this one, so that a run takes a second."""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from hopscotch import run as runs
from hopscotch.training.stopping import SIGNALS, exit_at, handle
from tests import checks
from tests.tiny import tiny_config

NAMES = ("best.ckpt", "last.ckpt")
PARTS = ("state_dict", "current_model_state")
OFTEN = ("callbacks.checkpoint.every_steps=1",)  # a state after each step


class Ended(NamedTuple):
    code: int  # of the process; minus the number of a signal that killed it
    said: str


def config(root: Path, run: Path, *words: str) -> DictConfig:
    """The configuration of a run, which goes on if it has begun."""
    cfg = tiny_config(root, run, *words)
    cfg.resume = str(run) if (run / "config.yaml").exists() else None
    return cfg


def hopscotch(cfg: Any) -> int:
    """Run as `hopscotch train` does, and return its exit code."""
    runs.explain_run = lambda *_: None  # pages, which take most of the time
    sys.modules["hopscotch.report.summary"].write_report = lambda *_: None  # type: ignore[attr-defined]
    handle(SIGNALS, exit_at)
    summary = runs.attempt(cfg, Path(cfg.run_dir), ["seed=0"], time.time(), is_job=False)
    codes = {"finished": 0, "failed": 1}
    return codes.get(summary["status"], 128 + signal.Signals[summary.get("signal", "SIGINT")])


def start(cfg: Any, arrange: Callable[[], object] = lambda: None, attempt: Callable[[Any], int] = hopscotch) -> int:
    """Begin a run after `arrange`, and return the number of its process."""
    log = Path(f"{cfg.run_dir}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return pid
    code = 70
    try:
        with log.open("w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in SIGNALS:  # nohup has some ignored
                signal.signal(number, signal.SIG_DFL)
            warnings.simplefilter("default")
            warnings._showwarnmsg_impl = lambda found: print(  # pyright: ignore[reportAttributeAccessIssue]
                f"warning: {found.message}", file=sys.stderr
            )
            checks.none_here()  # which would take most of the time: other tests see to that
            os.fsync = lambda _: None  # no power is cut here, and disks are slow
            arrange()
            code = attempt(cfg)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(pid: int, cfg: Any) -> Ended:
    _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), Path(f"{cfg.run_dir}.log").read_text(errors="replace"))


def train(cfg: Any, arrange: Callable[[], object] = lambda: None, attempt: Callable[[Any], int] = hopscotch) -> Ended:
    return wait(start(cfg, arrange, attempt), cfg)


def die_at(owner: Any, name: str, call: int) -> None:
    """Have this process killed at a call of a function."""
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def differing(one: Path, other: Path) -> list[str]:
    """Name the tensors of two runs that differ by any bit, and the steps."""
    found = []
    for name in NAMES:
        first, second = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        found += [f"{name} {key}" for key in ("epoch", "global_step") if first[key] != second[key]]
        for part in PARTS:
            if part not in first and part not in second:  # weights are not averaged
                continue
            assert first[part].keys() == second[part].keys()
            found += [
                f"{name} {part} {key}"
                for key, value in first[part].items()
                if not torch.equal(value.nan_to_num(), second[part][key].nan_to_num())
            ]
    return found
