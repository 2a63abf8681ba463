"""What freed memory saves when it stays with the process (item `memory`): two processes, one keeps it."""

import contextlib
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import torch

from hopscotch.bench.table import Row, row
from hopscotch.bench.timing import interleave
from hopscotch.build import build_model
from hopscotch.config import compose
from hopscotch.memory import keep_freed_memory

MODELS = ("dense", "skip_transformer")
BATCHES = (4, 8, 32)  # clips
SECONDS = 10.0  # of each
NUM_CLASSES = 10


def memory(rounds: int, device: str) -> Iterator[Row]:
    """Batches of long clips through whole models on one thread of the CPU, forward."""
    del device  # a GPU's memory is torch's own
    for name in MODELS:
        for batch in BATCHES:
            with _process(name, batch, keeps=True) as kept, _process(name, batch, keeps=False) as given_back:
                times = interleave({"kept": kept.run, "given back": given_back.run}, rounds=rounds)
            yield row(
                f"{name}, freed memory kept: time / given back to the system",
                times.ratio("kept", "given back"),
                (times.median("kept"), times.median("given back")),
                batch=batch,
                clip_seconds=SECONDS,
            )


class _Process:
    """Another process, at the other end of a pipe."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def run(self) -> None:
        """Once through the model."""
        self.pipe.send(True)
        self.pipe.recv()


@contextlib.contextmanager
def _process(name: str, batch: int, *, keeps: bool) -> Iterator[_Process]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, name, batch, keeps), daemon=True)
    process.start()
    try:
        yield _Process(here)
    finally:
        here.send(False)
        process.join()


def _work(pipe: Any, name: str, batch: int, keeps: bool) -> None:
    """Until told to end. Untrained weights: only time counts."""
    if keeps:
        keep_freed_memory()
    torch.set_num_threads(1)
    cfg = compose([f"model={name}", "data=synthetic_scenes", "size=tiny", "model.stem_stride=2"])
    model = build_model(cfg, NUM_CLASSES).eval()
    waveform = 0.1 * torch.randn(batch, int(SECONDS * cfg.data.sample_rate))
    lengths = torch.full((batch,), waveform.shape[1])
    while pipe.recv():
        with torch.no_grad():
            model(waveform, lengths)
        pipe.send(True)
