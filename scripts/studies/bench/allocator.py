"""Measure what keeping freed memory in the process saves (item `allocator`): two processes, one keeps it."""

import contextlib
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import torch

from hopscotch.build import build_model
from hopscotch.config.compose import compose
from hopscotch.system import keep_freed_memory
from scripts.studies.bench.passes import threads
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

MODELS = ("dense", "skip_transformer")
BATCHES = (4, 8, 32)  # clips
SECONDS = 10.0  # of each
NUM_CLASSES = 10
THREADS = 1


def allocator(rounds: int, device: str) -> Iterator[Row]:
    """Time the forward pass of whole models over batches of long clips on one thread of the CPU."""
    del device  # a GPU's memory is torch's own
    with get_context("spawn").Pool(1) as pool:
        if not pool.apply(keep_freed_memory):
            return  # another C library, or a user who has set it himself: nothing to compare
    with threads(THREADS):
        yield from _against_each_other(rounds)


def _against_each_other(rounds: int) -> Iterator[Row]:
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
    """Drive another process through a pipe."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def run(self) -> None:
        """Run the model once."""
        self.pipe.send(True)
        self.pipe.recv()


@contextlib.contextmanager
def _process(name: str, batch: int, *, keeps: bool) -> Iterator[_Process]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, name, batch, keeps), daemon=True)
    process.start()
    there.close()  # a process that ends early is then an error here, not a wait
    try:
        yield _Process(here)
    finally:
        here.send(False)
        process.join()


def _work(pipe: Any, name: str, batch: int, keeps: bool) -> None:
    """Run passes until told to end. Weights are untrained: only time counts."""
    if keeps:
        keep_freed_memory()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    cfg = compose([f"model={name}", "data=synthetic_scenes", "size=tiny", "model.stem_stride=2"])
    model = build_model(cfg, NUM_CLASSES).eval()
    waveform = 0.1 * torch.randn(batch, int(SECONDS * cfg.data.sample_rate))
    lengths = torch.full((batch,), waveform.shape[1])
    while pipe.recv():
        with torch.no_grad():
            model(waveform, lengths)
        pipe.send(True)
