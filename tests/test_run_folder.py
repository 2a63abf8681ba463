import json
import re
from pathlib import Path

import pytest

from hopscotch.report.run_folder import Kept, RunFolder, read_run

LINES = [
    {"step": 4, "epoch": 0, "train/loss": 3.0},
    {"step": 9, "epoch": 0, "val/loss": 2.0, "val/acc": 0.5},
    {"step": 9, "epoch": 0, "train/acc": 0.55},
    {"step": 19, "epoch": 1, "val/loss": 9.0, "val/acc": 0.1},  # before the kill
    {"step": 19, "epoch": 1, "val/loss": 1.0, "val/acc": 0.7},  # after the run was resumed
    {"step": 29, "epoch": 2, "val/loss": 1.5, "val/acc": None},
    {"step": 34, "epoch": 3, "train/loss": 0.5},
    {"step": 35, "epoch": 4, "test/acc": 0.6},
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    (tmp_path / "overrides.yaml").write_text("- model=dense\n- data.root=${now:x}\n")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"cut sho')
    return read_run(tmp_path)


def test_a_curve_has_a_value_per_step_and_the_later_line_is_true(run: RunFolder) -> None:
    assert run.curve("val/loss") == {9: 2.0, 19: 1.0, 29: 1.5}
    assert run.curve("val/acc") == {9: 0.5, 19: 0.7}
    assert run.last("val/acc") == 0.7
    assert run.last("val/f1") is None


def test_an_epoch_counts_from_its_validation_on(run: RunFolder) -> None:
    assert [epoch["epoch"] for epoch in run.epochs] == [0, 1, 2]
    tags = {"train/loss": 3.0, "val/loss": 2.0, "val/acc": 0.5, "train/acc": 0.55}
    assert run.epochs[0] == {"step": 9, "epoch": 0, **tags}


def test_which_validation_was_kept_is_read_and_never_guessed(run: RunFolder) -> None:
    assert run.kept is None
    kept = {"epoch": 1, "step": 20, "monitor": "val/acc", "value": 0.7}
    (run.path / "summary.json").write_text(json.dumps({"status": "finished", "kept": kept}))
    assert read_run(run.path).kept == Kept(1, 20, "val/acc", 0.7)


def test_what_is_not_there_is_empty_and_named(run: RunFolder) -> None:
    assert (run.config, run.overrides) == ({"seed": 3}, ["model=dense", "data.root=${now:x}"])
    assert (run.summary, run.clips, run.decision_value, run.budgets) == ({}, [], {}, [])
    assert [words.partition(" ")[0] for words in run.missing] == ["summary.json", "report/clips.csv"]
    assert run.status == "no summary"


@pytest.mark.parametrize(
    ("file", "name", "text", "rule"),
    [
        ("summary.json", "summary", "{", "must be JSON: it cannot be parsed (line 1)."),
        ("report/clips.csv", "clips", "path,label\na.wav,no\n", "must have a column compute, it has none."),
        ("config.yaml", "config", "a: [\n", "must be plain YAML"),
        ("report/decision_value.json", "decision_value", "x", "must be JSON: it cannot be parsed (line 1)."),
    ],
)
def test_a_broken_file_is_named(run: RunFolder, file: str, name: str, text: str, rule: str) -> None:
    (run.path / "report").mkdir()
    (run.path / file).write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{run.path / file} {rule}")):
        getattr(run, name)
