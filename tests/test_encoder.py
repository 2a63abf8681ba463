"""What every encoder shares."""

import pytest
import torch

from hopscotch.layers.sampling import interpolate
from hopscotch.models.encoder import Encoder
from hopscotch.types import SkipTrace
from tests.small_models import DECIDING, DEPTH, DIM, MODELS, make_encoder


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


@pytest.mark.parametrize("name", MODELS)
def test_encoders_say_whether_they_decide_and_cost_what_their_traces_say(name: str) -> None:
    torch.manual_seed(0)
    encoder = make_encoder(name).eval()
    assert isinstance(encoder, Encoder)
    assert encoder.decides == (name in DECIDING)
    _, trace = encoder(torch.randn(2, 9, DIM), torch.tensor([9, 4]))
    for clip, time in enumerate((9, 4)):
        cost = encoder.cost(time)
        assert cost.cheapest <= int(trace.macs[clip]) <= cost.dearest <= cost.dense == int(trace.dense_macs[clip])
    depth = DEPTH + 2 if name == "jump_attention" else DEPTH
    assert trace.strides.shape == trace.visited.shape == trace.jumps.shape == trace.open_rate.shape == (2, depth)


@pytest.mark.parametrize("name", ["learned_skip", "skip_transformer"])
def test_a_temperature_that_is_not_above_0_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"temperature_end must be above 0, got 2.0 and 0.0\."):
        make_encoder(name, temperature_start=2.0, temperature_end=0.0)
