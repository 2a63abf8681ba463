"""What stage 0 loses: seconds that are open in vain, and events that it does not hear at all."""

import pytest
import torch
from torch.nn.functional import softplus

from hopscotch.training.waking import MISSED, waking_losses

STEP, RATE = 40, 1000  # samples: 25 scores a second


def losses(scores: torch.Tensor, steps: list[int], events: list[list[list[int]]]) -> torch.Tensor:
    return waking_losses(scores, torch.tensor(steps), torch.tensor(events), step_samples=STEP, sample_rate=RATE)


def test_without_events_every_second_costs_alike_and_padding_nothing() -> None:
    scores = torch.zeros(2, 100)
    scores[1, 50:] = 9.0
    found = losses(scores, [100, 50], [[[-1, -1, -1]], [[-1, -1, -1]]])
    assert found.tolist() == pytest.approx(2 * [float(softplus(torch.tensor(0.0)))])


def test_an_event_has_to_be_heard_once_and_what_is_near_it_costs_nothing() -> None:
    scores = torch.full((1, 100), -9.0)
    scores[0, 55] = 4.0
    heard = losses(scores, [100], [[[2000, 2400, 0]]])  # steps 50 to 59
    scores[0, 55], scores[0, 65] = -9.0, 4.0
    missed = losses(scores, [100], [[[2000, 2400, 0]]])
    scores[0, 65], scores[0, 70] = -9.0, 4.0
    in_vain = losses(scores, [100], [[[2000, 2400, 0]]])
    assert heard.item() == pytest.approx(MISSED * float(softplus(torch.tensor(-4.0))) / 4, abs=1e-3)
    assert missed.item() == pytest.approx(MISSED * 9.0 / 4, abs=1e-2)
    assert in_vain.item() - missed.item() == pytest.approx(0.04 * 4.018 / 4, abs=1e-3)


def test_the_gradient_of_an_event_goes_to_the_score_that_hears_it_best() -> None:
    scores = torch.zeros(1, 100)
    scores[0, 52] = 1.0
    scores.requires_grad_()
    losses(scores, [100], [[[2000, 2400, 0], [-1, -1, -1]]]).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 52] < 0
    assert scores.grad[0, 50:60].count_nonzero() == 1
    assert (scores.grad[0, :40] > 0).all()
    assert scores.grad.isfinite().all()


def test_an_event_at_the_very_end_counts() -> None:
    scores = torch.full((1, 10), -5.0)
    found = losses(scores, [10], [[[395, 400, 2]]])
    assert found.item() > MISSED * 5 / 0.4
