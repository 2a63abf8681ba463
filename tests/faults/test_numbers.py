"""What is not finite is not learnt from, not kept, not said, and told with its clips."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hopscotch.predict import load
from hopscotch.run import attempt
from hopscotch.training.checkpoint import read_checkpoint
from hopscotch.training.task import AudioTask
from hopscotch.training.whole import not_finite
from hopscotch.types import AudioBatch, ModelOutput
from tests.faults.children import config, differing, train
from tests.small_models import classifier
from tests.tiny import build, fit, tiny_config, weights, write_tones

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("model=dense", "trainer.max_epochs=2", "callbacks.checkpoint.every_steps=1")


def losing(steps: range, where: str = "loss") -> Callable[[], None]:
    """Make the loss, or its gradient alone, NaN at some steps."""

    def arrange() -> None:
        measure = AudioTask.training_step

        def training_step(self: AudioTask, *arguments: Any) -> Any:
            found = measure(self, *arguments)
            if self.global_step in steps:
                bias = classifier(self.model).bias
                if where == "loss":
                    found["loss"] = found["loss"] * torch.nan
                    self.guard._batches[-1] = (found["loss"].detach(), *self.guard._batches[-1][1:])
                else:
                    bias.register_hook(lambda gradient: gradient * torch.nan)
            return found

        AudioTask.training_step = training_step  # type: ignore[method-assign]

    return arrange


@pytest.mark.parametrize(("where", "steps"), [("loss", range(3, 5)), ("loss", range(7, 8))])
def test_a_step_that_is_not_finite_is_not_taken(tones: Path, tmp_path: Path, where: str, steps: range) -> None:
    """Also not the last one before a validation."""
    run = tmp_path / "run"
    ended = train(config(tones, run, *WORDS), losing(steps, where))
    assert ended.code == 0, ended.said
    for step in steps:
        assert f"Step {step} is not finite: its {where} is nan. It is not taken; clips: " in ended.said
    assert json.loads((run / "summary.json").read_text())["steps_left_out"] == len(steps)
    for path in (run / "checkpoints").glob("*.ckpt"):
        assert list(not_finite(read_checkpoint(path))) == []


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_run_fails_at_so_many_in_a_row(tones: Path, tmp_path: Path, where: str) -> None:
    run = tmp_path / "run"
    ended = train(config(tones, run, *WORDS, "trainer.nonfinite_patience=3"), losing(range(2, 100), where))
    assert ended.code == 1
    assert f"Error: Step 4 is not finite: its {where} is nan, and with it 3 steps in a row" in ended.said
    assert "Traceback" not in ended.said
    found = json.loads((run / "summary.json").read_text())
    assert found["status"] == "failed"
    assert list(not_finite(read_checkpoint(run / "checkpoints" / "last.ckpt"))) == []


def test_a_step_that_is_left_out_changes_no_weight(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config(tones, tmp_path, "model=skip_layer", "trainer.max_steps=4")
    task, data = build(cfg)
    measure, seen = task.losses, []

    def losses(output: ModelOutput, batch: AudioBatch) -> Tensor:
        if task.training and task.global_step == 2:
            seen.append({name: value.clone() for name, value in task.named_parameters()})
        found = measure(output, batch)
        return found * torch.nan if task.training and task.global_step == 2 else found

    taken = AudioTask.optimizer_step

    def optimizer_step(self: AudioTask, *arguments: Any, **options: Any) -> None:
        before = self.global_step
        taken(self, *arguments, **options)
        if before == 2:
            seen.append({name: value.clone() for name, value in task.named_parameters()})

    monkeypatch.setattr(task, "losses", losses)
    monkeypatch.setattr(AudioTask, "optimizer_step", optimizer_step)
    trainer = fit(cfg, built=(task, data))
    assert all(torch.equal(value, seen[-1][name]) for name, value in seen[0].items())
    assert all(bool(value.isfinite().all()) for value in weights(trainer).values())
    assert (task.guard.num_left_out, task.guard.in_a_row) == (1, 0)


def test_predictions_that_are_not_finite_fail_a_validation(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, *WORDS[:2])
    task, data = build(cfg)
    measure = task.losses
    task.losses = lambda output, batch: measure(output, batch) * (1.0 if task.training else torch.nan)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"Predictions must be finite, those of 3 of 3 val clips are not: .*high/"):
        fit(cfg, built=(task, data))


def test_a_prediction_that_is_not_finite_is_an_error(trained: Path, tones: Path) -> None:
    model = load(trained)
    classifier(model.model).bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="Predictions must be finite"):
        list(model.predict([next(tones.rglob("*.wav"))]))


def test_a_test_clip_that_cannot_be_decoded_is_found_before_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import soundfile

    root = write_tones(tmp_path / "tones")
    for name in ("train", "val", "test"):
        for label in ("high", "low", "middle"):
            (root / name).mkdir(exist_ok=True)
            (root / name / label).mkdir()
            (root / label / sorted(os.listdir(root / label))[0]).rename(root / name / label / "0.wav")
    for label in ("high", "low", "middle"):
        for path in (root / label).iterdir():
            path.unlink()
        (root / label).rmdir()
    soundfile.write(root / "test" / "low" / "0.wav", np.full(800, np.nan, dtype=np.float32), 8000, subtype="FLOAT")
    monkeypatch.setattr("hopscotch.run.fit_and_test", lambda *_: pytest.fail("training has begun"))
    assert (
        attempt(tiny_config(root, tmp_path / "run", *WORDS), tmp_path / "run", [], 0.0, is_job=False)["status"]
        == "failed"
    )
    assert "test/low/0.wav" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_names_file_and_size_and_the_run_goes_on_afterwards(tones: Path, tmp_path: Path) -> None:
    def full() -> None:
        sync, calls = os.fsync, []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > 12:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        os.fsync = fsync

    run = tmp_path / "run"
    ended = train(config(tones, run, *WORDS), full)
    assert ended.code == 1
    assert "Error: " in ended.said
    assert ".ckpt cannot be written: No space left on device. It has " in ended.said
    assert "Traceback" not in ended.said
    assert train(config(tones, run, *WORDS)).code == 0
    assert train(config(tones, tmp_path / "whole", *WORDS)).code == 0
    assert differing(run, tmp_path / "whole") == []
