"""What scripts say, and end with, when they are handed nothing to do."""

import argparse
import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hopscotch.system import PROJECT_ROOT
from scripts.studies.__main__ import VERBS
from scripts.studies.__main__ import main as studies
from scripts.studies.bench import suite
from scripts.studies.bench.table import Row


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a script with these words in this process: its exit code, and everything that it said."""

    def call(name: str, *words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        before, code = signal.getsignal(signal.SIGTERM), None
        try:
            runpy.run_path(str(PROJECT_ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        said = "".join(capsys.readouterr())
        return (1, f"{said}{code}") if isinstance(code, str) else (int(code or 0), said)

    return call


def test_a_study_without_a_finished_run_has_no_table(script, tmp_path: Path) -> None:
    code, said = script("study.py", "model=dense", "--table", "--out", tmp_path / "none")
    assert code == 1
    assert f"there is no finished run in {tmp_path / 'none'}" in said
    assert "study.md" not in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model=dense", "--lanes", "0"], 2, "--lanes must be at least 1, got 0"),
        (["model=dense", "--beside", "typo"], 1, "--beside must be the folder of a sweep, got typo: there is no such"),
        (["modle=dense"], 1, "Did you mean model?"),
        (["model=dense", "seed=1", "--quick"], 1, "--quick runs the jobs of seed=0"),
    ],
)
def test_a_study_that_cannot_be_is_refused(script, words: list[str], code: int, message: str) -> None:
    ended, said = script("study.py", *words)
    assert ended == code
    assert message in said


def test_a_sweep_and_a_run_that_are_not_there_are_named(script, tmp_path: Path) -> None:
    assert script("frontier.py", f"sweep={tmp_path / 'none'}")[1].endswith("none: there is no such folder.")
    assert "none: there is no such folder." in script("compare.py", tmp_path / "none")[1]


def test_a_table_of_clips_cannot_be_a_folder(script, tmp_path: Path) -> None:
    code, said = script("compare.py", tmp_path, "--out", tmp_path)
    assert code == 2
    assert said.endswith(f"error: --out must be a file, got the folder {tmp_path}\n")


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["compare.py", "."], "hopscotch.compare.compare_runs"),
        (["frontier.py", "sweep=a"], "hopscotch.sweep.report_folder"),
        (["study.py", "model=dense", "--table"], "scripts.studies.table.report_study"),
    ],
)
def test_a_full_disk_is_one_line(script, monkeypatch: pytest.MonkeyPatch, words: list[str], called: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(called, full)
    assert script(*words) == (1, "Error: [Errno 28] No space left on device")


def test_a_study_that_is_stopped_ends_its_jobs_and_says_nothing(script, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def run_jobs(*_: object):
        try:
            yield Path("a"), True, 1.0
            raise KeyboardInterrupt
        finally:
            ended.append(True)

    monkeypatch.setattr("scripts.studies.runner.run_jobs", run_jobs)
    assert script("study.py", "model=dense") == (130, "1 of 1     1.0 s  a\n")
    assert ended


def test_a_command_that_fails_names_its_log(script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    code, said = script("time_to_accuracy.py", "data.root=x", "--out", tmp_path / "a, b")
    assert (code, said.count("\n")) == (1, 0)
    assert said.endswith(f"train.py ended with 3, and said why in {tmp_path / 'a, b' / 'dense_0_1.log'}.")
    assert f'hydra.run.dir="{tmp_path / "a, b" / "dense_0_1"}"' in asked[0]


def test_a_timing_that_was_stopped_goes_on_with_the_runs_that_are_missing(
    script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        (word,) = (word for word in command if word.startswith("hydra.run.dir="))
        folder = Path(word.partition("=")[2].strip('"'))
        asked.append(folder.name)
        (folder / "report").mkdir(parents=True)
        if asked == ["dense_0_1", "learned_skip_0_1"]:  # the first time
            return subprocess.CompletedProcess(command, 1)
        (folder / "report" / "watch.csv").write_text("seconds,test_acc\n8,0.94\n16,0.97\n")
        status = "stopped" if folder.name == "learned_skip_0_2" else "finished"
        (folder / "summary.json").write_text(json.dumps({"status": status, "test": {"acc": 0.99}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    words = ["time_to_accuracy.py", "data.root=x", "--quick", "--out", tmp_path]
    assert script(*words)[0] == 1
    code, said = script(*words)
    assert code == 1
    assert f"{tmp_path / 'learned_skip_0_2'} must hold a finished run, it is stopped." in said
    code, said = script(*words)
    assert code == 0, said
    assert asked == ["dense_0_1", "learned_skip_0_1", "learned_skip_0_2", "learned_skip_0_3"]
    assert "| dense | 16.0 (16.0 to 16.0) | passed by 0 of 1 | 0.9900 | 1" in said
    code, said = script("time_to_accuracy.py", "data.root=y", "--quick", "--out", tmp_path)
    assert code == 1
    assert "was made with ['data.root=x'], not with ['data.root=y']" in said


def test_the_studies_name_their_verbs_and_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    studies([])
    said = capsys.readouterr().out
    assert [verb for verb in VERBS if f"    {verb} " not in said] == []
    with pytest.raises(SystemExit, match=r"the verb must be one of run, .*, got 'bench'\. Did you mean benchmark\?"):
        studies(["bench"])


def gpu_script(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(PROJECT_ROOT / "scripts" / "studies" / "gpu.sh"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs bash and coreutils")
def test_the_checks_on_a_gpu_take_at_most_twelve_minutes_and_their_commands_are_there(tmp_path: Path) -> None:
    done = gpu_script("--dry", tmp_path / "out")
    assert done.returncode == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["install", "machine", "tests", "train", "cpu", "gpu", "memory", "tables"]
    assert sum(int(limit) + 5 for _, limit, *_ in lines) <= 12 * 60  # five seconds more until one is killed
    modules = [words[words.index("-m", 3) + 1] for words in lines if "-m" in words]
    assert all(importlib.util.find_spec(module) for module in modules)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs bash and coreutils")
def test_a_stage_on_a_gpu_that_fails_stops_no_other_and_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "in $PWD: $2"\nexit 3\n')
    python.chmod(0o755)
    done = gpu_script(tmp_path / "out", PYTHON=str(python))
    head, _, *rows = (tmp_path / "out" / "stages.md").read_text().splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [(name, code) for name, code, *_ in cells if name != "machine"] == [
        (name, "3") for name in ("tests", "train", "cpu", "gpu", "memory", "tables")
    ]
    assert done.returncode == sum(code != "0" for _, code, *_ in cells)
    assert str(PROJECT_ROOT) not in (tmp_path / "out" / "stages.md").read_text()
    assert head.startswith("| stage |")


@pytest.mark.parametrize("name", ["benchmark", "compare", "predict", "study", "time_to_accuracy"])
def test_every_option_has_its_help(script, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda parser: options.extend(parser._actions))
    script(f"{name}.py", "--help")
    assert len(options) > 1
    assert [option.dest for option in options if option.option_strings and not option.help] == []


@pytest.mark.parametrize("most", [1.0, 3.0])
def test_a_benchmark_whose_bar_does_not_hold_ends_with_1(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    row = Row("a thing", 2.0, 1.5, 2.5, most, at_least=False, milliseconds=2.0, baseline_milliseconds=1.0)
    monkeypatch.setattr(suite, "ITEMS", {"thing": ""})
    monkeypatch.setattr(suite, "item", lambda _: lambda rounds, device: iter([row]))
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    code, said = script("benchmark.py", "--out", tmp_path / "out", "--json", tmp_path / "new" / "rows.json")
    assert code == (0 if most == 3.0 else 1)
    assert "a thing" in said
    assert '"holds": ' + ("true" if most == 3.0 else "false") in (tmp_path / "new" / "rows.json").read_text()
