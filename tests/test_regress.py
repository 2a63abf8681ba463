"""regress.py: the head speaks in the units of the labels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.build import build_data, build_model, build_task
from hopscotch.config.compose import compose
from hopscotch.config.monitors import LOGGED
from hopscotch.training.regress import RegressionTask
from hopscotch.types import AudioBatch
from tests.test_tasks import CASES, SPLITS, typed, write_table


def regression(tmp_path: Path, label=CASES["regress"].label) -> RegressionTask:
    table = write_table(tmp_path, label)
    words = [word for word in typed(table, "task=regress", "model=dense") if not word.startswith("hydra.")]
    cfg = compose(words)
    data = build_data(cfg)
    data.setup("fit")
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    assert isinstance(task, RegressionTask)
    return task


def test_targets_are_standardised_by_the_training_clips(tmp_path: Path) -> None:
    task = regression(tmp_path)
    numbers = [float(str(CASES["regress"].label(i))) for i, split in enumerate(SPLITS) if split == "train"]
    assert task.head.mean.item() == pytest.approx(np.mean(numbers))
    assert task.head.deviation.item() == pytest.approx(np.std(numbers))
    assert sorted(task.tags) == sorted(LOGGED["hopscotch.training.regress.RegressionTask"])
    assert {"model.head.mean", "model.head.deviation"} <= task.state_dict().keys()
    torch.nn.init.zeros_(task.head.linear.weight)
    torch.nn.init.constant_(task.head.linear.bias, 1.0)
    labels = torch.tensor([1000.0, 1070.0])
    batch = AudioBatch(torch.randn(2, 960), torch.tensor([960, 800]), labels, torch.arange(2), torch.arange(2))
    output = task.model(batch.waveform, batch.lengths)
    assert output.logits.flatten().tolist() == pytest.approx([np.mean(numbers) + np.std(numbers)] * 2)
    wanted = ((np.mean(numbers) + np.std(numbers) - labels.numpy()) / np.std(numbers)) ** 2
    assert task.losses(output, batch).tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


def test_labels_that_are_all_the_same_do_not_divide_by_nothing(tmp_path: Path) -> None:
    task = regression(tmp_path, lambda i: 3.5)
    assert (task.head.mean.item(), task.head.deviation.item()) == (3.5, 1.0)
