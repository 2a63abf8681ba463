"""What every encoder shares."""

import pytest
import torch

from hopscotch.layers.sampling import interpolate
from hopscotch.types import SkipTrace
from tests.small_models import make_encoder


def test_a_fixed_trace_visits_all_and_decides_nothing() -> None:
    strides = torch.tensor([[2, 1], [2, 1]])
    trace = SkipTrace.of(
        torch.ones(2, 2, dtype=torch.bool), torch.tensor([30, 60]), torch.tensor([40, 80]), strides=strides
    )
    assert trace.visited.all()
    assert trace.fraction.tolist() == trace.expected_compute.tolist() == [0.75, 0.75]
    assert trace.histories == [[], []]
    assert trace.open_rate.isnan().all()


def test_interpolation_starts_and_ends_where_told() -> None:
    assert [interpolate(2.0, 0.5, progress) for progress in (0.0, 0.5, 1.0)] == [2.0, 1.25, 0.5]


@pytest.mark.parametrize("name", ["learned_skip", "skip_transformer"])
def test_a_temperature_that_is_not_above_0_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"temperature_end must be above 0, got 2.0 and 0.0\."):
        make_encoder(name, temperature_start=2.0, temperature_end=0.0)
