"""Measure whether data are loaded as fast as a model trains (item `supply`), and the wait for the first step."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from hopscotch.build import build_data
from hopscotch.config.compose import compose
from hopscotch.data.clips import KeyedLoader, one_thread
from hopscotch.frontend import LogMel
from hopscotch.system import PROJECT_ROOT
from scripts.studies.bench.clips import write_clips
from scripts.studies.bench.loop import BATCH, bare
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import Times

NUM_CLIPS = 1280
NUM_STEPS = 30
LEAST_SUPPLY = 5.0
EXTRA_SECONDS = 1.5  # from process start to the first step, beyond the imports
TRAIN = PROJECT_ROOT / "train.py"
IMPORTS = "import torch, lightning.pytorch"


def supply(rounds: int, device: str) -> Iterator[Row]:
    """Compare clips per second of decoding, augmentation and mel with those that `small` trains on, same cores."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_clips(Path(folder) / "clips", num_clips=NUM_CLIPS)
        overrides = ["model=dense", "size=small", "data=folder", f"data.root={root}", "data.sample_rate=8000"]
        overrides.append(f"data.batch_size={BATCH}")
        cfg = compose([*overrides, "data.cache_gib=0", f"data.num_workers={torch.get_num_threads()}"])
        in_memory = build_data(compose(overrides))
        in_memory.setup("fit")
        batches = [batch for batch, _ in zip(in_memory.train_dataloader(), range(NUM_STEPS), strict=False)]
        seconds = torch.zeros(rounds, 2, dtype=torch.float64)
        frontend = LogMel(sample_rate=8000)
        data = build_data(cfg)
        data.setup("fit")
        loader = data.train_dataloader()
        list(loader)  # starts the workers, which stay
        for i in range(rounds):
            seconds[i, 0] = _pass(loader, frontend)
            seconds[i, 1] = bare(cfg, in_memory, batches, [], device)[0] / cfg.data.batch_size
        times = Times(["supply", "training"], seconds)
        yield row(
            "clips decoded, augmented and turned into mel per second / clips trained on per second",
            times.ratio("training", "supply"),
            (times.median("supply"), times.median("training")),
            least=LEAST_SUPPLY,
            workers=cfg.data.num_workers,
            clips_per_second=1 / times.median("supply"),
        )


def _pass(loader: KeyedLoader, frontend: LogMel) -> float:
    """Return the seconds per clip of one pass over the training clips."""
    begun, num_clips = time.perf_counter(), 0
    with torch.no_grad(), one_thread():  # the loader's workers have the other cores
        for batch in loader:
            frontend(batch.waveform, batch.lengths)
            num_clips += len(batch.lengths)
    return (time.perf_counter() - begun) / num_clips


def start(rounds: int, device: str) -> Iterator[Row]:
    """Measure the seconds from process start to the end of the first step, minus the imports of torch and Lightning."""
    extra = torch.zeros(rounds, 2, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        root = write_clips(Path(folder) / "clips", num_clips=3000)
        for i in range(rounds):
            extra[i, 0] = _process([sys.executable, "-c", IMPORTS])
            run = [sys.executable, str(TRAIN), "data=folder", f"data.root={root}", "data.sample_rate=8000"]
            run += [f"hydra.run.dir={folder}/run{i}", "trainer.max_steps=1", "trainer.limit_val_batches=1"]
            run += ["trainer.limit_test_batches=1", "callbacks=quiet"]
            _process(run)
            extra[i, 1] = to_first_step(Path(folder) / f"run{i}")
    times = Times(["imports", "first step"], extra)
    yield row(
        "seconds from process start to the first step, beyond importing torch and Lightning",
        times.difference("first step", "imports"),
        (times.median("first step"), times.median("imports")),
        most=EXTRA_SECONDS,
        clips=3000,
    )


def _process(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return time.perf_counter() - begun


def to_first_step(run: Path) -> float:
    return json.loads((run / "summary.json").read_text())["seconds"]["to_first_step"]
