"""The tests' own checks: a call with a tensor of the wrong shape is an error, the first time and later."""

import jaxtyping
import pytest
import torch

from hopscotch.types import valid_mask


def test_a_tensor_of_the_wrong_shape_is_refused_at_every_call() -> None:
    for _ in range(2):
        with pytest.raises(jaxtyping.TypeCheckError):
            valid_mask(torch.ones(2, 2, dtype=torch.long), 3)
        assert valid_mask(torch.ones(2, dtype=torch.long), 3).sum() == 2
