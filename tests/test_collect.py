from pathlib import Path

import pytest
import torch

from hopscotch.report.collect import gather, gather_everywhere, joined
from hopscotch.report.tensorboard import SkipDashboard
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace, Step
from tests.hand_made import FourClips, Replay, both_trace, jump_trace, make_trainer, stride_trace


def step(indices: list[int], losses: list[float]) -> Step:
    rows = torch.tensor(indices)
    batch = AudioBatch(torch.zeros(4, 8), torch.full((4,), 8), labels=rows % 2, indices=rows, keys=rows)
    logits = torch.tensor([[1.0, 0.0]] * 4)
    output = ModelOutput(logits, both_trace(), {1: torch.tensor(0.5)}, frontend_macs=0 * rows, positions=rows)
    told = {"label": batch.labels, "prediction": 0 * rows}
    return Step(torch.tensor(losses), output, batch, (logits, batch.labels), told)


def test_batches_come_back_as_one_table_in_the_order_of_the_split() -> None:
    evaluation = gather([step([7, 5, 3, 1], [0.7, 0.5, 0.3, 0.1]), step([0, 2, 4, 6], [0.0, 0.2, 0.4, 0.6])])
    assert evaluation.indices.tolist() == list(range(8))
    torch.testing.assert_close(evaluation.losses, torch.arange(8) / 10)
    # Clip 7 was the first row of its batch, clip 1 the last.
    torch.testing.assert_close(evaluation.trace.strides[7], both_trace().strides[0])
    torch.testing.assert_close(evaluation.trace.strides[1], both_trace().strides[3])
    assert evaluation.rows["label"].tolist() == [0, 1] * 4
    assert evaluation.is_wrong.tolist() == [False, True] * 4
    assert evaluation.thresholds == {1: 0.5}


def test_compute_fraction_is_a_ratio_of_sums() -> None:
    assert gather([step([0, 1, 2, 3], [0.0] * 4)]).compute_fraction == pytest.approx((90 + 50 + 60 + 80) / 400)


def test_joined_traces_keep_every_clip() -> None:
    joined = SkipTrace.kept([stride_trace(), jump_trace()])
    torch.testing.assert_close(joined.macs, torch.cat([stride_trace().macs, jump_trace().macs]))
    assert joined.summary is None
    assert joined.histories == [[], [], [], [], [], [2], [2], []]


def test_evaluations_of_several_processes_are_one_with_each_clip_once() -> None:
    shares = ([0, 2, 4, 6], [1, 3, 5, 0])  # clip 0 was given twice, to fill the last batch
    parts = [gather([step(indices, [index / 10 for index in indices])]) for indices in shares]
    whole = joined(parts)
    assert whole.indices.tolist() == list(range(7))
    torch.testing.assert_close(whole.losses, torch.arange(7) / 10)
    torch.testing.assert_close(whole.trace.strides[4], parts[0].trace.strides[2])
    torch.testing.assert_close(whole.trace.strides[5], parts[1].trace.strides[3])
    assert whole.rows["label"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert whole.thresholds == parts[0].thresholds


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_steps_of_the_last_test_are_those_that_the_task_keeps(tmp_path: Path) -> None:
    trainer, task = make_trainer(tmp_path, callbacks=[SkipDashboard(pictures=False)]), Replay(jump_trace())
    trainer.fit(task, datamodule=FourClips())
    trainer.test(task, datamodule=FourClips(), verbose=False)
    assert gather_everywhere(task.steps["test"]).trace.jumps.tolist() == jump_trace().jumps.tolist()


def test_classes_are_places_and_a_number_is_no_class() -> None:
    evaluation = gather([step([0, 1, 2, 3], [0.0] * 4)])
    assert evaluation.has_classes
    evaluation.rows["prediction"] = evaluation.rows["prediction"].float()
    assert not evaluation.has_classes
