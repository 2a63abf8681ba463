"""Tell what the graphs of a run are worth on its test clips: in torch, with onnxruntime, and in 8 bits.

    python -m scripts.studies shipped RUN              or with the data elsewhere: data.root=F

    engine   accuracy   as torch   compute   MB    ms a clip
    torch    0.0520     1.000      0.483           8.77
    onnx     0.0520     1.000      0.483     2.9   2.35
    int8     0.0500     0.690      0.462     1.3   1.96

are the lines of a smoke run (trainer=smoke), which has learned nothing: its scores are near each other.

`as torch` is the share of clips with the same label. Clips go one by one, on one thread. For classes alone.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from hopscotch.cli import find_run
from hopscotch.data.windows import evaluated
from hopscotch.evaluate import load
from hopscotch.models.audio_model import AudioModel
from hopscotch.report.text import Table, print_table
from hopscotch.ship.engine import OnnxModel
from hopscotch.ship.export import export_onnx
from hopscotch.types import AudioBatch


class Answers(NamedTuple):
    """Hold what an engine said of the test clips."""

    labels: torch.Tensor
    fraction: float
    seconds: float


def main(arguments: Sequence[str]) -> None:
    """Run `python -m scripts.studies shipped`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies shipped", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=find_run)
    parser.add_argument("overrides", nargs="*", metavar="data.root=F")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = load(given.run, given.overrides)
    clips = [clip for batch in loaded.data.test_dataloader() for clip in single(batch)]
    truth = torch.cat([clip.labels for clip in clips])
    rows, wanted = [], answers(loaded.task.model, clips)
    with tempfile.TemporaryDirectory() as scratch:
        for engine in ("torch", "onnx", "int8"):
            found, megabytes = wanted, ""
            if engine != "torch":
                folder = export_onnx(given.run, Path(scratch) / engine, int8=engine == "int8")
                found = answers(OnnxModel(folder), clips)
                megabytes = f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f}"
            shares = [(found.labels == labels).float().mean().item() for labels in (truth, wanted.labels)]
            numbers = [f"{shares[0]:.4f}", f"{shares[1]:.3f}", f"{found.fraction:.3f}", megabytes]
            rows.append([engine, *numbers, f"{1000 * found.seconds / len(clips):.2f}"])
    print_table(Table(["engine", "accuracy", "as torch", "compute", "MB", "ms a clip"], rows), Console(width=200))


def single(batch: AudioBatch) -> list[AudioBatch]:
    """Take a batch apart into clips without padding; the windows of a recording stay together."""
    parts = []
    for index in batch.indices.unique():
        rows = batch.indices == index
        clip = AudioBatch(*(column[rows] for column in batch))
        parts.append(clip._replace(waveform=clip.waveform[:, : int(clip.lengths.max())]))
    return parts


@torch.no_grad()
def answers(model: AudioModel, clips: Sequence[AudioBatch]) -> Answers:
    """Ask a model about clips, one by one."""
    begun = time.perf_counter()
    outputs = [evaluated(model.eval(), clip)[0] for clip in clips]
    seconds = time.perf_counter() - begun
    run, dense = (sum(int(getattr(output.trace, name)) for output in outputs) for name in ("macs", "dense_macs"))
    return Answers(torch.cat([output.logits.argmax(dim=1) for output in outputs]), run / dense, seconds)
