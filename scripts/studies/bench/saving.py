"""Measure how long training waits while a state is kept (item `saving`).

A state is serialised, hashed, handed to the disk and renamed by a thread, while Lightning's own way writes it before
training goes on. What remains to wait for is that the weights are checked and copied.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from hopscotch.build import build_model
from hopscotch.config.compose import compose
from hopscotch.training.saving import WholeCheckpoints
from scripts.studies.bench.clips import NUM_CLASSES
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import Times

MODELS = ("dense", "learned_skip")
MOST = 1.05
PAUSE = 0.2  # seconds of training between two saves


def saving(rounds: int, device: str) -> Iterator[Row]:
    """Compare the wait for a save with that for Lightning's; each has the disk to itself for a moment before."""
    for name in MODELS:
        torch.manual_seed(0)
        state = state_of(build_model(compose([f"model={name}"]), NUM_CLASSES).to(device))
        seconds = torch.zeros(rounds, 3, dtype=torch.float64)
        with tempfile.TemporaryDirectory() as folder:
            whole = WholeCheckpoints()
            ways: list[tuple[CheckpointIO, Path]] = [
                (TorchCheckpointIO(), Path(folder) / "lightning.ckpt"),
                (whole, Path(folder) / "last.ckpt"),
            ]
            for i in range(-1, rounds):  # the first warms up
                for k in ((i + 1) % 2, i % 2):
                    way, path = ways[k]
                    time.sleep(PAUSE)
                    begun = time.perf_counter()
                    way.save_checkpoint(state, path)
                    waited = time.perf_counter() - begun
                    whole.wait()
                    seconds[max(i, 0), k] = waited
                    seconds[max(i, 0), 2] += (time.perf_counter() - begun) * k * (i >= 0)
        times = Times(["Lightning", "ours", "until it is there"], seconds)
        for what, most in (("ours", MOST), ("until it is there", None)):
            words = "training waits for a save" if most else "a save until it is there, on the disk and hashed"
            medians = (times.median(what), times.median("Lightning"))
            yield row(f"{name}: {words} / Lightning's", times.ratio(what, "Lightning"), medians, most=most)


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """Make what Lightning keeps of a model: its weights, their average, and an optimizer that has taken a step."""
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights = model.state_dict()
    average = {name: value.clone() for name, value in weights.items()}
    states = [optimizer.state_dict()]
    return {
        "epoch": 0,
        "global_step": 1,
        "state_dict": average,
        "current_model_state": weights,
        "optimizer_states": states,
    }
