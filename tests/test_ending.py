"""ending.py: a command whose reader has gone, or that was stopped, says nothing more."""

import subprocess
import sys

import pytest

from hopscotch.system import quiet_end


def test_errors_that_are_named_are_one_line_and_others_are_not_caught() -> None:
    with pytest.raises(SystemExit) as end, quiet_end(ValueError, OSError):
        raise PermissionError(13, "Permission denied", "a.csv")
    assert end.value.code == "Error: [Errno 13] Permission denied: 'a.csv'"
    with pytest.raises(ValueError, match="ours"), quiet_end():
        raise ValueError("ours")


def test_ctrl_c_ends_with_130() -> None:
    with pytest.raises(SystemExit) as end, quiet_end():
        raise KeyboardInterrupt
    assert end.value.code == 130


def test_a_reader_that_has_gone_costs_no_traceback() -> None:
    command = [sys.executable, "-m", "hopscotch", "runs", "--help"]  # a training goes on: tests/test_paths.py
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (141, "")
