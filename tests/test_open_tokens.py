import numpy as np
import pytest
import torch

from hopscotch.report.open_tokens import open_tokens
from tests.small_models import DEPTH, decide_at_random, make_clips, make_model


@pytest.mark.parametrize("name", ["skip_layer", "jump_attention"])
def test_the_tokens_shown_are_those_the_trace_counted(name: str) -> None:
    model = make_model(name)
    waveform, lengths = make_clips([6000])
    decide_at_random(model, waveform, lengths)
    model.eval()
    rates = model(waveform, lengths).trace.open_rate[0]
    is_open = open_tokens(model, waveform[0])
    assert is_open is not None
    gated = rates[: len(is_open)].nan_to_num().numpy()
    np.testing.assert_allclose(is_open.mean(axis=1), gated, rtol=1e-6)
    assert len(is_open) == DEPTH
    assert 0 < is_open.mean() < 1, "some must be open and some closed for this to be a test"
    assert not any(gate._forward_hooks for gate in model.modules())


def test_a_model_without_gates_has_no_tokens_to_show() -> None:
    assert open_tokens(make_model("dense").eval(), torch.zeros(800)) is None
