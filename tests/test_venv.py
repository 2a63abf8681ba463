"""Where packages are missing, a command goes on in the checkout's `.venv`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hopscotch import system

SCRIPT = """
import sys
sys.path.insert(0, {source!r})
from hopscotch.system import continue_in_venv
continue_in_venv()
print("went on")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A command of another checkout, which has nothing but itself."""
    package = tmp_path / "src" / "hopscotch"
    package.mkdir(parents=True)
    shutil.copy(system.__file__, package)
    (package / "__init__.py").touch()
    path = tmp_path / "command.py"
    path.write_text(SCRIPT.format(source=str(package.parent)))
    return path


def call(script: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, str(script), "model=dense", "a b"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_with_packages_nothing_changes(script: Path) -> None:
    assert call(script).stdout == "went on\n"


def test_without_packages_the_python_of_the_venv_takes_over(script: Path) -> None:
    python = script.parent / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    python.chmod(0o755)
    assert call(script, "-S").stdout == f"[{script}][model=dense][a b]"  # -S: no site-packages


def test_without_a_venv_it_says_what_makes_one(script: Path) -> None:
    result = call(script, "-S")
    assert result.returncode == 2
    assert str(script.parent / "scripts" / "bootstrap.py") in result.stderr
    assert "went on" not in result.stdout
