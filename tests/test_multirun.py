"""A sweep: every job has its say, whatever becomes of the others."""

import json
import re
from pathlib import Path

import pytest

import hopscotch.run
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder

SWEEP = ["-m", "hydra/launcher=basic", *TINY_MODEL, *TINY_RUN, "hydra.sweep.dir=all"]


def ledger() -> list[dict]:
    return [json.loads(line) for line in Path("all/sweep.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_job_that_fails_stops_no_other(command: Command, tones: Path, tmp_path: Path) -> None:
    typed = [*SWEEP, *tiny_folder(tones), "model=dense,learned_skip", "compute.target=auto,0.01"]
    ended = command(*typed)
    assert ended.code == 1
    jobs = ledger()
    assert [(job["model"], job["status"]) for job in jobs] == [
        ("dense", "finished"),
        ("dense", "failed"),
        ("learned_skip", "finished"),
        ("learned_skip", "failed"),
    ]
    assert "has no meaning for model=dense" in jobs[1]["error"]
    assert "the floor of learned_skip" in jobs[3]["error"]
    for job in jobs:
        assert json.loads((tmp_path / "all" / job["folder"] / "summary.json").read_text())["status"] == job["status"]
    assert ended.err.count("Error: ") == 2
    assert "All jobs" in ended.out
    assert "2 of 4 jobs failed" in ended.out
    assert ended.out.splitlines()[-1] == str(tmp_path / "all") or ended.out.splitlines()[-1] == "all"


def test_a_sweep_without_a_failure_ends_with_exit_code_0_and_counts_the_seconds_of_each_job(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hopscotch.run, "STARTED", hopscotch.run.STARTED - 1000)
    ended = command(*SWEEP, *tiny_folder(tones), "model=skip_attention", "seed=0,1")
    assert ended.code == 0, ended.err
    jobs = ledger()
    assert [job["seed"] for job in jobs] == [0, 1]
    for seconds in (job["seconds"] for job in jobs):
        assert seconds["to_first_step"] < seconds["total"] < 500  # not counted from the start of the process
    assert "Means over seeds" in ended.out
    lines = ended.out.splitlines()
    assert [line for line in lines if re.match(r"job \d", line)] == ["job 1 of 2: seed=0", "job 2 of 2: seed=1"]
    assert lines[lines.index("job 2 of 2: seed=1") - 1] == ""
    assert lines[lines.index("job 2 of 2: seed=1") + 1].startswith("skip_attention: ")
    assert {"frontier.csv", "frontier.png", "sweep.jsonl"} <= {path.name for path in Path("all").iterdir()}


def test_the_same_command_goes_on_with_a_job_that_was_stopped_and_tries_one_that_failed_again(
    command: Command, tones: Path, tmp_path: Path
) -> None:
    words = [*SWEEP, *tiny_folder(tones), "model=dense", "compute.target=auto,0.01", "trainer.max_epochs=2"]
    assert command(*words).code == 1
    stopped = tmp_path / "all" / ledger()[0]["folder"]
    told = json.loads((stopped / "summary.json").read_text())
    (stopped / "summary.json").write_text(json.dumps(told | {"status": "stopped", "test": None}))
    steps = (stopped / "metrics.jsonl").read_text().count('"train/loss"')
    ended = command(*words)
    assert ended.code == 1
    assert "going on from step 8, " in ended.out
    assert [job["status"] for job in ledger()] == ["finished", "failed", "finished", "failed"]
    assert "has no meaning for model=dense" in ledger()[3]["error"]  # not that its folder is taken
    assert (stopped / "metrics.jsonl").read_text().count('"train/loss"') == steps  # nothing was trained twice
