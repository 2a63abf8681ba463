"""Models are timed in turn, on the same clips, each with the bias of its budget."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from hopscotch import latency
from hopscotch.conditions import settings
from hopscotch.latency import Case, Milliseconds, in_turn, summed
from hopscotch.models.audio_model import AudioModel
from hopscotch.types import AudioBatch
from tests.tiny import build, tiny_config


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def test_each_clip_goes_through_all_models_before_the_next_one(
    trainer: Trainer, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=dense"))
    data.setup("test")
    calls: list[tuple[float, int, float]] = []  # bias, clips, how loud they are

    def seconds_of(model: AudioModel, batch: AudioBatch) -> float:
        calls.append((float(model.decision_bias), len(batch.lengths), float(batch.waveform.abs().sum())))
        return 0.001 * len(calls)

    monkeypatch.setattr(latency, "seconds_of", seconds_of)
    clean, noisy = settings(data.sample_rate, [0.0])
    task.model.decision_bias.fill_(7.0)
    cases = [Case(task.model, bias, data, one) for bias, one in ((1.0, clean), (2.0, clean), (2.0, noisy))]
    times = in_turn(cases, trainer)
    assert [(bias, clips) for bias, clips, _ in calls[3:12]] == 3 * [(1.0, 1), (2.0, 1), (2.0, 1)]
    assert [(bias, clips) for bias, clips, _ in calls[12:]] == 3 * [(1.0, 3), (2.0, 3), (2.0, 3)]
    assert calls[3][2] == calls[4][2] < calls[5][2]  # as it is, and in noise
    assert calls[3][2] != calls[6][2]
    assert (times[0].p50, times[2].p99) == (pytest.approx(7.0), pytest.approx(12.0))  # the 7th call and the 12th
    assert [one.batch for one in times] == pytest.approx([16 / 3, 17 / 3, 18 / 3])
    assert float(task.model.decision_bias) == 7.0


def test_no_further_clip_begins_after_the_time_is_over(
    trainer: Trainer, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=dense"))
    data.setup("test")
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    (one,) = in_turn([Case(task.model, 0.0, data, settings(data.sample_rate, [])[0])], trainer)
    assert (one.clips, one.batch_size) == (1, 3)
    assert min(one[:4]) > 0


def test_quantiles_are_those_of_single_clips_and_the_batch_counts_by_clip() -> None:
    found: Any = summed([number / 1000 for number in range(100, 0, -1)], [0.064, 0.032, 3.2], 32)
    assert found == Milliseconds(50.0, 95.0, 99.0, 2.0, 100, 32)
    assert found.cells == {"ms, p50": "50.00", "p95": "95.00", "p99": "99.00", "batch of 32": "2.00"}
