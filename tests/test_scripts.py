"""What scripts say, and end with, when they are handed nothing to do."""

import runpy
import signal
from pathlib import Path

import pytest

from hopscotch.bench import suite
from hopscotch.bench.table import Row
from hopscotch.venv import PROJECT_ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a script with these words in this process: its exit code, and everything that it said."""

    def call(name: str, *words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(PROJECT_ROOT / "scripts" / name), run_name="__main__")
        finally:
            signal.signal(signal.SIGTERM, before)
        code = end.value.code
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
    assert script("compare.py", tmp_path / "none")[1].endswith("none: there is no such folder.")


@pytest.mark.parametrize("most", [1.0, 3.0])
def test_a_benchmark_whose_bar_does_not_hold_ends_with_1(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    row = Row("a thing", 2.0, 1.5, 2.5, most, at_least=False, milliseconds=2.0, baseline_milliseconds=1.0)
    monkeypatch.setattr(suite, "ITEMS", {"thing": lambda rounds, device: iter([row])})
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    code, said = script("benchmark.py", "--out", tmp_path / "out", "--json", tmp_path / "rows.json")
    assert code == (0 if most == 3.0 else 1)
    assert "a thing" in said
    assert '"holds": ' + ("true" if most == 3.0 else "false") in (tmp_path / "rows.json").read_text()
