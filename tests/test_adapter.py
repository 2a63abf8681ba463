"""A token-wise layer that computes open tokens alone and means what the full form means."""

from typing import Any

import pytest
import torch

from hopscotch.layers.adapter import Adapter, MiniHyperConnection
from hopscotch.layers.gate import Gate

DIM = 8


def make(index: int = 0, *, mini_hc: bool = True, **gate: Any) -> tuple[Adapter, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = Adapter(DIM, index, mini_hc=mini_hc, expansion=2, dropout=0.0, gate=Gate(DIM, open_rate=0.5, **gate))
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    x = torch.randn(2, 9, DIM)
    layer.gate(x, mask)  # sets the bias: half of the tokens are open
    return layer, x, mask


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("mini_hc", [True, False])
def test_packed_evaluation_equals_the_full_form(index: int, mini_hc: bool) -> None:
    layer, x, mask = make(index, mini_hc=mini_hc)
    full, full_decision = layer(x, mask, 0.0)
    packed, decision = layer.eval()(x, mask, 0.0)
    assert torch.equal(decision.is_open, full_decision.is_open.detach())
    assert 0 < decision.is_open.sum() < mask.sum()
    torch.testing.assert_close(packed, full, rtol=0, atol=1e-5)
    normed = layer.norm(x)
    h = layer.adapter(normed) if layer.adapter is not None else normed
    h = layer.hyper(h) if layer.hyper is not None else h
    expected = torch.sigmoid(normed @ layer.strength.weight.T + layer.strength.bias) * h * decision.is_open[:, :, None]
    torch.testing.assert_close(packed, x + expected, rtol=0, atol=1e-5)


def test_packed_training_equals_full_training_in_the_layers_gradient() -> None:
    gradients = []
    for mode in ("full", "packed"):
        layer, x, mask = make(training_mode=mode, explore=1.0)
        layer(x, mask, 0.0)[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for full, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, full, rtol=0, atol=1e-5)


def test_the_gate_learns_from_closed_tokens_too() -> None:
    layer, x, mask = make()
    y, decision = layer(x, mask, 0.0)
    (gradient,) = torch.autograd.grad(y.sum(), decision.is_open, retain_graph=True)
    closed = mask & ~decision.is_open.bool()
    assert (gradient[closed] != 0).all()


def test_no_open_token_is_no_update_and_no_error() -> None:
    layer, x, mask = make()
    y, decision = layer.eval()(x, mask, -100.0)
    assert decision.open_rate.tolist() == [0, 0]
    assert torch.equal(y, x)


def test_odd_layers_have_no_linear_adapter() -> None:
    assert make(0)[0].adapter is not None
    assert make(1)[0].adapter is None
    assert make(0)[0].open_macs(10) - make(1)[0].open_macs(10) == 10 * DIM * DIM
    assert make(1, mini_hc=False)[0].open_macs(10) == 10 * DIM


# Mini hyper-connections.


@pytest.mark.parametrize("expansion", [1, 2, 3])
def test_fused_equals_the_weighted_sum_of_parallel_projections(expansion: int) -> None:
    torch.manual_seed(0)
    hyper, x = MiniHyperConnection(8, expansion), torch.randn(2, 5, 8)
    weight, bias = hyper.project.weight, hyper.project.bias
    mix = (x @ weight[:expansion].T + bias[:expansion]).softmax(dim=-1)
    expected = torch.zeros_like(x)
    for e in range(expansion):
        rows = slice(expansion + 8 * e, expansion + 8 * (e + 1))
        expected = expected + mix[..., e : e + 1] * (x @ weight[rows].T + bias[rows])
    torch.testing.assert_close(hyper(x), expected.relu(), rtol=0, atol=1e-5)
    assert (hyper(x) > 0).any()


def test_macs_of_a_hyper_connection_are_the_projections_and_their_weights() -> None:
    assert MiniHyperConnection(8, 3).macs(10) == 10 * 8 * (3 * 8 + 3)


def test_an_expansion_below_1_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"expansion must be at least 1 projection, got 0\."):
        MiniHyperConnection(8, 0)
