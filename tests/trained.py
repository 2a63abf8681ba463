"""A run's folder, as prediction finds it, in a second: two steps of training, then deciders drawn at random."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hopscotch.config.errors import plain_config
from hopscotch.known import remember
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.heads import DetectionHead
from hopscotch.types import AudioBatch
from tests.small_models import classifier, decide_at_random
from tests.tiny import SAMPLE_RATE, TINY_MODEL, TINY_RUN, build, composed, fit, tiny_config
from tests.word_streams import words_in_noise

OVERRIDES = ("trainer.max_steps=2", "trainer.num_sanity_val_steps=0")


def write_run(folder: Path, tones: Path, model: str = "jump_attention") -> Path:
    return _write(folder, tiny_config(tones, folder, f"model={model}", *OVERRIDES), _labels_that_differ)


def write_listener(folder: Path) -> Path:
    """A run of a model that is always on, and hears events in half of its recordings' time."""
    words = ("model=always_on", "task=detect", "frontend=log_mel_stream", *TINY_MODEL, *TINY_RUN, *OVERRIDES)
    rate = f"data.sample_rate={SAMPLE_RATE}"
    cfg = copy.deepcopy(composed(*words_in_noise(folder / "data", rate), *words))
    cfg.run_dir = str(folder)
    return _write(folder, cfg, _events_here_and_there)


def _write(folder: Path, cfg: DictConfig, change: Callable[[AudioModel, AudioBatch], None]) -> Path:
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    remember(plain_config(cfg))
    task, data = build(cfg)
    fit(cfg, ModelCheckpoint(dirpath=folder / "checkpoints", filename="best", monitor=None), built=(task, data))
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.manual_seed(1)
    task.model.decision_bias.zero_()
    with torch.no_grad():
        change(task.model, next(iter(data.train_dataloader())))  # some of the clips that it will be asked about
    checkpoint["state_dict"] = task.state_dict()
    torch.save(checkpoint, path)
    return folder


def _labels_that_differ(model: AudioModel, batch: AudioBatch) -> None:
    decide_at_random(model, batch.waveform, batch.lengths)
    head = classifier(model)
    torch.nn.init.normal_(head.weight)
    head.bias.sub_(model(batch.waveform, batch.lengths).logits.mean(dim=0))


def _events_here_and_there(model: AudioModel, batch: AudioBatch) -> None:
    assert isinstance(model, AlwaysOn)
    assert isinstance(model.head, DetectionHead)
    torch.nn.init.normal_(model.stage.output.weight)
    torch.nn.init.normal_(classifier(model).weight)
    scores = model.eval()(batch.waveform, batch.lengths).stage
    assert scores is not None
    model.stage.output.bias.sub_(scores.quantile(0.9))
    said = model(batch.waveform, batch.lengths).logits.softmax(dim=2)[..., :-1].flatten(0, 1)
    model.head.thresholds.copy_(said[said[:, 0] > 1e-6].quantile(0.7, dim=0).expand(2, -1))
