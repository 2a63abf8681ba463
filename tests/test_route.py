"""Routes: which clip visits which layer, and how likely."""

import itertools
from typing import Any

import pytest
import torch

from hopscotch.layers import sampling
from hopscotch.layers.policy import JumpPolicy, landing
from hopscotch.layers.route import Route
from hopscotch.layers.sampling import COST_UNIT, PROBABILITY_FLOOR

CPU = torch.device("cpu")
RULES: tuple[Any, ...] = ("skip", "literal")


def drawn_route(estimator: Any, rule: Any, clips: int, seed: int = 0) -> tuple[Route, torch.Tensor]:
    """Routes of clips that all have the same logits, and these logits."""
    torch.manual_seed(seed)
    policy = JumpPolicy(4, 6, rule=rule, estimator=estimator).train()
    logits = torch.randn(1, 5, 4).expand(clips, -1, -1)
    route = Route(policy, clips, CPU)
    route.decide(logits, 0.0)
    return route, logits[0]


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
@pytest.mark.parametrize("rule", RULES)
def test_expected_visits_equal_the_average_over_sampled_routes(estimator: Any, rule: Any) -> None:
    route, _ = drawn_route(estimator, rule, 5000)
    expected = route.chances
    assert expected[:, -1].tolist() == pytest.approx([1.0] * 5000)
    torch.testing.assert_close(route.visited.float().mean(0), expected[0], rtol=0, atol=0.03)


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce", "gain"])
@pytest.mark.parametrize("rule", RULES)
def test_visits_jumps_and_landings_tell_one_story(estimator: Any, rule: Any) -> None:
    route, _ = drawn_route(estimator, rule, 60)
    for clip in range(60):
        at, visited, landed = 0, [0], []
        while at < 5:
            action = int(route.jumps[clip, at])
            at = landing(at, action, 6, rule)
            visited.append(at)
            landed += [at] if action > 0 else []
        assert route.visited[clip].nonzero().flatten().tolist() == visited
        assert route.landings[clip].nonzero().flatten().tolist() == landed
    assert (route.jumps[~route.visited] == -1).all()


@pytest.mark.parametrize("rule", RULES)
def test_the_chance_of_a_draw_follows_from_its_own_probabilities(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "gumbel_noise", torch.zeros_like)
    torch.manual_seed(0)
    policy, logits = JumpPolicy(4, 6, rule=rule).train(), torch.randn(1, 5, 4, requires_grad=True)
    policy.temperature = 0.7
    route = Route(policy, 1, CPU)
    route.decide(logits, 0.0)
    chances = [torch.ones(1)] + [torch.zeros(1)] * 5
    for i, a in itertools.product(range(5), range(4)):
        target = landing(i, a, 6, rule)
        chances[target] = chances[target] + chances[i] * (logits[:, i] / 0.7).softmax(-1)[:, a]
    assert route.drawn_chance(0) is None, "layer 0 always runs"
    for layer in range(1, 6):
        chance = route.drawn_chance(layer)
        assert chance is not None
        torch.testing.assert_close(chance, chances[layer])
        (ours,) = torch.autograd.grad(chance.sum(), logits, retain_graph=True)
        (theirs,) = torch.autograd.grad(chances[layer].sum(), logits, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert (ours.abs().sum() > 1e-3) == (layer < 5), "the last layer always runs"


def test_the_log_probability_is_the_sum_over_the_decisions_taken() -> None:
    route, logits = drawn_route("reinforce", "skip", 20)
    probabilities = (1 - 4 * PROBABILITY_FLOOR) * logits.softmax(dim=-1) + PROBABILITY_FLOOR
    assert probabilities.min() > PROBABILITY_FLOOR
    for clip in range(20):
        taken = [(i, int(route.jumps[clip, i])) for i in range(5) if route.visited[clip, i]]
        expected = sum(float(probabilities[i, a].log()) for i, a in taken)
        assert float(route.log_prob()[clip]) == pytest.approx(expected, abs=1e-4)
        entropies = [float(-(probabilities[i] * probabilities[i].log()).sum()) for i, _ in taken]
        assert float(route.entropy()[clip]) == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)


def test_the_exploring_routes_of_gain_have_every_length() -> None:
    route, _ = drawn_route("gain", "skip", 500)
    lengths = route.visited.sum(1)
    assert lengths.unique().tolist() == [2, 3, 4, 5, 6] or lengths.unique().tolist() == [3, 4, 5, 6]
    assert (torch.bincount(lengths)[3:] > 20).all()


def test_decided_layer_by_layer_or_all_at_once_a_route_is_the_same() -> None:
    torch.manual_seed(0)
    policy, logits = JumpPolicy(4, 6).eval(), torch.randn(20, 5, 4)
    at_once, by_layer = Route(policy, 20, CPU), Route(policy, 20, CPU)
    at_once.decide(logits, 0.5)
    for layer in range(5):
        by_layer.decide(logits[:, layer : layer + 1], 0.5)
        assert len(by_layer.visiting) == layer + 2
    assert at_once.visiting == by_layer.visiting
    assert at_once.jumping == by_layer.jumping
    assert torch.equal(at_once.chances, by_layer.chances)
    for route in (at_once, by_layer):
        for layer, clips in enumerate(route.visiting):
            assert route.visited[:, layer].nonzero().flatten().tolist() == clips
        for layer, clips in enumerate(route.jumping):
            assert (route.jumps[:, layer] > 0).nonzero().flatten().tolist() == clips
            assert route.jumped(layer, clips) == route.jumps[clips, layer].tolist()


def test_gains_prefer_the_layers_that_save_loss() -> None:
    policy = JumpPolicy(4, 4, estimator="gain").eval()
    with torch.no_grad():
        policy.output.weight.zero_()
        policy.output.bias.copy_(torch.tensor([0.0, 0.5, -0.2, 0.0]))  # gain of layers 0..3
    scores = policy(torch.randn(1, 4))
    assert (scores * COST_UNIT)[0, 0].tolist() == pytest.approx([0, -0.5, -0.3, -0.3])
    route = Route(policy, 1, CPU)
    route.decide(scores, 0.0)
    assert route.visited.tolist() == [[True, True, False, True]]


def test_random_routes_differ_from_clip_to_clip_and_say_the_same_every_time() -> None:
    torch.manual_seed(0)
    policy = JumpPolicy(4, 6, estimator="random").eval()
    summaries = torch.randn(200, 4)
    logits = policy(summaries)
    assert torch.equal(policy(summaries), logits)
    assert not list(policy.parameters())
    # A baseline knows nothing: a clip and its near twin draw what two strangers would.
    twins = policy(summaries + 0.01 * torch.randn(200, 4))
    assert abs(torch.corrcoef(torch.stack([logits.flatten(), twins.flatten()]))[0, 1]) < 0.1
    shares = torch.bincount(logits[:, 0].argmax(-1), minlength=4) / 200
    assert shares.min() > 0.15
    route, _ = drawn_route("random", "skip", 200)
    assert len({tuple(row) for row in route.jumps.tolist()}) > 20
