"""Noise in evaluation: of the level asked for, the same at every call and in any batch, and gone afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from hopscotch import conditions
from hopscotch.build import make_trainer
from hopscotch.conditions import TestBatches, passes, settings
from hopscotch.data.recordings import Recordings
from hopscotch.dearer import right_ones
from hopscotch.training.calibration import calibrate
from hopscotch.training.task import AudioTask
from tests.tiny import SAMPLE_RATE, build, tiny_config, write_tone


def noise_of(data, snr_db: float) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """(clip, its noise) by position in the split."""
    found = {}
    clean, noisy = (TestBatches(data, setting) for setting in settings(data.sample_rate, [snr_db]))
    for without, batch in zip(clean, noisy, strict=True):
        assert torch.equal(without.indices, batch.indices)
        for row, index in enumerate(batch.indices.tolist()):
            length = int(batch.lengths[row])
            clip = without.waveform[row, :length]
            found[index] = (clip, batch.waveform[row, :length] - clip)
    return found


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_noise_has_the_level_asked_for_and_does_not_depend_on_the_batch(
    tones: Path, tmp_path: Path, snr_db: float
) -> None:
    found = []
    for batch_size in (1, 3):
        _, data = build(tiny_config(tones, tmp_path, f"data.batch_size={batch_size}"))
        data.setup("test")
        found.append(noise_of(data, snr_db))
    for index, (clip, noise) in found[0].items():
        ratio = 10 * torch.log10(clip.square().mean() / noise.square().mean())
        assert ratio.item() == pytest.approx(snr_db, abs=1.0)  # a clip's noise has the power of noise in the mean
        assert torch.allclose(noise, found[1][index][1], atol=1e-6)
    assert not torch.allclose(found[0][0][1][:500], found[0][1][1][:500], atol=1e-3)


def test_recorded_noise_and_rooms_are_a_function_of_the_clip_and_its_split_alone(tones: Path, tmp_path: Path) -> None:
    write_tone(tmp_path / "kitchen" / "hum.wav", 90, 0.5)
    write_tone(tmp_path / "halls" / "one.wav", 900, 0.05)
    kitchen, halls = (Recordings(name, str(tmp_path / name), SAMPLE_RATE) for name in ("kitchen", "halls"))
    found: list[dict[int, list[torch.Tensor]]] = []
    for batch_size in (1, 3):
        _, data = build(tiny_config(tones, tmp_path, f"data.batch_size={batch_size}"))
        data.setup("test")
        found.append({})
        for setting in settings(SAMPLE_RATE, [6.0], kitchen, halls):
            for batch in TestBatches(data, setting):
                for row, index in enumerate(batch.indices.tolist()):
                    found[-1].setdefault(index, []).append(batch.waveform[row, : batch.lengths[row]])
    for index, (clean, heard, noisy) in found[0].items():
        noise = noisy - clean
        assert 10 * torch.log10(clean.square().mean() / noise.square().mean()) == pytest.approx(6.0, abs=0.01)
        assert torch.fft.rfft(noise, n=SAMPLE_RATE).abs().argmax().item() == pytest.approx(90, abs=4)  # Hz
        assert heard.square().mean().item() == pytest.approx(clean.square().mean().item(), rel=1e-4)
        assert not torch.allclose(heard, clean, atol=1e-2)
        for one, other in zip(found[0][index], found[1][index], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def make_passes(tones: Path, tmp_path: Path, *, seed: int = 0) -> tuple[AudioTask, list, list]:
    """The task, its state before, and what two budgets and one noise came to."""
    cfg = tiny_config(tones, tmp_path, "model=skip_transformer", f"seed={seed}")
    task, data = build(cfg)
    data.setup("test")
    task.eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer: Trainer = make_trainer(cfg.trainer, logger=False, enable_checkpointing=False)
    found = list(passes(task, data, trainer, [0.8, 1.0], [3.0]))
    return task, [before], found


def test_the_model_is_left_as_it_was(tones: Path, tmp_path: Path) -> None:
    task, (before,), found = make_passes(tones, tmp_path)
    assert [row.condition.requested for row in found] == [0.8, 0.8, 1.0, 1.0]
    assert found[0].condition.fraction < found[2].condition.fraction
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


def test_noise_is_the_same_at_every_call(tones: Path, tmp_path: Path) -> None:
    _, _, first = make_passes(tones, tmp_path)
    _, _, again = make_passes(tones, tmp_path)
    assert [row.condition for row in first] == [row.condition for row in again]
    assert torch.equal(first[1].evaluation.losses, again[1].evaluation.losses)
    assert not torch.equal(first[1].evaluation.losses, first[0].evaluation.losses)


@pytest.mark.parametrize(("asked", "num_passes"), [([0.76], 0), ([0.76, 1.0], 2), ([1.0, 0.76, 0.95], 3)])
def test_validation_clips_are_passed_over_as_trained_once_and_only_for_a_budget_above(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[float], num_passes: int
) -> None:
    def counted(task: AudioTask, batches: Any) -> Any:
        seen.append(float(task.model.decision_bias))
        return right_ones(task, batches)

    seen: list[float] = []
    monkeypatch.setattr(conditions, "right_ones", counted)
    cfg = tiny_config(tones, tmp_path, "model=skip_transformer")
    task, data = build(cfg)
    data.setup("test")
    calibrate(task.model, list(data.calibration_batches()), 0.8)
    trained = float(task.model.decision_bias)
    trainer = make_trainer(cfg.trainer, logger=False, enable_checkpointing=False)
    found = list(passes(task.eval(), data, trainer, asked, []))
    assert len(seen) == num_passes
    assert seen.count(trained) == min(1, num_passes)
    assert [one.dearer is not None for one in found] == [budget > 0.8 for budget in asked]
    assert all(one.dearer is None or one.dearer.fraction == one.condition.calibrated for one in found)


def test_budgets_are_met_on_validation_clips(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def met(model: Any, batches: Any, target: float) -> Any:
        seen.append(sorted(torch.cat([batch.lengths for batch in batches]).tolist()))
        return calibrate(model, batches, target)

    seen: list[list[int]] = []
    monkeypatch.setattr(conditions, "calibrate", met)
    cfg = tiny_config(tones, tmp_path, "model=skip_transformer")
    task, data = build(cfg)
    data.setup("test")
    trainer = make_trainer(cfg.trainer, logger=False, enable_checkpointing=False)
    list(passes(task.eval(), data, trainer, [0.9], []))
    lengths = {split: sorted(clip.num_samples for clip in data.clips[split]) for split in ("val", "test")}
    assert seen == [lengths["val"]] != [lengths["test"]]
