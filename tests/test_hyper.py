"""The fused projection against the sum written out."""

import pytest
import torch

from hopscotch.layers.adapter import MiniHyperConnection


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


def test_macs_are_the_projections_and_their_weights() -> None:
    assert MiniHyperConnection(8, 3).macs(10) == 10 * 8 * (3 * 8 + 3)


def test_an_expansion_below_1_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"expansion must be at least 1 projection, got 0\."):
        MiniHyperConnection(8, 0)
