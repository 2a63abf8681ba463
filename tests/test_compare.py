"""Runs side by side: who is a column, what differs, which clips decide."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hopscotch.compare import (
    columns_of,
    compare_runs,
    config_differences,
    paired_differences,
    read_run,
    voices,
    why_not_paired,
)
from hopscotch.disagreements import disagreements, verdict_of
from hopscotch.report.clips import ClipRow, write_clips
from hopscotch.report.summary import write_summary

LABELS = ("yes", "no", "yes", "no")


def clip(name: str, label: str, prediction: str, confidence: float = 0.8, seconds: float = 1.0) -> ClipRow:
    rows = {"label": label, "prediction": prediction, "confidence": confidence}
    return ClipRow(name, rows, 0.5, [1], [], "x", [1.0], 0.1, 5, 10, seconds=seconds, decibels=-20.0)


def write_run(
    folder: Path, said: Sequence[str], *, seed: int = 0, dim: int = 8, names: str = "abcd", **changes: str
) -> Path:
    """A finished run that predicted `said`; `changes` are keys of its configuration."""
    config = {
        "run_dir": str(folder),
        "seed": seed,
        "model": {"name": "m", "dim": dim},
        "callbacks": {
            "keep": {"dirpath": f"{folder}/checkpoints"},
            "dashboard": {"hparams": {"seed": seed, "dim": dim}},
        },
    }
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({**config, **changes}), folder / "config.yaml")
    accuracy = sum(a == b for a, b in zip(said, LABELS, strict=True)) / len(LABELS)
    write_summary(
        folder,
        status="finished",
        model="m",
        seed=seed,
        test={"acc": accuracy, "loss": 0.5},
        compute={"fraction": 0.5, "macs": 2e6, "dense_macs": 4e6, "floor": 0.1},
        parameters=1000,
        seconds={"to_first_step": 1.0, "fit": 8.0 + seed, "total": 10.0},
    )
    rows = [
        clip(name, label, word, confidence=0.9 - 0.1 * place)
        for place, (name, label, word) in enumerate(zip(names, LABELS, said, strict=True))
    ]
    write_clips(rows, folder / "report" / "clips.csv")
    return folder


def test_runs_that_differ_in_the_seed_alone_are_one_column(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "x", LABELS, seed=1),
        write_run(tmp_path / "y", LABELS, dim=16),
        write_run(tmp_path / "z", LABELS, seed=0),
    ]
    columns = columns_of([read_run(run) for run in runs])
    assert [[run.folder.name for run in column.runs] for column in columns] == [["z", "x"], ["y"]]
    assert config_differences(columns) == [("model.dim", ["8", "16"])]


def test_a_key_that_one_configuration_lacks_differs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "x", LABELS), write_run(tmp_path / "y", LABELS, extra="on")]
    assert config_differences(columns_of([read_run(run) for run in runs])) == [("extra", ["-", "on"])]


def test_accuracy_is_compared_clip_by_clip_and_over_seeds(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a0", ("yes", "no", "no", "yes"), seed=0),  # 1 1 0 0
        write_run(tmp_path / "a1", ("yes", "no", "yes", "yes"), seed=1),  # 1 1 1 0
        write_run(tmp_path / "b", LABELS, dim=16),  # 1 1 1 1
    ]
    ((letter, interval),) = paired_differences(columns_of([read_run(run) for run in runs]))
    assert letter == "B"
    assert interval.value == pytest.approx((0 + 0 + 0.5 + 1) / 4)
    assert 0 <= interval.low < interval.value < interval.high <= 1


def test_the_clips_that_differ_are_those_of_a_plain_comparison_surest_first(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", ("yes", "no", "no", "yes"))
    second = write_run(tmp_path / "b", ("no", "no", "yes", "no"), dim=16)
    found = disagreements([column.clips for column in columns_of([read_run(first), read_run(second)])])
    assert [row.path for row in found] == ["a", "c", "d"]
    assert [verdict.prediction for verdict in found[0].verdicts] == ["yes", "no"]


def test_a_column_of_seeds_votes_and_the_surer_half_wins_a_tie() -> None:
    rows = [clip("a", "x", "x", 0.6), clip("a", "x", "y", 0.9), clip("a", "x", "x", 0.7)]
    assert verdict_of(rows) == ("x", pytest.approx(0.65), 0.5, "2/3")
    assert verdict_of(rows[:2])[0::3] == ("y", "1/2")


def test_seeds_alone_disagree_with_each_other(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", LABELS), write_run(tmp_path / "b", ("no", *LABELS[1:]), seed=1)]
    columns = columns_of([read_run(run) for run in runs])
    assert len(columns) == 1
    assert [row.path for row in disagreements([column.clips for column in voices(columns)])] == ["a"]


def test_the_comparison_is_printed_and_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        write_run(tmp_path / "a0", ("yes", "no", "no", "yes"), seed=0),
        write_run(tmp_path / "a1", ("yes", "no", "yes", "yes"), seed=1),
        write_run(tmp_path / "b", LABELS, dim=16),
    ]
    compare_runs(runs, tmp_path / "new" / "clips.csv")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "test acc 0.6250 (0.5000 to 0.7500) 1.0000" in lines
    assert "seconds of training 8.5 (8.0 to 9.0) 8.0" in lines
    assert "model.dim 8 16" in lines
    assert any(line.startswith("accuracy of B minus A on the same clips +0.375 (") for line in lines)
    assert lines[-2:] == ["2 of 4 clips get different labels", str(tmp_path / "new" / "clips.csv")]
    rows = list(csv.DictReader((tmp_path / "new" / "clips.csv").read_text().splitlines()))
    assert [(row["path"], row["label"], row["prediction A"], row["prediction B"], row["votes A"]) for row in rows] == [
        ("c", "yes", "no", "yes", "1/2"),
        ("d", "no", "yes", "no", "2/2"),
    ]


def test_other_test_clips_are_refused_with_the_reason_and_figures_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "a", LABELS), write_run(tmp_path / "b", LABELS, dim=16, names="abxy")]
    compare_runs(runs, None)
    out = " ".join(capsys.readouterr().out.split())
    assert "test acc 1.0000 1.0000" in out
    assert f"not the same: 4 in {runs[0]}, 4 in {runs[1]}, 2 in both." in out
    assert "different labels" not in out
    with pytest.raises(ValueError, match="--out has nothing to write: the test clips are not the same"):
        compare_runs(runs, tmp_path / "out.csv")


def test_clips_of_the_same_name_with_other_labels_or_lengths_are_not_the_same(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, LABELS, dim=dim) for name, dim in (("a", 8), ("b", 16), ("c", 32))]
    rows = [clip(name, label, label) for name, label in zip("abcd", LABELS, strict=True)]
    write_clips(
        [rows[0]._replace(rows={**rows[0].rows, "label": "maybe"}), *rows[1:]], runs[1] / "report" / "clips.csv"
    )
    write_clips([rows[0]._replace(seconds=3.0), *rows[1:]], runs[2] / "report" / "clips.csv")
    a, b, c = map(read_run, runs)
    assert "a is yes in" in (why_not_paired(columns_of([a, b])) or "")
    assert "a has 1 s in" in (why_not_paired(columns_of([a, c])) or "")
    (runs[2] / "report" / "clips.csv").unlink()
    assert why_not_paired(columns_of([a, read_run(runs[2])])) == f"{runs[2]} has no clips.csv in its report."


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    good, bare = write_run(tmp_path / "a", LABELS), tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(ValueError, match=r"^A run to compare must be .*bare: no summary.json there.$"):
        compare_runs([good, bare], None)
    with pytest.raises(ValueError, match=r"none: there is no such folder.$"):
        compare_runs([good, tmp_path / "none"], None)
    write_summary(good, status="failed", model="m", seed=0, error="ValueError: x")
    with pytest.raises(ValueError, match=r"it failed before its test \(ValueError: x\)"):
        compare_runs([good, good], None)


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", LABELS)
    with pytest.raises(ValueError, match="two different runs"):
        compare_runs([run, run / ".." / "a"], None)


def test_runs_are_compared_by_their_evaluations_where_that_is_asked(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name, LABELS, dim=dim) for name, dim in (("x", 8), ("y", 16)))
    said = {
        first: ("yes", "no", "no"),
        second: ("yes", "yes", "yes"),
    }  # 1 1 0, 1 0 1: other clips than those of the test
    for run, words in said.items():
        folder = run / "report" / "evaluation"
        write_clips([clip(f"new{i}", LABELS[i], word) for i, word in enumerate(words)], folder / "clips.csv")
        metrics = {"test": {"acc": 2 / 3, "loss": 0.7}, "compute": {"fraction": 0.25, "macs": 1e6, "dense_macs": 4e6}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    columns = columns_of([read_run(run, evaluated=True) for run in said])
    assert [column.runs[0].summary["compute"]["fraction"] for column in columns] == [0.25, 0.25]
    assert [row.path for row in columns[0].runs[0].clips or ()] == ["new0", "new1", "new2"]
    ((_, interval),) = paired_differences(columns)
    assert interval.value == pytest.approx(0.0)
    assert read_run(first).summary["compute"]["fraction"] == 0.5
    third = write_run(tmp_path / "z", LABELS)
    with pytest.raises(ValueError, match=r"z has not been evaluated: hopscotch evaluate .*z$"):
        read_run(third, evaluated=True)
