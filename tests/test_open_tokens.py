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


def test_tokens_behind_a_gate_are_shown_where_they_lie_in_the_clip() -> None:
    model = make_model("jump_attention", open_rate=0.5)
    waveform, lengths = make_clips([6000])
    decide_at_random(model, waveform, lengths)
    trace = model(waveform, lengths).trace
    is_open = open_tokens(model, waveform[0])
    assert is_open is not None
    assert trace.tokens is not None
    assert len(is_open) == 1 + DEPTH  # the gate before the encoder, then those of the jump layers
    np.testing.assert_array_equal(is_open[0], trace.tokens[0].numpy())
    let_in = is_open[0].copy()
    let_in[0] = True
    assert not (is_open[1:] & ~let_in).any()
    assert 0 < is_open[1:].mean() < is_open[0].mean() < 1


def test_a_model_without_gates_has_no_tokens_to_show() -> None:
    assert open_tokens(make_model("dense").eval(), torch.zeros(800)) is None
