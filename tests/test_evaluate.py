"""One checkpoint, many budgets: what scripts/evaluate.py prints is what the model of the run does."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hopscotch.tasks.budget_curve import budget_curve

from hopscotch.evaluate import evaluate_budgets, load
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder


@pytest.fixture
def run(command: Command, tones: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    words = ["model=skip_transformer", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, f"hydra.run.dir={folder}"]
    assert command(*words).code == 0
    return folder


def test_a_loaded_run_is_the_model_that_was_tested(run: Path) -> None:
    import json

    _, task, data = load(run, [])
    summary = json.loads((run / "summary.json").read_text())
    batches = list(data.test_dataloader())
    outputs = [task.model(batch.waveform, batch.lengths) for batch in batches]
    correct = sum(int((o.logits.argmax(1) == b.labels).sum()) for o, b in zip(outputs, batches, strict=True))
    assert correct / len(data.clips["test"]) == pytest.approx(summary["test"]["acc"])
    macs = torch.cat([output.trace.macs for output in outputs])
    assert macs.double().mean().item() == pytest.approx(summary["compute"]["macs"])


def test_the_curve_is_kept_and_its_compute_rises_with_the_budget(run: Path) -> None:
    points = evaluate_budgets(run, ["compute.budget=[0.01,0.9,1.0]"])
    assert [point.requested for point in points] == [0.01, 0.9, 1.0]
    fractions = [point.fraction for point in points]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.85 < fractions[1] < 1.0
    assert points[-1].fraction == 1.0
    rows = list(csv.DictReader((run / "report" / "budgets.csv").read_text().splitlines()))
    assert [float(row["acc"]) for row in rows] == [point.acc for point in points]
    assert (run / "report" / "budgets.png").stat().st_size > 1000


def test_the_model_is_left_as_it_was(run: Path) -> None:
    _, task, data = load(run, [])
    before = {name: value.clone() for name, value in task.state_dict().items()}
    budget_curve(task.model, task.calibration_batches(data), list(data.test_dataloader()), [0.5, 1.0])
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "compute.budget must name a fraction"),
        (["compute.budgets=1"], "An override must be key=value with a key of"),
        (["nonsense"], "An override must be key=value with a key of"),
        (["compute.budget=[2.0]"], "compute.budget must be null, a fraction above 0 and up to 1, or a list of them"),
        (["data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_override_is_named(run: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_budgets(run, overrides)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be the folder of a run .* no config\.yaml there"):
        load(tmp_path, [])


def test_a_budget_given_to_training_is_refused(command: Command, tones: Path) -> None:
    typed: Any = command(*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "compute.budget=0.8")
    assert typed.code == 1
    assert "compute.budget must stay null in training, got 0.8" in typed.err
