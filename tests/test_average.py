"""average.py: the average of the weights over training steps."""

from unittest.mock import MagicMock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hopscotch.training.callbacks import AveragedWeights, MovingAverage


class OneWeight(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("level", torch.zeros(()))


def test_every_step_moves_the_average_by_its_share_of_the_way_to_the_weights_and_buffers() -> None:
    module, average = OneWeight(), AveragedWeights(decay=0.9)
    trainer = MagicMock(spec=Trainer, global_step=0)
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


def test_the_average_is_that_of_torch_and_follows_a_tensor_that_is_replaced() -> None:
    class WithAnInt(OneWeight):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

    module, decay = WithAnInt(), 0.9
    ours = MovingAverage(module, decay)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for step in range(4):
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step)))
        module.norm.get_buffer("num_batches_tracked").add_(10)
        module.level = torch.tensor(float(step))  # another tensor, not another value
        ours.update_parameters(module)
        theirs.update_parameters(module)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
