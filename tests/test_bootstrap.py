"""The set-up script's decisions, without a network and without a virtual environment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bootstrap

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a blank in its path, that looks like a checkout with a finished `.venv`."""
    root = tmp_path / "my clone"
    python = root / ".venv" / bootstrap.BIN
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (root / ".venv" / "pyvenv.cfg").write_text("version = 3.11.7\n")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("torch==2.11.0\n")
    bootstrap.write_stamp(root / ".venv", bootstrap.wanted_stamp(root))
    return root


def test_a_finished_venv_needs_nothing(checkout: Path) -> None:
    assert bootstrap.read_stamp(checkout / ".venv") == bootstrap.wanted_stamp(checkout)
    assert bootstrap.must_be_made(checkout / ".venv") == ""


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_the_stamp_changes_with_the_pins_and_the_python(checkout: Path, name: str) -> None:
    before = bootstrap.wanted_stamp(checkout)
    (checkout / name).write_text("something else\n")
    assert bootstrap.wanted_stamp(checkout) != before


def test_changed_pins_keep_the_venv(checkout: Path) -> None:
    (checkout / "constraints.txt").write_text("torch==2.12.0\n")
    assert bootstrap.must_be_made(checkout / ".venv") == ""


def test_a_venv_made_by_hand_is_kept(checkout: Path) -> None:
    (checkout / ".venv" / bootstrap.STAMP).unlink()
    assert bootstrap.read_stamp(checkout / ".venv") == ""
    assert bootstrap.must_be_made(checkout / ".venv") == ""


def test_an_interrupted_set_up_is_made_again(checkout: Path) -> None:
    bootstrap.write_stamp(checkout / ".venv", bootstrap.UNFINISHED)
    assert bootstrap.must_be_made(checkout / ".venv") == "an earlier call did not finish"


def test_an_update_that_fails_keeps_what_was_there(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(lock: int) -> None:
        assert (checkout / ".venv" / bootstrap.STAMP).read_text() == bootstrap.UNFINISHED
        raise bootstrap.Refusal("no network")

    before = bootstrap.read_stamp(checkout / ".venv")
    (checkout / "constraints.txt").write_text("torch==2.12.0\n")
    monkeypatch.setattr(bootstrap, "ROOT", checkout)
    monkeypatch.setattr(bootstrap, "VENV", checkout / ".venv")
    monkeypatch.setattr(bootstrap, "install", no_network)
    with pytest.raises(bootstrap.Refusal, match="no network"):
        bootstrap.set_up(0)
    assert bootstrap.read_stamp(checkout / ".venv") == before
    assert bootstrap.must_be_made(checkout / ".venv") == ""


@pytest.mark.parametrize("lost", ["pyvenv.cfg", bootstrap.BIN])
def test_a_venv_without_its_parts_is_made_anew(checkout: Path, lost: str) -> None:
    (checkout / ".venv" / lost).unlink()
    assert bootstrap.must_be_made(checkout / ".venv") == "it is not complete"
    assert bootstrap.wanted_stamp(checkout) != bootstrap.read_stamp(checkout / ".venv")


def test_a_venv_whose_python_is_gone_is_made_anew(checkout: Path) -> None:
    python = checkout / ".venv" / bootstrap.BIN
    python.unlink()
    python.symlink_to(checkout / "gone")
    assert bootstrap.must_be_made(checkout / ".venv") == "it is not complete"


def test_a_moved_checkout_is_made_anew(checkout: Path) -> None:
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert bootstrap.read_stamp(moved / ".venv") != bootstrap.wanted_stamp(moved)
    assert bootstrap.must_be_made(moved / ".venv") == "it was made in another folder"


def test_a_missing_venv_is_made(tmp_path: Path) -> None:
    assert bootstrap.must_be_made(tmp_path / ".venv") == "there is none"


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("tset", "Did you mean `test`?"),
        ("trian", "Did you mean `train`?"),
        ("model=learned_skip", "Did you mean `train model=learned_skip`?"),
        ("zzz", "none only sets up."),
    ],
)
def test_an_unknown_verb_is_refused_with_the_nearest(verb: str, hint: str) -> None:
    with pytest.raises(bootstrap.Refusal, match=rf"unknown verb '{verb}'.*{re.escape(hint)}$"):
        bootstrap.check_verb(verb)


def test_an_unknown_verb_ends_with_exit_code_2_and_one_line() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bootstrap.py"), "tset"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


def test_this_python_serves_and_a_missing_or_foreign_program_does_not() -> None:
    assert bootstrap.is_suitable(sys.executable)
    assert not bootstrap.is_suitable("python3.0")


def test_the_lock_is_held_by_one_and_dropped_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with bootstrap.only_one(path) as first, path.open("r+b") as second:
        assert bootstrap.try_lock(first)
        assert not bootstrap.try_lock(second.fileno())
    with bootstrap.only_one(path) as third:
        assert third > 0


def test_all_checks_run_even_if_one_fails_and_arguments_go_to_pytest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def call(command: list[str], cwd: str) -> int:
        called.append(command[2:])
        return int(command[2] == "ruff")

    monkeypatch.setattr(subprocess, "call", call)
    assert bootstrap.check_all(["-k", "jump"]) == 1
    assert [command[0] for command in called] == ["ruff", "ruff", "basedpyright", "sphinx", "pytest"]
    assert called[-1] == [*bootstrap.TESTS, "-k", "jump"]
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-4 if "FAILED" in row else -3] for row in rows] == ["FAILED"] * 2 + ["passed"] * 3


def test_the_documentation_is_built_with_warnings_as_errors_where_git_does_not_look() -> None:
    assert "--fail-on-warning" in bootstrap.DOCS
    assert f"{bootstrap.DOCS[-1]}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_every_pin_is_a_name_and_one_version() -> None:
    pin = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.]+( ; [\w. <>=()'*!-]+)?")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#") and not pin.fullmatch(line)] == []


def test_every_requirement_is_pinned() -> None:
    name = re.compile(r'^    "([\w-]+)[>=]', re.MULTILINE)
    required = set(name.findall((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert "torch" in required
    assert required | {"uv", "setuptools"} <= pinned


def test_no_file_names_the_address_of_a_package_registry() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    host = re.compile(rb"(pypi|pythonhosted|npmjs|anaconda|download\.pytorch)\.(org|com)", re.IGNORECASE)
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    assert [path.name for path in files if path.is_file() and host.search(path.read_bytes())] == []
