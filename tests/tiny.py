"""Runs of a second: tones for clips, models of 16 channels, a few steps."""

import copy
import functools
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra._internal.hydra as hydra_main
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from hopscotch.build import build_data, build_model, build_task, make_trainer
from hopscotch.config.absent import PACKAGES
from hopscotch.config.compose import CONF, compose, run_hydra
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.splits import place
from hopscotch.doctor import is_installed
from hopscotch.train import task
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch

SAMPLE_RATE = 8000
CLASS_HZ = {"high": 1500.0, "low": 300.0, "middle": 700.0}
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))  # those that a user adds, too
TINY_MODEL = ("model.dim=16", "model.heads=2", "model.depth=3", "model.stem_layers=0", "model.open_rate=null")
TINY_RUN = (
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "callbacks=quiet",
    "~logger",
)


def has_plugin(name: str) -> bool:
    """Whether a plug-in of Hydra is there, such as hydra_optuna_sweeper: the extra `sweep` brings them."""
    try:
        return importlib.util.find_spec(f"hydra_plugins.{name}") is not None
    except ModuleNotFoundError:  # no plug-in at all
        return False


def skip_without_plugin(choice: str) -> None:
    if choice == "hparams_search=optuna" and not has_plugin("hydra_optuna_sweeper"):
        pytest.skip("needs the extra sweep: hydra-optuna-sweeper")
    name = choice.removeprefix("logger=")
    if name in PACKAGES.values() and not is_installed(name):
        pytest.skip(f"needs the extra {name}")


def write_tone(path: Path, hz: float, seconds: float) -> None:
    """A tone with a little of its octave, 16 bits: the same file on every machine."""
    phase = 2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(phase) + 0.05 * np.sin(2 * phase), SAMPLE_RATE, subtype="PCM_16")


def write_tones(root: Path, clips_per_class: int = 7) -> Path:
    """A folder of class folders; clips differ in length and, by a few percent, in pitch.

    By the hashes of their names one clip of each class is for test, one for validation, and the others for training.
    """
    for name, hz in CLASS_HZ.items():
        order = sorted(range(clips_per_class), key=lambda i: place(f"{name}/{i}.wav"))
        numbers = itertools.count()
        for rank, i in enumerate(order):
            low, high = ((0.0, 0.1), (0.9, 1.0), (0.1, 0.9))[min(rank, 2)]
            file = next(f"{n:03d}.wav" for n in numbers if low <= place(f"{name}/{n:03d}.wav") < high)
            write_tone(root / name / file, hz * (1 + 0.01 * i), 0.12 + 0.02 * i)
    return root


def tiny_folder(root: Path) -> list[str]:
    return ["data=folder", f"data.root={root}", f"data.sample_rate={SAMPLE_RATE}", "data.batch_size=4"]


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """Composing takes longer than many a test: once for each set of overrides."""
    return compose(overrides)


def tiny_config(root: Path, run: Path, *overrides: str) -> DictConfig:
    """The configuration of a tiny run on the tones in `root`, its folder being `run`."""
    cfg = copy.deepcopy(composed(*tiny_folder(root), *TINY_MODEL, *TINY_RUN, *overrides))
    cfg.run_dir = str(run)
    return cfg


def build(cfg: DictConfig) -> tuple[AudioTask, AudioDataModule]:
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    data.setup("fit")
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    task.model.frontend.measure(data.statistics_batches())
    return task, data


def fit(
    cfg: DictConfig,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    built: tuple[AudioTask, AudioDataModule] | None = None,
) -> Trainer:
    """Train as `hopscotch.run` does, with these callbacks alone. `trainer.model` is the task."""
    task, data = built or build(cfg)
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = make_trainer(cfg.trainer, callbacks=list(callbacks), logger=False, enable_checkpointing=keeps)
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters and buffers, by name."""
    assert trainer.model is not None
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """The names under which two state dicts differ by any bit."""
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def check_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Check that two state dicts of different numbers of processes are the same but for rounding.

    The bias of keys has no gradient, as it adds the same to all scores of a query: AdamW takes rounding for one.
    """
    for name, value in first.items():
        here = slice(len(value) // 2, None) if name.endswith("key_value.bias") else ...
        torch.testing.assert_close(second[name][here], value[here], rtol=0, atol=2e-5, msg=name)


def make_batch(num_clips: int, samples: Sequence[int] = (960, 1280, 1600)) -> AudioBatch:
    """Tones of these lengths in turn, in memory; noise makes them all different."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([samples[i % len(samples)] for i in range(num_clips)])
    time = torch.arange(int(lengths.max())) / SAMPLE_RATE
    labels = torch.arange(num_clips) % len(CLASS_HZ)
    hz = torch.tensor(list(CLASS_HZ.values()))[labels]
    waveform = 0.3 * torch.sin(2 * torch.pi * hz[:, None] * time)
    waveform = waveform + 0.1 * torch.randn(waveform.shape, generator=generator) * torch.rand(
        num_clips, 1, generator=generator
    )
    waveform = waveform * (torch.arange(len(time)) < lengths[:, None])
    return AudioBatch(waveform, lengths, labels, torch.arange(num_clips), torch.arange(num_clips))


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that does what `python train.py <arguments>` does, in this process."""
    monkeypatch.setattr(hydra_main, "ConfigLoaderImpl", hydra_main.ConfigLoaderImpl)  # put back afterwards

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        code, message = 0, ""
        try:
            run_hydra(task)
        except SystemExit as end:  # as Python ends a process: text goes to stderr, with exit code 1
            code, message = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code or 0, "")
        out, err = capsys.readouterr()
        return Ended(code, out, err + message)

    return call


class Watch(Callback):
    """Keeps what every training step returned, and the gradients that it left on some parameters."""

    def __init__(self, part: str = "") -> None:
        self.part = part  # of the parameters' names
        self.losses: list[float] = []
        self.expected: list[float] = []
        self.gradients: list[float] = []  # largest of each step

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        watched = [p.grad for name, p in pl_module.named_parameters() if self.part in name and p.grad is not None]
        self.gradients.append(max((gradient.abs().max().item() for gradient in watched), default=0.0))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["step"].task_loss.item())
        self.expected.append(outputs["step"].output.trace.expected_compute.mean().item())


class StopAt(Callback):
    """Ends a run as a crash would, after so many optimizer steps."""

    class Crash(Exception):
        pass

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise self.Crash
