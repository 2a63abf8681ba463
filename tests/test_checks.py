"""The tests' own checks: a call with a tensor of the wrong shape is an error, the first times in each test."""

import jaxtyping
import pytest
import torch

from hopscotch.types import valid_mask
from tests import checks


def test_a_tensor_of_the_wrong_shape_is_refused() -> None:
    for _ in range(checks.MOST - 1):
        with pytest.raises(jaxtyping.TypeCheckError):
            valid_mask(torch.ones(2, 2, dtype=torch.long), 3)
        assert valid_mask(torch.ones(2, dtype=torch.long), 3).sum() == 2


@pytest.mark.parametrize("in_turn", [1, 2])
def test_the_first_calls_in_a_test_are_checked(in_turn: int) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        valid_mask(torch.ones(2, 2, dtype=torch.long), 3)
    for _ in range(checks.MOST):
        valid_mask(torch.ones(2, dtype=torch.long), 3)
    assert valid_mask(torch.ones(2, 3, dtype=torch.long), 3).ndim == 3
