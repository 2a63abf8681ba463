"""Freed memory is kept, where the C library can, and a user's own setting is left alone."""

import os
import subprocess
import sys

import pytest

from hopscotch.system import SETTINGS, keep_freed_memory

FAULTS = """
import ctypes, resource, sys
from hopscotch.system import keep_freed_memory
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 KiB
keeps = keep_freed_memory() if sys.argv[1] == "keep" else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(48 << 20)  # zeros: 12,288 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(keeps), faults())
"""


def faults_of_a_second_block(how: str, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults that a block of the size of a freed one takes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=kept | environment
    )
    keeps, faults = done.stdout.split()
    return keeps == "1", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_block_of_the_size_of_a_freed_one_takes_no_new_pages() -> None:
    assert faults_of_a_second_block("as it comes")[1] > 10_000
    keeps, faults = faults_of_a_second_block("keep")
    if not keeps:
        pytest.skip("another C library than glibc")
    assert faults < 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_what_a_user_has_set_stays() -> None:
    keeps, faults = faults_of_a_second_block("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert not keeps
    assert faults > 10_000


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
