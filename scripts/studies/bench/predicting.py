"""Measure what reading files costs a prediction (item `predict`): a folder of clips against the bare model."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from hopscotch.build import build_model
from hopscotch.config.compose import compose
from hopscotch.data.audio import read_clip
from hopscotch.data.windows import find_files
from hopscotch.models.audio_model import AudioModel
from hopscotch.predict import BATCH, Predictor
from scripts.studies.bench.clips import NUM_CLASSES, SAMPLE_RATE, write_clips
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

NUM_CLIPS = 3000
MODELS = ("dense", "learned_skip", "jump_attention")
LEAST = 0.8
LONGEST = 10.0  # seconds; no clip is cut into windows

Padded = list[tuple[torch.Tensor, torch.Tensor]]  # waveform, lengths


def predict(rounds: int, device: str) -> Iterator[Row]:
    """Compare clips per second from files to answers with the forward pass alone; weights are untrained."""
    with tempfile.TemporaryDirectory() as folder:
        workers = torch.get_num_threads() if device == "cpu" else 0
        files = find_files([str(write_clips(Path(folder), num_clips=NUM_CLIPS))])
        batches = large_batches(files, device)
        for name in MODELS:
            cfg = compose([f"model={name}", "size=small", f"data.sample_rate={SAMPLE_RATE}"])
            torch.manual_seed(0)
            model = build_model(cfg, NUM_CLASSES)
            classes = [str(label) for label in range(NUM_CLASSES)]
            predictor = Predictor(model, classes, SAMPLE_RATE, longest_seconds=LONGEST, device=device)
            times = interleave(
                {
                    "predict": lambda predictor=predictor: list(predictor.predict(files, num_workers=workers)),
                    "forward": lambda model=model: forward(model, batches),
                },
                rounds=rounds,
                device=device,
            )
            yield row(
                f"{name}: clips predicted from files per second / clips run forward per second",
                times.ratio("forward", "predict"),
                (times.median("predict"), times.median("forward")),
                least=LEAST,
                clips=NUM_CLIPS,
                batch=BATCH,
                workers=workers,
                clips_per_second=NUM_CLIPS / times.median("predict"),
            )


def large_batches(files: list[Path], device: str) -> Padded:
    """Batch all clips in memory by length: the best possible batches."""
    clips = sorted((read_clip(path, SAMPLE_RATE) for path in files), key=len)
    return [
        (
            pad_sequence(clips[i : i + BATCH], batch_first=True).to(device),
            torch.tensor([len(clip) for clip in clips[i : i + BATCH]], device=device),
        )
        for i in range(0, len(clips), BATCH)
    ]


@torch.inference_mode()
def forward(model: AudioModel, batches: Padded) -> None:
    for waveform, lengths in batches:
        model(waveform, lengths)
