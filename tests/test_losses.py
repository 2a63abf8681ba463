"""Each term of the policy loss, against its arithmetic written out."""

from dataclasses import replace

import pytest
import torch

from hopscotch.training.losses import PolicyLoss
from tests.hand_made import jump_trace

LOSSES = torch.tensor([1.0, 2.0, 3.0, 4.0])


def no_second_pass() -> torch.Tensor:
    raise AssertionError("nothing asked for a second pass")


def test_a_trace_that_was_not_sampled_adds_nothing() -> None:
    assert PolicyLoss(0.1)(jump_trace(), LOSSES, no_second_pass, 0.0) == 0.0


def test_reinforce_weighs_each_route_by_what_it_lost_against_a_second_draw() -> None:
    log_prob = torch.tensor([-0.5, -1.0, -1.5, -2.0], requires_grad=True)
    loss = PolicyLoss(0.0)(replace(jump_trace(), log_prob=log_prob), LOSSES, lambda: torch.full((4,), 2.0), 0.0)
    assert isinstance(loss, torch.Tensor)
    assert loss.item() == pytest.approx((-0.5 * -1 + -1.0 * 0 + -1.5 * 1 + -2.0 * 2) / 4)
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-0.25, 0.0, 0.25, 0.5]


def test_the_second_draw_leaves_no_gradient() -> None:
    weight = torch.tensor(1.0, requires_grad=True)
    trace = replace(jump_trace(), log_prob=torch.zeros(4, requires_grad=True))
    loss = PolicyLoss(0.0)(trace, LOSSES, lambda: weight * LOSSES, 0.0)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert weight.grad is None


@pytest.mark.parametrize(("progress", "expected"), [(0.0, -0.2), (0.5, -0.1), (1.0, 0.0)])
def test_the_entropy_bonus_fades_out(progress: float, expected: float) -> None:
    entropy = torch.full((4,), 2.0, requires_grad=True)
    loss = PolicyLoss(0.1)(replace(jump_trace(), entropy=entropy), LOSSES, no_second_pass, progress)
    assert isinstance(loss, torch.Tensor)
    assert loss.item() == pytest.approx(expected)
