"""average.py: the average of the weights over training steps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from hopscotch.tasks.average import AveragedWeights


class OneWeight(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("level", torch.zeros(()))


def test_every_step_moves_the_average_by_its_share_of_the_way_to_the_weights_and_buffers() -> None:
    module, average = OneWeight(), AveragedWeights(decay=0.9)
    trainer: Any = SimpleNamespace(global_step=0)
    average.setup(trainer, module, "fit")
    for value in (1.0, 2.0, 3.0):
        trainer.global_step += 1
        module.weight.data.fill_(value)
        module.get_buffer("level").fill_(10 * value)
        average.on_train_batch_end(trainer, module, None, None, 0)
    average.on_train_end(trainer, module)
    # 1, then 1 + 0.1 (2 - 1) = 1.1, then 1.1 + 0.1 (3 - 1.1) = 1.29
    assert module.weight.item() == pytest.approx(1.29)
    assert module.get_buffer("level").item() == pytest.approx(12.9)


def test_a_wrong_decay_names_key_rule_and_value() -> None:
    with pytest.raises(ValueError, match=r"callbacks.average.decay must lie in \[0, 1\], got 1.5\."):
        AveragedWeights(decay=1.5)
