"""The jump block: its meaning layer by layer, its routes, and what learns."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopscotch.layers import sampling
from hopscotch.layers.adapter import Adapter
from hopscotch.layers.block import BlockSpec
from hopscotch.layers.jump import Credit, SkipLayer
from hopscotch.layers.policy import landing
from hopscotch.types import valid_mask
from tests.small_models import decide_at_random, force_actions

DIM, HEADS, DEPTH, TIME = 16, 2, 6, 9
LENGTHS = torch.tensor([9, 4, 7, 1, 9, 6])
SPEC = BlockSpec(DIM, HEADS, dropout=0.0)
INNER: tuple[Any, ...] = ("adapter", "transformer")


def make(**changes: Any) -> tuple[SkipLayer, Tensor]:
    """A block whose gates are biased already (half of the tokens open), and clips that differ in level and mean."""
    torch.manual_seed(0)
    gate = {"open_rate": 0.5, "threshold_by": "loss"}
    block = SkipLayer(DIM, HEADS, DEPTH, **{"gate": gate, "block": SPEC, **changes})
    x = torch.randn(6, TIME, DIM) * torch.linspace(0.3, 3, 6)[:, None, None] + torch.randn(6, 1, DIM)
    block(x)
    return block, x


# The original formulation.


def original(block: SkipLayer, x: Tensor, actions: list[int]) -> tuple[Tensor, list[int]]:
    """One clip (time, dim) through the original skip_layer, errors corrected; layer i takes `actions[i]`."""
    ox, work_mem, history, i = x, block.work_mem, [], 0
    while i < DEPTH:
        layer = block.layers[i]
        assert isinstance(layer, Adapter)
        gate = layer.gate
        keys, normalised = nn.functional.normalize(gate.keys, dim=-1), nn.functional.normalize(x, dim=-1)
        key = torch.softmax(normalised @ keys.T / gate.log_temperature.exp(), dim=-1)
        raw = gate.combine(torch.cat([key @ gate.values, gate.mlp(x)], dim=-1))
        score = torch.sigmoid((raw - gate.mean) / gate.deviation + gate.offset)
        mask = (score > gate.threshold).float()

        px = layer.norm(x)
        attn = layer.adapter(px) if i % 2 == 0 else px  # pyright: ignore[reportOptionalCall]
        if layer.hyper is not None:
            rows, count = layer.hyper.project, layer.hyper.expansion
            weights = torch.softmax(attn @ rows.weight[:count].T + rows.bias[:count], dim=-1)
            features = [
                attn @ rows.weight[count + e * DIM : count + (e + 1) * DIM].T
                + rows.bias[count + e * DIM : count + (e + 1) * DIM]
                for e in range(count)
            ]
            attn = torch.relu((weights[:, :, None] * torch.stack(features, dim=1)).sum(dim=1))
        x = x + torch.sigmoid(layer.strength(px)) * (attn * mask)

        mem = x.mean(dim=0)
        mem_val = torch.sigmoid(block.memory_gate(mem))
        work_mem = mem_val * work_mem + (1 - mem_val) * mem

        distance = actions[i] if i < DEPTH - 1 else 0
        if distance > 0:
            jump = block.jump_weights[min(distance - 1, 2)]
            x = x + jump * ox + (1 - jump) * work_mem
            i = min(i + distance, DEPTH - 1)
            history.append(i)
        else:
            i += 1
    return x + torch.sigmoid(block.final_gate(x)) * block.final(block.final_norm(x)), history


@pytest.mark.parametrize("mini_hc", [True, False])
@pytest.mark.parametrize("actions", [[0] * 5, [1] * 5, [2] * 5, [3, 0, 0, 1, 0], [0, 2, 0, 0, 3]])
def test_the_literal_rule_and_mix_reproduce_the_original_formulation(mini_hc: bool, actions: list[int]) -> None:
    block, x = make(mini_hc=mini_hc, jump_rule="literal", jump_mix="literal", policy_sees="input")
    nn.init.normal_(block.work_mem)
    force_actions(block.policy, actions)
    block.eval()
    y = block(x, LENGTHS)
    for clip, length in enumerate(LENGTHS.tolist()):
        expected, history = original(block, x[clip, :length], actions)
        torch.testing.assert_close(y[clip, :length], expected, rtol=1e-5, atol=1e-5)
        assert block.logs["jumps"][clip] == history


def test_the_weights_of_a_landing_start_as_in_the_original_and_longer_jumps_like_its_third() -> None:
    assert make(jump_max=5)[0].jump_weights.tolist() == pytest.approx([0.1, 0.05, 0.01, 0.01, 0.01])


def test_a_convex_landing_lies_between_the_tokens_and_what_it_mixes_in() -> None:
    block, x = make(inner="transformer", jump_max=4, policy_sees="input")
    force_actions(block.policy, [4, 0, 0, 0, 0])
    y, trace = block.eval().run(x)
    assert trace.visited[0].tolist() == [True, False, False, False, False, True]
    first = block.layers[0](x)
    mean = first.mean(dim=1)
    keep = torch.sigmoid(block.memory_gate(mean))
    memory = keep * block.work_mem + (1 - keep) * mean
    share, c = block.jump_weights[3], torch.sigmoid(block.convex)
    assert c.item() == pytest.approx(0.1)
    landed = (1 - c) * first + c * (share * x + (1 - share) * memory[:, None])
    torch.testing.assert_close(y, block.layers[-1](landed), rtol=0, atol=1e-5)


# Never jumping.


@pytest.mark.parametrize("mix", ["literal", "convex", "none"])
@pytest.mark.parametrize("inner", INNER)
def test_never_jumping_equals_the_plain_stack_exactly(inner: Any, mix: Any) -> None:
    block, x = make(inner=inner, jump_mix=mix)
    force_actions(block.policy, [0] * 5)
    y = block.eval()(x, LENGTHS)
    mask = valid_mask(LENGTHS, TIME)
    for layer in block.layers:
        x = layer(x, mask, 0.0)[0] if isinstance(layer, Adapter) else layer(x, LENGTHS)
    if inner == "adapter":
        x = x + torch.sigmoid(block.final_gate(x)) * block.final(block.final_norm(x))
    assert torch.equal(y, x)
    assert block.logs["jumps"] == [[]] * 6


# Gathered against clip by clip.


@pytest.mark.parametrize("sees", ["input", "first", "state"])
@pytest.mark.parametrize("inner", INNER)
def test_gathered_equals_clip_by_clip_in_evaluation(inner: Any, sees: Any) -> None:
    block, x = make(inner=inner, policy_sees=sees)
    decide_at_random(block, x, LENGTHS)
    y, trace = block.run(x, LENGTHS)
    assert len({tuple(route) for route in trace.visited.tolist()}) > 2
    weights = torch.randn_like(y) * valid_mask(LENGTHS, TIME)[:, :, None]
    parameters = [p for p in block.parameters() if p.requires_grad]
    together = torch.autograd.grad((y * weights).sum(), parameters, allow_unused=True)
    slow = torch.zeros(())
    for clip, length in enumerate(LENGTHS.tolist()):
        alone, alone_trace = block.run(x[clip : clip + 1, :length])
        assert torch.equal(alone_trace.jumps[0], trace.jumps[clip])
        assert int(alone_trace.macs) == int(trace.macs[clip])
        torch.testing.assert_close(alone_trace.open_rate[0], trace.open_rate[clip], equal_nan=True)
        torch.testing.assert_close(alone[0], y[clip, :length], rtol=0, atol=1e-5)
        slow = slow + (alone[0] * weights[clip, :length]).sum()
    one_by_one = torch.autograd.grad(slow, parameters, allow_unused=True)
    for ours, theirs in zip(together, one_by_one, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sees", ["input", "first", "state"])
@pytest.mark.parametrize("inner", INNER)
def test_gathered_equals_clip_by_clip_in_training_given_the_same_draws(
    inner: Any, sees: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x = make(inner=inner, policy_sees=sees)
    noise = torch.randn(DEPTH - 1, 6, 4) * 2

    def cross(clips: list[int], time: int) -> tuple[Tensor, Any]:
        draws = iter(noise[:, clips].split(1 if sees == "state" else DEPTH - 1))
        monkeypatch.setattr(sampling, "gumbel_noise", lambda _: next(draws))
        return block.run(x[clips, :time], LENGTHS[clips])

    y, trace = cross(list(range(6)), TIME)
    assert len({tuple(route) for route in trace.visited.tolist()}) > 2
    weights = torch.randn_like(y) * valid_mask(LENGTHS, TIME)[:, :, None]
    slow = torch.zeros(())
    for clip, length in enumerate(LENGTHS.tolist()):
        alone, alone_trace = cross([clip], length)
        assert torch.equal(alone_trace.jumps[0], trace.jumps[clip])
        torch.testing.assert_close(alone[0], y[clip, :length], rtol=0, atol=1e-5)
        slow = slow + (alone[0] * weights[clip, :length]).sum()
    of_clips = {  # a gate's gradient is that of scores standardised over the batch
        name: p for name, p in block.named_parameters() if p.requires_grad and ".gate." not in name
    }
    names, parameters = list(of_clips), list(of_clips.values())
    together = torch.autograd.grad((y * weights).sum(), parameters, allow_unused=True)
    one_by_one = torch.autograd.grad(slow, parameters, allow_unused=True)
    for name, ours, theirs in zip(names, together, one_by_one, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        if name.startswith("policy"):
            assert ours is not None
            assert ours.abs().sum() > 0, name


def test_a_visit_is_credited_like_a_weight_of_1_on_what_the_layer_adds() -> None:
    torch.manual_seed(0)
    x, y, chance = torch.randn(3, 5, 4), torch.randn(3, 5, 4, requires_grad=True), torch.rand(3, requires_grad=True)
    weight = (1 + (chance - chance.detach()))[:, None, None]
    factors = torch.randn_like(y)
    credited = Credit.apply(x, y, chance)
    assert torch.equal(credited, y)
    expected = torch.autograd.grad(((x + (y - x) * weight) * factors).sum(), (y, chance))
    for ours, theirs in zip(torch.autograd.grad((credited * factors).sum(), (y, chance)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("inner", INNER)
def test_tokens_and_chances_keep_the_precision_of_the_weights(inner: Any) -> None:
    block, x = make(inner=inner)
    with torch.autocast("cpu", torch.bfloat16):
        y, trace = block.run(x.bfloat16(), LENGTHS)
    assert y.dtype == trace.expected_compute.dtype == torch.float32
    y.sum().backward()
    assert block.double().run(x.double(), LENGTHS)[0].dtype == torch.float64


# Routes and their price.


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("rule", ["skip", "literal"])
def test_expected_compute_equals_the_fraction_when_the_policy_is_certain(inner: Any, rule: Any) -> None:
    for actions in ([0, 0, 0, 0, 0], [3, 0, 0, 0, 0], [1, 2, 1, 0, 3], [0, 0, 2, 0, 0]):
        block, x = make(inner=inner, jump_rule=rule)
        force_actions(block.policy, actions)
        _, trace = block.eval().run(x, LENGTHS)
        torch.testing.assert_close(trace.expected_compute, trace.fraction.float(), rtol=0, atol=1e-6)


def test_what_a_block_logs_and_its_open_rates_are_those_of_the_route() -> None:
    block, x = make()
    decide_at_random(block, x, LENGTHS)
    y, trace = block.run(x, LENGTHS)
    assert (trace.jumps[:, -1] == -1).all()
    assert trace.histories == [row.nonzero().flatten().tolist() for row in trace.landings]
    assert torch.equal(trace.open_rate.isnan(), ~trace.visited)
    assert torch.equal(block(x, LENGTHS), y)
    assert block.logs["jumps"] == trace.histories


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("rule", ["skip", "literal"])
def test_the_cheapest_macs_equal_brute_force_over_all_routes(inner: Any, rule: Any) -> None:
    block, _ = make(inner=inner, jump_rule=rule, jump_max=2)
    time = torch.tensor(7)

    def cheapest(layer: int) -> int:
        cost = int(block.layer_macs(layer, time))
        if layer == DEPTH - 1:
            return cost
        return cost + min(cheapest(landing(layer, a, DEPTH, rule)) for a in range(3))

    cost = block.cost(7)
    assert cost.cheapest == cheapest(0) + int(block.constant_macs(time))
    assert cost.dearest == cost.dense == int(block.eval().run(torch.zeros(1, 7, DIM))[1].dense_macs)


@pytest.mark.parametrize("inner", INNER)
def test_a_layer_that_nobody_visits_neither_crashes_nor_gets_a_gradient(inner: Any) -> None:
    block, x = make(inner=inner)
    force_actions(block.policy, [3, 0, 0, 0, 0], certainty=30.0)
    y, trace = block.train().run(x, LENGTHS)
    assert trace.visited[0].tolist() == [True, False, False, False, True, True]
    (y.square().mean() + trace.expected_compute.mean()).backward()
    for index, layer in enumerate(block.layers):
        own = [p.grad is not None for name, p in layer.named_parameters() if not name.startswith("gate")]
        assert set(own) == {index in (0, 4, 5)}


# Learning.


def gradient_of(parameters: Any) -> float:
    return sum(float(p.grad.abs().sum()) for p in parameters if p.grad is not None)


COMBINATIONS = [*itertools.product(("input", "first", "state"), ("gumbel", "reinforce"))]


@pytest.mark.parametrize(("sees", "estimator"), COMBINATIONS)
def test_policy_and_gate_learn_from_the_task_under_every_choice(sees: Any, estimator: Any) -> None:
    options = itertools.product(("literal", "convex", "none"), ("skip", "literal"), (False, True))
    _, x = make()
    for mix, rule, heads in options:
        block = SkipLayer(
            *(DIM, HEADS, 3),
            policy_sees=sees,
            policy_estimator=estimator,
            policy_tied=heads,
            jump_mix=mix,
            jump_rule=rule,
        )
        y, trace = block.run(x, LENGTHS)
        y[valid_mask(LENGTHS, TIME)].square().mean().backward(retain_graph=True)
        through_the_model = gradient_of(block.policy.parameters())
        assert (through_the_model > 0) == (estimator == "gumbel")
        assert gradient_of(p for gate in block.gates for p in gate.parameters()) > 0
        assert trace.log_prob.requires_grad == (estimator == "reinforce")
        if estimator == "reinforce":
            (trace.log_prob * torch.randn(6)).mean().backward()
        assert gradient_of(block.policy.parameters()) > 0
        assert all(bool(torch.isfinite(p.grad).all()) for p in block.parameters() if p.grad is not None)


@pytest.mark.parametrize("estimator", ["gumbel", "reinforce"])
def test_the_budget_term_pushes_the_policy_towards_going_on_or_jumping(estimator: Any) -> None:
    block, x = make(policy_estimator=estimator, inner="transformer")
    _, trace = block.run(x, LENGTHS)
    trace.expected_compute.mean().backward()
    assert block.policy.output.bias.grad is not None
    bias = block.policy.output.bias.grad.unflatten(0, (DEPTH - 1, 4))
    assert (bias[:-1, 0] > 0).all(), "going on costs; after the last but one layer nothing is left to skip"
    assert bias[0, 3] < 0


def test_evaluation_draws_nothing_and_leaves_every_buffer_bit_identical() -> None:
    block, x = make()
    block.eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    state = torch.get_rng_state()
    first, second = block(x, LENGTHS), block(x, LENGTHS)
    block.update_threshold(3.0)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


# Drop-in use.


def test_drop_in_use_is_that_of_the_original_formulation() -> None:
    torch.manual_seed(0)
    jump = SkipLayer(DIM, HEADS, 4, block=SPEC)
    x = torch.randn(3, TIME, DIM)
    y = jump(x)
    assert y.shape == x.shape
    assert isinstance(y, Tensor)
    histories = jump.logs["jumps"]
    assert len(histories) == 3
    assert all(isinstance(layer, int) and 0 < layer < 4 for history in histories for layer in history)
    torch.testing.assert_close(jump.eval()(x), jump(x, torch.full((3,), TIME)), rtol=0, atol=1e-6)


def test_drop_in_thresholds_follow_gradients_first_and_the_loss_once_it_is_told() -> None:
    torch.manual_seed(0)
    jump = SkipLayer(DIM, HEADS, 2)
    optimizer = torch.optim.SGD(jump.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(3, TIME, DIM)

    def step() -> list[float]:
        before = [gate.threshold.item() for gate in jump.gates]
        optimizer.zero_grad()
        loss = jump(x).square().mean()
        loss.backward()
        optimizer.step()
        return [gate.threshold.item() - old for gate, old in zip(jump.gates, before, strict=True)]

    assert 0.0 not in step()
    jump.update_threshold(loss=1.0, lr=0.01)
    before = [gate.threshold.item() for gate in jump.gates]
    assert step() == [0.0, 0.0]
    jump.update_threshold(loss=torch.tensor(2.0), lr=0.1)
    assert all(gate.threshold.item() < old for gate, old in zip(jump.gates, before, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jump_max": 0}, r"max_jump must be at least 1 layer, got 0\."),
        ({"depth": 1}, r"^depth must be at least 2 layers for jumps, got 1\."),
        ({"num_heads": 3}, r"^dim must be a multiple of num_heads, got dim=16, num_heads=3\."),
    ],
)
def test_arguments_out_of_range_are_rejected(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipLayer(**{"dim": DIM, "num_heads": HEADS, "depth": DEPTH, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("is_training", [False, True])
def test_a_plan_costs_one_look_at_the_device_a_forward(monkeypatch: pytest.MonkeyPatch, is_training: bool) -> None:
    looks: list[str] = []

    def counted(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def look(self: torch.Tensor, *arguments: object) -> object:
            looks.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, look)

    torch.manual_seed(0)
    block = SkipLayer(16, 2, 6, inner="transformer").train(is_training)
    x, lengths = torch.randn(8, 9, 16), torch.randint(1, 10, (8,))
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        counted(name)
    _, trace = block.run(x, lengths)
    assert looks == ["tolist"]
    monkeypatch.undo()
    if is_training:
        assert trace.visited.sum() < trace.visited.numel(), "somebody jumped, so the look was needed"


def test_the_memorys_gate_and_the_closing_one_are_counted_to_the_last_mac() -> None:
    time = torch.tensor(7)
    layers = {mix: SkipLayer(16, 2, 4, inner="transformer", jump_mix=mix) for mix in ("convex", "none")}
    assert layers["convex"].layer_macs(0, time) - layers["none"].layer_macs(0, time) == 16
    block = SkipLayer(16, 2, 4)
    assert block.constant_macs(time) == block.policy.macs() + 7 * 16 + 2 * 7 * 16 * 64
