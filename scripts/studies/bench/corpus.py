"""Measure how fast recordings come from files and from the cache (items `decoding`, `many` and `long`).

`decoding` compares with the plain way: soundfile, torchaudio's resampler and a `DataLoader` with two workers.
"""

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from hopscotch.build import build_data
from hopscotch.config.compose import compose
from hopscotch.data.clips import KeyedLoader
from scripts.studies.bench.clips import write_clips
from scripts.studies.bench.loop import BATCH
from scripts.studies.bench.supply import TRAIN, to_first_step
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import Times, interleave

NUM_SMALL, NUM_LONG = 3000, 200  # clips of half a second at 8 kHz, as in FSDD, and of 10 s at 44.1 kHz
NUM_MANY = 100_000
WORKERS = 2
LEAST_COLD, LEAST_KEPT = 2.0, 10.0
MOST_FIRST, MOST_SECOND = 20.0, 5.0  # seconds to the first step
MOST_GIB = 1.5  # above the process without data
MOST_LONG = 1.3
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "train", "val", "test")


class Plain(Dataset[Tensor]):
    """Read clips as a first script would."""

    def __init__(self, files: list[Path], sample_rate: int) -> None:
        self.files, self.sample_rate = files, sample_rate

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        samples, rate = soundfile.read(self.files[index], dtype="float32", always_2d=True)
        return torchaudio.functional.resample(torch.from_numpy(samples.mean(axis=1)), rate, self.sample_rate)


def _padded(clips: list[Tensor]) -> Tensor:
    return pad_sequence(clips, batch_first=True)


def decoding(rounds: int, device: str) -> Iterator[Row]:
    """Compare clips per second of training batches with the plain way, from files and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "half a second, 8 kHz WAV": (write_clips(Path(folder) / "small", num_clips=NUM_SMALL), 8000),
            "10 s, 44.1 kHz FLAC": (write_flac(Path(folder) / "long"), 16_000),
        }
        for name, (root, rate) in kinds.items():
            yield from _decoding(name, root, rate, Path(folder) / "cache", rounds)


def _decoding(name: str, root: Path, rate: int, cache: Path, rounds: int) -> Iterator[Row]:
    overrides = ["data=folder", f"data.root={root}", f"data.sample_rate={rate}", f"data.batch_size={BATCH}"]
    overrides += ["data.batch_seconds=null", f"data.cache_dir={cache}", "augment=none", f"data.num_workers={WORKERS}"]
    loaders: dict[str, KeyedLoader] = {}
    for kind, more in {"cold": ["data.disk_cache_gib=0"], "kept": ["data.num_workers=0"]}.items():
        data = build_data(compose([*overrides, "data.cache_gib=0", *more]))
        data.setup("fit")
        loaders[kind] = data.train_dataloader()
    files = [root / clip.name for clip in loaders["cold"].dataset.store.clips]  # pyright: ignore[reportAttributeAccessIssue]
    plain = DataLoader(
        Plain(files, rate), BATCH, shuffle=True, num_workers=WORKERS, collate_fn=_padded, persistent_workers=True
    )
    cases = {"plain": plain, **loaders}
    times = interleave({kind: lambda loader=loader: list(loader) for kind, loader in cases.items()}, rounds=rounds)
    for kind, least in (("cold", LEAST_COLD), ("kept", LEAST_KEPT)):
        yield row(
            f"{name}: clips per second, {'decoded' if kind == 'cold' else 'from the cache'} / the plain way",
            times.ratio("plain", kind),
            (times.median(kind), times.median("plain")),
            least=least,
            clips=len(files),
            workers=WORKERS if kind == "cold" else 0,
            clips_per_second=len(files) / times.median(kind),
        )


def write_flac(root: Path) -> Path:
    """Write 10-second clips at 44.1 kHz in two classes; noise under a tone, as compressible as music."""
    rng = np.random.default_rng(0)
    seconds = np.arange(441_000) / 44_100
    for i in range(NUM_LONG):
        path = root / "ab"[i % 2] / f"{i}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * seconds)
        soundfile.write(path, tone + rng.normal(0, 0.02, len(seconds)), 44_100)
    return root


def many(rounds: int, device: str) -> Iterator[Row]:
    """Measure seconds from process start to the first step on 100,000 clips, with and without an index, and memory."""
    seconds, gib = torch.zeros(rounds, 4, dtype=torch.float64), torch.zeros(rounds, 2, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        root, few = write_many(Path(folder) / "many", NUM_MANY), write_clips(Path(folder) / "few", num_clips=40)
        for i in range(rounds):
            cache = Path(folder) / f"cache{i}"
            for k, data in enumerate((few, few, root, root)):
                run = Path(folder) / f"run{i}_{k}"
                most = _train(run, data, cache)
                seconds[i, k] = to_first_step(run)
                if k in (1, 2):
                    gib[i, k - 1] = most
    times = Times(["", "few clips", "first start", "second start"], seconds)
    none = torch.zeros(rounds, 1, dtype=torch.float64)
    for name, most in (("first start", MOST_FIRST), ("second start", MOST_SECOND)):
        alone = Times([name, "nothing"], torch.cat([seconds[:, [times.names.index(name)]], none], dim=1))
        yield row(
            f"seconds from process start to the first step, {name}",
            alone.difference(name, "nothing"),
            (times.median(name), times.median("few clips")),
            most=most,
            clips=NUM_MANY,
        )
    memory = Times(["few", "many"], gib)
    yield row(
        "GiB of memory at most, beyond a run on 40 clips",
        memory.difference("many", "few"),
        (memory.median("many"), memory.median("few")),
        most=MOST_GIB,
        clips=NUM_MANY,
    )


def write_many(root: Path, num_clips: int) -> Path:
    """Write WAV files of 0.3 s at 8 kHz, no two alike, into ten classes below train, val and test; in seconds."""
    length = 2400
    content = np.random.default_rng(0).integers(-3000, 3000, 64 * length, dtype=np.int16).tobytes()
    pcm = (b"WAVEfmt ", 16, 1, 1, 8000, 16_000, 2, 16)  # 16 bits, one channel
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + 2 * length, *pcm, b"data", 2 * length)
    for split in dict.fromkeys(SPLITS):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
    for i in range(num_clips):
        begin = 2 * (7919 * i % (63 * length))
        path = root / SPLITS[i // 10 % 10] / str(i % 10) / f"{i:06d}.wav"
        path.write_bytes(head + struct.pack("<i", i) + content[begin + 4 : begin + 2 * length])
    return root


def _train(run: Path, root: Path, cache: Path) -> float:
    """Train for a step in a process of its own, and return its peak memory in GiB."""
    words = [sys.executable, str(TRAIN), "data=folder", f"data.root={root}", "data.sample_rate=8000"]
    words += [f"data.cache_dir={cache}", f"hydra.run.dir={run}", "trainer.max_steps=1", "trainer.limit_val_batches=1"]
    words += ["trainer.limit_test_batches=1", "callbacks=quiet"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with status {status}.")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def long(rounds: int, device: str) -> Iterator[Row]:
    """Compare an epoch of batches with a file of ten minutes among 2,000 clips of half a second, and without it."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_many(Path(folder) / "data", 2000)
        loaders = {}
        for name in ("without", "with"):
            if name == "with":
                noise = np.random.default_rng(0).uniform(-0.5, 0.5, 600 * 8000)
                soundfile.write(root / "train" / "0" / "long.wav", noise, 8000)
            words = ["data=folder", f"data.root={root}", "data.sample_rate=8000", f"data.cache_dir={folder}/cache"]
            data = build_data(compose([*words, "data.cache_gib=0", "data.disk_cache_gib=0"]))
            data.setup("fit")
            loaders[name] = data.train_dataloader()
        cases = {name: lambda loader=loader: _largest(loader) for name, loader in loaders.items()}
        times = interleave(cases, rounds=rounds)
        largest = {name: case() for name, case in cases.items()}
    yield row(
        "time of an epoch's batches with a file of 10 minutes / without",
        times.ratio("with", "without"),
        (times.median("with"), times.median("without")),
        most=MOST_LONG,
        clips=2000,
        largest_batch=largest["with"] / largest["without"],
    )


def _largest(loader: KeyedLoader) -> int:
    """Return the samples of the largest batch, with its padding: what memory follows from."""
    return max(batch.waveform.numel() for batch in loader)
