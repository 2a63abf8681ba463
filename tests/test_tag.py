"""tag.py: thresholds by class, and means over the classes that can be judged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_average_precision, binary_f1_score

from hopscotch.build import build_data, build_model, build_task
from hopscotch.config.compose import compose
from hopscotch.config.monitors import LOGGED
from hopscotch.training.callbacks import AveragedWeights, BestAndLast
from hopscotch.training.tag import OverClasses, TaggingTask, best_thresholds
from tests.test_tasks import CASES, typed, write_table
from tests.tiny import fit


def tagger(tmp_path: Path, *more: str):
    table = write_table(tmp_path / "tones", CASES["tag"].label)
    words = [word for word in typed(table, "task=tag", "model=dense", *more) if not word.startswith("hydra.")]
    cfg = compose(words)
    cfg.run_dir = str(tmp_path)
    data = build_data(cfg)
    data.setup("fit")
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    assert isinstance(task, TaggingTask)
    task.model.frontend.measure(data.statistics_batches())
    return cfg, task, data


def test_metrics_are_means_over_classes_that_some_clips_have_and_some_have_not() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.3, 0.6], [0.8, 0.9, 0.1]])
    targets = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1]])  # nobody has the second class, all have the third
    metric = OverClasses(binary_average_precision)
    metric.update(scores, targets)
    assert metric.compute() == pytest.approx(1.0)
    other = OverClasses(binary_average_precision)
    other.update(scores[:, 1:], targets[:, 1:])
    assert other.compute().isnan()


def test_a_threshold_is_the_middle_one_of_the_best_and_a_half_where_nothing_is_known() -> None:
    thresholds = torch.linspace(0, 1, 5)
    precision = torch.tensor([[0.5, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1]])
    recall = torch.tensor([[1, 1, 1, 1, 0, 0], [0.0] * 6])
    assert best_thresholds(precision, recall, thresholds).tolist() == [0.5, 0.5]
    recall[0, 2:4] = 0.2
    assert best_thresholds(precision, recall, thresholds).tolist() == [0.25, 0.5]


@pytest.mark.parametrize("averaged", [False, True])
def test_thresholds_of_the_best_f1_on_validation_clips_are_kept_in_the_checkpoint(
    tmp_path: Path, averaged: bool
) -> None:
    cfg, task, data = tagger(tmp_path, "trainer.max_epochs=2")
    best = BestAndLast(dirpath=str(tmp_path / "kept"), monitor="val/loss", filename="best")
    assert sorted(task.tags) == sorted(LOGGED[cfg.task._target_])
    trainer = fit(cfg, *([AveragedWeights(decay=0.5)] if averaged else []), best, built=(task, data))
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    kept = state["model.head.thresholds"]
    assert set(task.tags) <= set(trainer.callback_metrics)
    task.load_state_dict(state)
    task.eval()
    scores, targets = [], []
    with torch.no_grad():
        for batch in data.val_dataloader():
            scores.append(task.model(batch.waveform, batch.lengths).logits.sigmoid())
            targets.append(batch.labels.long())
    scores, targets = torch.cat(scores), torch.cat(targets)
    for one in range(len(data.classes)):
        found = [
            float(binary_f1_score(scores[:, one], targets[:, one], threshold=t)) for t in np.linspace(0, 0.99, 100)
        ]
        at = float(binary_f1_score((scores[:, one] >= kept[one]).float(), targets[:, one]))
        assert at == pytest.approx(max(found), abs=1e-6)
    assert not torch.equal(kept, torch.full_like(kept, 0.5))


def test_a_clip_that_has_a_class_weighs_as_the_balance_says(tmp_path: Path) -> None:
    _, task, data = tagger(tmp_path, "task.class_weights=balanced")
    labels = [clip.label for clip in data.clips["train"] if isinstance(clip.label, tuple)]
    counts = [sum(c in label for label in labels) for c in range(len(data.classes))]
    assert task.class_weights is not None
    assert task.class_weights.tolist() == pytest.approx([(12 - count) / count for count in counts])
    assert "class_weights" not in task.state_dict()
    (batch, *_) = data.val_dataloader()
    task.eval()
    output = task.model(batch.waveform, batch.lengths)
    plain = task.losses(output, batch)
    task.train()
    shares, one = output.logits.sigmoid().double(), batch.labels.double()
    wanted = -(task.class_weights * one * shares.log() + (1 - one) * (1 - shares).log()).mean(dim=1)
    assert task.losses(output, batch).tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    assert plain.tolist() != pytest.approx(wanted.tolist(), rel=1e-3)
