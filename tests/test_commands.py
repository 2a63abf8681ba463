"""The command `hopscotch`: verbs, runs by name, and the same words in a checkout and in an installation."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hopscotch
from hopscotch import cli
from hopscotch.system import PROJECT_ROOT


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """Run the command with these words in this process: its exit code, and everything that it said."""

    def call(*words: object) -> tuple[int, str]:
        code: object = None
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        text = "".join(capsys.readouterr())
        return (1, f"{text}{code}") if isinstance(code, str) else (int(code or 0), text)  # pyright: ignore[reportArgumentType]

    return call


def make_run(folder: Path, started: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model:\n  name: dense\nseed: 3\n")
    summary = '{"status": "finished", "primary": {"name": "acc", "larger_is_better": true, "test": 0.5}'
    (folder / "summary.json").write_text(summary + ', "compute": {"fraction": 0.25}, "seconds": {"total": 90}}')
    os.utime(folder / "config.yaml", (started, started))
    return folder


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb != "train"])
def test_every_verb_says_what_it_does(said, verb: str) -> None:
    code, text = said(verb, "--help")
    assert code == 0
    assert f"hopscotch {verb}" in text
    assert f"hopscotch {verb}" in (cli.__doc__ or "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "Did you mean `hopscotch train`?"),
        (["model=dense"], "Did you mean `hopscotch train model=dense`?"),
        (["report", "nowhere"], "run must be the folder of a run, got nowhere: there is no such folder."),
        (["evaluate", "compute.budget=0.5"], "the run must come first: a folder, or latest; got compute.budget=0.5."),
        (["runs", "nowhere"], "runs needs a folder, got nowhere: there is none."),
        (["sweep", "a", "b"], "sweep needs one folder, got 2: a b."),
    ],
)
def test_a_wrong_word_is_one_line(said, words: list[str], message: str) -> None:
    code, text = said(*words)
    assert code == 1
    assert message in text
    assert text.count("\n") == 0


@pytest.mark.parametrize("verb", ["evaluate", "report", "explain", "sweep"])
def test_a_verb_without_words_shows_its_help(said, verb: str) -> None:
    code, text = said(verb)
    assert code == 2
    assert f"hopscotch {verb}" in text


def test_latest_is_the_newest_run_and_jobs_of_sweeps_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "outputs", lambda: tmp_path)
    with pytest.raises(ValueError, match="latest needs a run, and there is none in"):
        cli.find_run("latest")
    make_run(tmp_path / "old", 1000)
    job = make_run(tmp_path / "sweep" / "0_model-dense", 2000)
    assert cli.find_run("latest") == job
    assert cli.find_run("old") == tmp_path / "old"
    with pytest.raises(ValueError, match=r"Did you mean .*old\?"):
        cli.find_run("odl")


def test_a_run_may_be_given_first_or_by_its_key(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1000)
    assert cli.take_run([str(run), "x=1"]) == (run, ["x=1"])
    assert cli.take_run(["x=1", f"run={run}"]) == (run, ["x=1"])


def test_runs_are_listed_newest_first(said, tmp_path: Path) -> None:
    make_run(tmp_path / "old", 1000)
    make_run(tmp_path / "new", 2000)
    (tmp_path / "old" / "summary.json").write_text("{")
    code, text = said("runs", tmp_path)
    lines = text.splitlines()
    assert code == 0
    assert lines[1].split()[1:] == ["dense", "3", "finished", "acc", "0.5000", "0.250", "1.5", "new"]
    assert "cannot be read" in lines[2]
    assert lines[2].endswith("old")


def test_the_doctor_trains_a_few_steps_and_names_what_is_missing(said) -> None:
    code, text = said("doctor")
    assert code == 0, text
    assert "smoke run  12 steps of" in text
    assert "pip install 'hopscotch[" in text
    assert text.endswith("Next: hopscotch train model=learned_skip\n")


def test_a_broken_installation_ends_with_1(said, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("the loss must fall")

    monkeypatch.setattr("hopscotch.doctor.smoke", broken)
    code, text = said("doctor")
    assert code == 1
    assert "Error: The smoke run failed: RuntimeError: the loss must fall" in text


def test_public_names_are_those_of_the_layers() -> None:
    assert sorted(hopscotch._HOMES) == sorted(hopscotch.__all__)
    from hopscotch.layers.jump import SkipLayer
    from hopscotch.predict import load

    assert hopscotch.SkipLayer is SkipLayer
    assert hopscotch.load is load
    assert all(getattr(hopscotch, name).__doc__ for name in hopscotch.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Skip'"):
        hopscotch.Skip  # noqa: B018


def test_the_package_loads_nothing_before_a_name_is_read() -> None:
    code = "import sys, hopscotch, hopscotch.cli; print(sorted({'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("file", ["train.py", *(f"scripts/{verb}.py" for verb in ("evaluate", "predict", "report"))])
def test_a_script_only_hands_its_words_on(file: str) -> None:
    tree = ast.parse((PROJECT_ROOT / file).read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_bash_completes_verbs_choices_and_keys(tmp_path: Path) -> None:
    command = tmp_path / "hopscotch"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hopscotch "$@"\n')
    command.chmod(0o755)
    script = """
    eval "$(hopscotch completion)"
    complete_line() {
        COMP_LINE="$1" COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _hopscotch 2>/dev/null; echo "${COMPREPLY[@]}"
    }
    complete_line "hopscotch pre"
    complete_line "hopscotch train model=skip_l"
    complete_line "hopscotch train model=dense trainer.max_ep"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(PROJECT_ROOT / "src")}
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    verbs, choices, keys = found.stdout.splitlines()
    assert verbs == "predict"
    assert choices.split() == ["model=skip_layer", "model=skip_layer_plain"]
    assert keys == "trainer.max_epochs="
