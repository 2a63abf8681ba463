import warnings

import pytest
import torch

from hopscotch import system


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_crowded_cores_are_told_with_what_helps(two_threads: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(system, "seconds_together", lambda: 0.012)
    with pytest.warns(UserWarning, match="2 threads need 12 ms.*OMP_NUM_THREADS=1.*OMP_WAIT_POLICY=passive"):
        system.warn_if_crowded()


def test_free_cores_and_single_threads_are_no_news(two_threads: None, monkeypatch: pytest.MonkeyPatch):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monkeypatch.setattr(system, "seconds_together", lambda: 0.0001)
        system.warn_if_crowded()
        monkeypatch.setattr(system, "seconds_together", lambda: 1.0)
        torch.set_num_threads(1)
        system.warn_if_crowded()
    assert said == []


def test_the_time_measured_is_of_something_done():
    assert system.seconds_together() > 0
