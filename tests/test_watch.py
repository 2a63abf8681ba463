"""The clock beside the test clips, epoch by epoch."""

import csv
import json
from pathlib import Path

import pytest

from scripts.studies.watch import COLUMNS
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder


@pytest.mark.parametrize("model", [pytest.param("dense", marks=pytest.mark.slow), "learned_skip"])
def test_the_best_epoch_is_watched_with_the_accuracy_that_the_run_ends_with(
    command: Command, tones: Path, tmp_path: Path, model: str
) -> None:
    folder = tmp_path / "run"
    words = [f"model={model}", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "callbacks=watch", "trainer.max_epochs=3"]
    assert command(*words, f"hydra.run.dir={folder}").code == 0
    rows = list(csv.DictReader((folder / "report" / "watch.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    seconds = [float(row["seconds"]) for row in rows]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    summary = json.loads((folder / "summary.json").read_text())
    assert float(best["test_acc"]) == pytest.approx(summary["test"]["acc"])
