"""A run's folder, as prediction finds it, in a second: two steps of training, then deciders drawn at random."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from hopscotch.config.errors import plain_config
from hopscotch.known import remember
from tests.small_models import classifier, decide_at_random
from tests.tiny import build, fit, tiny_config

OVERRIDES = ("trainer.max_steps=2", "trainer.num_sanity_val_steps=0")


def write_run(folder: Path, tones: Path, model: str = "jump_attention") -> Path:
    cfg = tiny_config(tones, folder, f"model={model}", *OVERRIDES)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    remember(plain_config(cfg))
    task, data = build(cfg)
    fit(cfg, ModelCheckpoint(dirpath=folder / "checkpoints", filename="best", monitor=None), built=(task, data))
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    batch = next(iter(data.train_dataloader()))  # some of the clips that it will be asked about
    torch.manual_seed(1)
    task.model.decision_bias.zero_()
    decide_at_random(task.model, batch.waveform, batch.lengths)
    head = classifier(task.model)  # labels that differ, too
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        head.bias.sub_(task.model(batch.waveform, batch.lengths).logits.mean(dim=0))
    checkpoint["state_dict"] = task.state_dict()
    torch.save(checkpoint, path)
    return folder
