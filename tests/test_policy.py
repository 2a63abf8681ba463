"""The policy of a jump block: where an action leads, what it prefers, and which route is cheapest."""

import itertools
from typing import Any

import pytest
import torch

from hopscotch.layers.policy import JumpPolicy, landing, shortest_route, skipped_layers

RULES: tuple[Any, ...] = ("skip", "literal")


def test_the_rule_skip_lands_a_layers_further_and_the_literal_one_on_i_plus_a() -> None:
    assert [landing(0, a, 6, "skip") for a in range(4)] == [1, 2, 3, 4]
    assert [landing(0, a, 6, "literal") for a in range(4)] == [1, 1, 2, 3]
    assert [landing(4, a, 6, rule) for a in range(4) for rule in RULES] == [5] * 8, "never past the last layer"


@pytest.mark.parametrize("rule", RULES)
def test_skipped_layers_are_those_between_take_off_and_landing(rule: Any) -> None:
    table = skipped_layers(6, 4, rule)
    for i, a in itertools.product(range(5), range(4)):
        skipped = table[i, a].nonzero().flatten().tolist()
        assert skipped == list(range(i + 1, landing(i, a, 6, rule)))


@pytest.mark.parametrize("rule", RULES)
def test_the_shortest_route_equals_brute_force(rule: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def routes(at: int, depth: int, max_jump: int) -> list[list[int]]:
        if at == depth - 1:
            return [[at]]
        targets = {landing(at, a, depth, rule) for a in range(max_jump + 1)}
        return [[at, *rest] for target in targets for rest in routes(target, depth, max_jump)]

    for depth, max_jump in itertools.product((2, 3, 6, 7), (1, 2, 3, 9)):
        costs = torch.randint(1, 30, (depth,), generator=generator).tolist()
        found = shortest_route(costs, max_jump, rule)
        every = routes(0, depth, max_jump)
        assert found in every
        assert sum(costs[i] for i in found) == min(sum(costs[i] for i in route) for route in every)


def test_a_fresh_policy_goes_on_more_often_than_not() -> None:
    torch.manual_seed(0)
    for tied in (False, True):
        logits = JumpPolicy(8, 5, tied=tied).eval()(torch.randn(30, 8))
        assert logits.shape == (30, 4, 4)
        assert 0.5 < logits.softmax(-1)[..., 0].mean() < 0.7
        assert torch.equal(logits[:, 0], logits[:, 3]) == tied


def test_the_policy_reads_the_trunk_and_does_not_steer_it() -> None:
    summary = torch.randn(3, 8, requires_grad=True)
    JumpPolicy(8, 5)(summary).sum().backward()
    assert summary.grad is None


def test_macs_are_those_of_its_two_products() -> None:
    policy = JumpPolicy(8, 5, max_jump=2)
    assert policy.macs() == 8 * 64 + 64 * 4 * 3
