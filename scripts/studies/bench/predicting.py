"""Measure what reading files costs a prediction (item `predict`), and how long the command takes to start."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf
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
MOST_START = 1.6  # of the time of what no prediction can do without
BARE = "import torch, soundfile"

Padded = list[tuple[torch.Tensor, torch.Tensor]]  # waveform, lengths


def predict(rounds: int, device: str) -> Iterator[Row]:
    """Compare clips per second from files to answers with the forward pass alone; weights are untrained."""
    yield predict_start(rounds)
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


def predict_start(rounds: int) -> Row:
    """Compare `hopscotch predict` of one clip, in a process of its own, with the imports that it needs."""
    with tempfile.TemporaryDirectory() as folder:
        clip = next(write_clips(Path(folder) / "clips", num_clips=NUM_CLASSES).rglob("*.wav"))
        run = write_untrained(Path(folder) / "run")
        words = [sys.executable, "-m", "hopscotch", "predict", str(run), str(clip), "--device", "cpu"]
        times = interleave(
            {"predict": partial(_run, words), "bare": partial(_run, [sys.executable, "-c", BARE])}, rounds=rounds
        )
    return row(
        f"predict's start / {BARE}",
        times.ratio("predict", "bare"),
        (times.median("predict"), times.median("bare")),
        most=MOST_START,
    )


def _run(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)


def write_untrained(run: Path) -> Path:
    """Write the folder of a run as far as prediction reads it, with fresh weights."""
    cfg = compose(["model=learned_skip", f"data.sample_rate={SAMPLE_RATE}"])
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    torch.manual_seed(0)
    weights = build_model(cfg, NUM_CLASSES).state_dict()
    torch.save(
        {
            "state_dict": {f"model.{name}": value for name, value in weights.items()},
            "classes": [str(label) for label in range(NUM_CLASSES)],
            "clip_seconds": {"mean": 1.0, "longest": LONGEST},
        },
        run / "checkpoints" / "best.ckpt",
    )
    return run


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
