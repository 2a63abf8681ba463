"""Measure what the training loop costs in addition to the arithmetic (item `loop`).

A bare loop does the same work on the same batches: forward, losses, backward, clipping, optimizer, averaged weights,
thresholds. What the Trainer, metrics, logs and pictures take is the difference. For a step the two take turns, a step
each, in the same process: from one run of seconds to the next a shared machine changes by more than the bar.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig
from torch import nn

from hopscotch.build import build_callbacks, build_data, build_loggers, build_model, build_task, build_trainer
from hopscotch.config.compose import compose
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.report.metrics_log import MetricsLog
from hopscotch.run import quiet
from hopscotch.training.calibration import calibrate
from hopscotch.training.callbacks import MovingAverage
from hopscotch.types import AudioBatch
from scripts.studies.bench.clips import write_clips
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import Times

MODELS = ("dense", "learned_skip", "skip_layer")
BATCH = 32  # clips
NUM_STEPS = 40  # of an epoch; FSDD has 75 such batches
WARM_UP = 5  # steps not timed
NUM_VALIDATION_BATCHES = 5
TELEMETRY, PICTURES, WAITING = 1.02, 1.10, 0.02  # bars
FETCHING = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name for getting the next batch


class Kept:
    """Load batches from memory; Lightning would take a list for several loaders."""

    def __init__(self, batches: Sequence[AudioBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[AudioBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Between(Kept):
    """Load batches from memory, and let the bare loop take and time a step with each batch first."""

    def __init__(self, batches: Sequence[AudioBatch], loop: "BareLoop") -> None:
        super().__init__(batches)
        self.loop = loop
        self.begun: list[float] = []
        self.seconds: list[float] = []

    def __iter__(self) -> Iterator[AudioBatch]:
        for batch in self.batches:
            self.loop.wait()  # for the trainer's step
            self.begun.append(time.perf_counter())
            self.loop.step(batch)
            self.loop.wait()
            self.seconds.append(time.perf_counter() - self.begun[-1])
            yield batch


class Stopwatch(Callback):
    """Record when steps began and ended."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.waits: list[float] = []  # for each batch, under trainer.profiler=simple

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self.begun.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.ended.append(time.perf_counter())

    def step_seconds(self, between: Between) -> tuple[float, float]:
        """Return the seconds of a step of the trainer and of the bare loop, which alternate."""
        first, last = self.begun[WARM_UP], self.begun[-1]
        pairs = zip(between.begun, between.seconds, strict=True)
        others = [seconds for begun, seconds in pairs if first <= begun < last]
        return (last - first - sum(others)) / (len(self.begun) - 1 - WARM_UP), sum(others) / len(others)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        profiler = trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in __init__
        if isinstance(profiler, SimpleProfiler):
            self.waits = profiler.recorded_durations[FETCHING]

    @property
    def waiting_share(self) -> float:
        """Return the share of the time from the first step to the last that was spent waiting for batches."""
        assert len(self.waits) >= len(self.begun), f"Lightning has no {FETCHING} for every batch"
        return sum(self.waits[1 : len(self.begun)]) / (self.ended[-1] - self.begun[0])


def loop(rounds: int, device: str) -> Iterator[Row]:
    """Compare a step and an epoch with the bare loop's, and measure the share of an epoch spent waiting for data."""
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        root = write_clips(Path(folder) / "clips", num_clips=2 * BATCH * NUM_STEPS)
        for name in MODELS:
            yield from _of_model(name, root, Path(folder), rounds, device)


def _of_model(name: str, root: Path, folder: Path, rounds: int, device: str) -> Iterator[Row]:
    accelerator = "gpu" if device == "cuda" else "cpu"
    common = [f"model={name}", "data=folder", f"data.root={root}", "data.sample_rate=8000", f"trainer={accelerator}"]
    common += [f"data.batch_size={BATCH}", "trainer.precision=32-true"]  # as the bare loop
    configs = {kind: compose([*common, f"callbacks={kind}", "trainer.max_epochs=1"]) for kind in ("quiet", "default")}
    configs["profiled"] = compose([*common, "callbacks=quiet", "trainer.max_epochs=1", "trainer.profiler=simple"])
    data = build_data(configs["quiet"])
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(NUM_STEPS), strict=False)]
    validation = list(data.val_dataloader())[:NUM_VALIDATION_BATCHES]
    names = ["bare", "telemetry", "pictures"]
    steps = torch.zeros(rounds, 2, dtype=torch.float64)
    epochs = torch.zeros(rounds, 3, dtype=torch.float64)
    waiting = []
    for i in range(rounds):
        for k in (torch.arange(3) + i).remainder(3).tolist():
            if names[k] == "bare":
                epochs[i, k] = bare(configs["quiet"], data, batches, validation, device)[1]
                continue
            cfg = configs["quiet" if names[k] == "telemetry" else "default"]
            epochs[i, k] = lightning(cfg, data, Kept(batches), validation, folder / f"{name}_{i}_{k}")[1]
        between = Between(batches, BareLoop(configs["quiet"], data, device))
        watch, _ = lightning(configs["quiet"], data, between, validation, folder / f"{name}_{i}_s")
        steps[i, 1], steps[i, 0] = watch.step_seconds(between)
        waiting.append(
            lightning(configs["profiled"], data, None, validation, folder / f"{name}_{i}_w")[0].waiting_share
        )
    yield _row(f"{name}: a training step, telemetry / bare loop", Times(names[:2], steps), "telemetry", TELEMETRY)
    yield _row(f"{name}: an epoch with validation, telemetry / bare loop", Times(names, epochs), "telemetry", None)
    yield _row(f"{name}: an epoch with validation, pictures / bare loop", Times(names, epochs), "pictures", PICTURES)
    share = torch.tensor([waiting, [1.0] * rounds], dtype=torch.float64).T
    yield _row(
        f"{name}: share of an epoch spent waiting for data", Times(["waiting", "bare"], share), "waiting", WAITING
    )


def _row(words: str, times: Times, name: str, most: float | None) -> Row:
    medians = (times.median(name), times.median("bare"))
    return row(words, times.ratio(name, "bare"), medians, most=most, batch=BATCH, steps=NUM_STEPS)


def lightning(
    cfg: DictConfig,
    data: AudioDataModule,
    batches: Kept | None,
    validation: list[AudioBatch],
    run: Path,
) -> tuple[Stopwatch, float]:
    """Run one epoch as `train.py` does and return its seconds from the first step on; no `batches`: its own."""
    cfg = cfg.copy()
    cfg.run_dir = str(run)
    watch = Stopwatch()
    callbacks = [*build_callbacks(cfg), watch]
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(cfg, callbacks, [*build_loggers(cfg), MetricsLog(run)])
        task = build_task(cfg, build_model(cfg, data.num_classes), data)
        loaders = {"train_dataloader": lambda: batches} if batches is not None else {}
        with _replaced(data, val_dataloader=lambda: Kept(validation), **loaders):
            trainer.fit(task, datamodule=data)
    return watch, time.perf_counter() - watch.begun[0]


class BareLoop:
    """Train without Lightning."""

    def __init__(self, cfg: DictConfig, data: AudioDataModule, device: str) -> None:
        self.task = build_task(cfg, build_model(cfg, data.num_classes), data).to(device)
        self.model, self.device = self.task.model, device
        self.optimizer = self.task.make_optimizer([{"params": list(self.model.parameters())}])
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.average = MovingAverage(self.model, 0.99)
        self.model.train()

    def step(self, batch: AudioBatch) -> None:
        task, model = self.task, self.model
        here = AudioBatch(*(part.to(self.device) for part in batch))
        output = model(here.waveform, here.lengths, keys=here.keys)
        losses = task.losses(output, here)

        def second_opinion() -> torch.Tensor:
            return task.losses(model(here.waveform, here.lengths, keys=here.keys), here)

        task_loss = losses.mean()
        loss = task_loss + task.policy_loss(output.trace, losses.detach(), second_opinion, 0.0)
        if task.target is not None:
            loss = loss + task.budget_weight * (output.trace.expected_compute.mean() - task.target) ** 2
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update_parameters(model)
        model.update_threshold(task_loss.detach(), task.threshold_lr)

    def wait(self) -> None:
        """Wait until a GPU has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def validate(self, batches: list[AudioBatch]) -> None:
        """Calibrate the budget, then validate."""
        if self.task.target is not None:
            calibrate(self.model, batches, self.task.target)
        self.model.eval()
        with torch.no_grad():
            for batch in batches:
                self.model(batch.waveform.to(self.device), batch.lengths.to(self.device))


def bare(
    cfg: DictConfig, data: AudioDataModule, batches: list[AudioBatch], validation: list[AudioBatch], device: str
) -> tuple[float, float]:
    """Return the seconds of a step, and of the epoch with its validation."""
    loop = BareLoop(cfg, data, device)
    begun = []
    for batch in batches:
        begun.append(time.perf_counter())
        loop.step(batch)
    step = (begun[-1] - begun[WARM_UP]) / (len(begun) - 1 - WARM_UP)
    loop.validate(validation)
    return step, time.perf_counter() - begun[0]


@contextlib.contextmanager
def _replaced(data: AudioDataModule, **loaders: Any) -> Iterator[None]:
    """Replace the loaders for the duration of the context."""
    for name, loader in loaders.items():
        setattr(data, name, loader)
    try:
        yield
    finally:
        for name in loaders:
            delattr(data, name)
