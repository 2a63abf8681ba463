"""Pass over the test clips again and again: at every budget, in every noise, in rooms."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch import Tensor

from hopscotch.above import Dearer
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import KeyedLoader
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.recordings import Recordings
from hopscotch.dearer import compared, right_ones
from hopscotch.layers.attention import SkipAttention
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.exits import Ladder
from hopscotch.progress import with_progress
from hopscotch.report.collect import Evaluation, gather
from hopscotch.training.calibration import MAX_BIAS, calibrate
from hopscotch.training.exits import fit_exits
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch

CLEAN = "clean"  # the condition of the clips as they are
TIMED_BATCHES = 8  # spread over the split
TIMED_ROUNDS = 3  # of each
TIMED_SECONDS = 4.0  # in all; what has begun is finished


class Condition(NamedTuple):
    """What one pass came to."""

    condition: str  # CLEAN, the level of the noise with the folder that it is from, or the folder of the rooms
    snr_db: float | None
    requested: float | None  # compute.budget; None: as trained
    calibrated: float | None  # what the validation clips came to under that budget
    fraction: float  # of the test clips
    macs: float  # mean per test clip
    metrics: dict[str, float]  # of the task, the primary one first

    @property
    def columns(self) -> dict[str, Any]:
        """Everything by name, as a row of a table."""
        return {**dict(zip(self._fields[:-1], self[:-1], strict=True)), **self.metrics}

    @property
    def primary(self) -> tuple[str, float]:
        """The metric that the task is judged by, and its value."""
        return next(iter(self.metrics.items()))


class Setting(NamedTuple):
    """What is done to the test clips in a pass, and what that is called."""

    name: str
    snr_db: float | None
    augment: WaveformAugment | None  # None: nothing


class Pass(NamedTuple):
    condition: Condition
    evaluation: Evaluation
    logged: dict[str, float]  # by the task, as at the end of training
    bias: float  # model.decision_bias
    dearer: Dearer | None = None  # what validation clips say of a budget above the trained one


def passes(
    task: AudioTask,
    data: AudioDataModule,
    trainer: Trainer,
    budgets: Sequence[float | None],
    snr_db: Sequence[float],
    noise: Recordings | None = None,
    rooms: Recordings | None = None,
) -> Iterator[Pass]:
    """For each budget the clips as they are, then in rooms and in each noise; the model is afterwards as it was.

    The test is Lightning's, as at the end of training, so that its figures are the same to the last digit.
    """
    bias = task.model.decision_bias.clone()
    trained: Tensor | None = None  # whether the model is right of each validation clip, as trained
    for budget in budgets:
        calibrated = dearer = None
        task.model.decision_bias.copy_(bias)  # each from there: their order changes nothing
        if budget is not None:
            task.to(trainer.strategy.root_device)
            with Console().status(f"Meeting a budget of {budget:g} on validation clips"):
                calibrated = calibrate(task.model, list(data.calibration_batches()), budget).achieved
                asked = task.model.decision_bias.clone()
                if asked > bias.to(asked.device):
                    there = right_ones(task, data.val_dataloader())
                    task.model.decision_bias.copy_(bias)
                    trained = right_ones(task, data.val_dataloader()) if trained is None else trained
                    task.model.decision_bias.copy_(asked)
                    dearer = compared(calibrated, there, trained)
        for setting in settings(data.sample_rate, snr_db, noise, rooms):
            yield _passed(task, data, trainer, setting, budget, calibrated)._replace(dearer=dearer)
            dearer = None  # told once
    task.model.decision_bias.copy_(bias)


def refitted(
    task: AudioTask,
    data: AudioDataModule,
    trainer: Trainer,
    snr_db: Sequence[float],
    noise: Recordings | None,
    shares: Mapping[str, float],
) -> Iterator[Pass]:
    """Test exits in each noise with temperatures and thresholds fitted to validation clips in that noise.

    `shares` are those of the dense compute to meet, by the name of the condition; the model is afterwards as it was.
    """
    model = task.model
    assert isinstance(model, Ladder)
    fitted = (model.decision_bias, model.exits.temperatures, model.exits.thresholds)
    before = [one.clone() for one in fitted]
    for setting in settings(data.sample_rate, snr_db, noise):
        if setting.augment is None:
            continue
        task.to(trainer.strategy.root_device)
        batches = [changed(batch, setting.augment) for batch in data.calibration_batches()]
        fit_exits(model, batches, shares[setting.name])
        yield _passed(task, data, trainer, setting, None, None)
        for one, value in zip(fitted, before, strict=True):
            one.copy_(value)


def _passed(
    task: AudioTask,
    data: AudioDataModule,
    trainer: Trainer,
    setting: Setting,
    budget: float | None,
    calibrated: float | None,
) -> Pass:
    """Test in one setting."""
    trainer.test(task, dataloaders=TestBatches(data, setting), verbose=False)
    evaluation = gather(task.steps["test"])
    logged = {tag.removeprefix("test/"): float(value) for tag, value in trainer.callback_metrics.items()}
    condition = Condition(
        condition=setting.name,
        snr_db=setting.snr_db,
        requested=budget,
        calibrated=calibrated,
        fraction=evaluation.compute_fraction,
        macs=evaluation.compute["macs"],
        metrics={name: logged[name] for name in task.metric_names},
    )
    return Pass(condition, evaluation, logged, float(task.model.decision_bias))


def settings(
    sample_rate: int, snr_db: Sequence[float], noise: Recordings | None = None, rooms: Recordings | None = None
) -> list[Setting]:
    """List the clips as they are, in rooms, and in noise of each level: recorded or, without a folder, synthetic.

    What is drawn for a clip is a function of its key, whatever the level.
    """
    found, source = [Setting(CLEAN, None, None)], "" if noise is None else f", {noise.folder.name}"
    if rooms is not None:
        heard = augment_only(sample_rate, impulse_probability=1.0, impulse_responses=rooms)
        found.append(Setting(f"in {rooms.folder.name}", None, heard))
    for level in snr_db:
        noisy = augment_only(sample_rate, noise_probability=1.0, noise_snr_db=(level, level), noise=noise)
        found.append(Setting(f"{level:g} dB{source}", level, noisy))
    return found


class TestBatches:
    """The test clips as a trainer reads them, in one setting, with a bar on the terminal if it takes long.

    The key of a clip is a function of (seed, position in the split).
    """

    __test__ = False  # none of pytest's

    def __init__(self, data: AudioDataModule, setting: Setting) -> None:
        self.loader: KeyedLoader = data.test_dataloader()
        self.setting = setting

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[AudioBatch]:
        for batch in with_progress(self.loader, len(self), f"Testing, {self.setting.name}"):
            yield batch if self.setting.augment is None else changed(batch, self.setting.augment)


class Times(NamedTuple):
    """Hold the seconds that the model takes for a clip."""

    own: float  # as it decides
    dense: float  # of the same weights, with nothing skipped and every stride 1

    @property
    def fraction(self) -> float:
        return self.own / self.dense


def time_test(task: AudioTask, data: AudioDataModule, trainer: Trainer) -> Times:
    """Time test batches of all lengths as the trainer ran them; the task stays on the trainer's device."""
    task.to(trainer.strategy.root_device)  # a test moves it to the CPU
    loader = data.test_dataloader()
    batches = list(islice(loader, 0, None, -(-len(loader) // TIMED_BATCHES)))
    with trainer.precision_plugin.forward_context():
        return time_clips(task, batches)


@torch.no_grad()
def time_clips(task: AudioTask, batches: Sequence[AudioBatch]) -> Times:
    """Time the model as it decides and, in turn, with nothing skipped; of the rounds of a batch the median counts.

    Batches of medium length, if they are sorted by length, come first: they count if the time is too short for all.
    """
    model = task.model.eval()
    settings = {"own": contextlib.nullcontext, "dense": partial(nothing_skipped, model)}
    if not model.skips:
        del settings["dense"]
    spread = batches[:: -(-len(batches) // TIMED_BATCHES)]
    middle_first = sorted(range(len(spread)), key=lambda place: abs(2 * place - len(spread) + 1))
    seconds, clips, end = dict.fromkeys(settings, 0.0), 0, time.monotonic() + TIMED_SECONDS
    for batch in (spread[place] for place in middle_first):
        found: dict[str, list[float]] = {name: [] for name in settings}
        while not found["own"] or (len(found["own"]) < TIMED_ROUNDS and time.monotonic() < end):
            for name, setting in settings.items():
                with setting():
                    found[name].append(seconds_of(model, batch))
        seconds = {name: seconds[name] + median(found[name]) for name in seconds}
        clips += len(batch.lengths)
        if time.monotonic() >= end:
            break
    return Times(seconds["own"] / clips, seconds.get("dense", seconds["own"]) / clips)


def seconds_of(model: AudioModel, batch: AudioBatch) -> float:
    """Time one batch, once it is on the device of the model."""
    device = model.decision_bias.device
    waveform, lengths = batch.waveform.to(device), batch.lengths.to(device)
    begun = time.perf_counter()
    model(waveform, lengths).logits.sum().item()  # waits for a GPU
    return time.perf_counter() - begun


@contextlib.contextmanager
def nothing_skipped(model: AudioModel) -> Iterator[None]:
    """Every decision as dear as it gets, and every stride that was fixed beforehand 1."""
    bias = model.decision_bias.clone()
    fixed = [(module, module.stride) for module in model.modules() if isinstance(module, SkipAttention)]
    model.decision_bias.fill_(math.sinh(MAX_BIAS))
    for module, _ in fixed:
        module.stride = 1
    try:
        yield
    finally:
        model.decision_bias.copy_(bias)
        for module, stride in fixed:
            module.stride = stride


def augment_only(sample_rate: int, **what: object) -> WaveformAugment:
    """Make an augmentation that does nothing else."""
    nothing = {
        "speeds": [1.0],
        "silence_probability": 0.0,
        "silence_seconds": 0.0,
        "gain_db": 0.0,
        "noise_probability": 0.0,
        "noise_snr_db": (0.0, 0.0),
        "impulse_probability": 0.0,
    }
    return WaveformAugment(sample_rate=sample_rate, **(nothing | what))  # pyright: ignore[reportArgumentType]


def changed(batch: AudioBatch, augment: WaveformAugment) -> AudioBatch:
    """Return the batch with what the augmentation makes of its waveforms."""
    waveform, lengths = augment(batch.waveform, batch.lengths, batch.keys)
    return batch._replace(waveform=waveform, lengths=lengths)
