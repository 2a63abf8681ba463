"""Two processes train and test as one does: every clip counts and decides the same, and nothing is written twice."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, check_same, fit, tiny_config, tiny_folder, weights


@pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes that Lightning launches")
def test_two_processes_train_as_one_and_report_all_clips(tones: Path, tmp_path: Path) -> None:
    how = ["model=skip_layer", "model.dropout=0", "trainer.max_epochs=2", "callbacks.average=null"]
    words = [*tiny_folder(tones), *TINY_MODEL, "trainer=ddp", "trainer.accelerator=cpu", *how]
    words += ["callbacks=quiet", "~logger", "trainer.enable_progress_bar=false"]
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), *words, f"hydra.run.dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    with (tmp_path / "run" / "report" / "clips.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["path"] for row in rows}) == summary["data"]["clips"]["test"]
    alone = weights(fit(tiny_config(tones, tmp_path / "alone", *how, "data.batch_size=8")))
    check_same(alone, torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"])
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert f"test acc           {right / len(rows):.4f}  (" in ended.stdout
    assert f", 95 % over {len(rows)} clips)" in ended.stdout
