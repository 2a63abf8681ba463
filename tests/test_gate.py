"""A gate opens tokens straight through, and its threshold follows the loss."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from hopscotch.layers.adapter import Adapter
from hopscotch.layers.gate import Gate, Rule, StraightThrough

DIM = 16
RULES = get_args(Rule)
MOVING = [rule for rule in RULES if rule != "off"]


def make(**changes: Any) -> tuple[Gate, Tensor, Tensor]:
    """A gate in training, tokens and their mask (the second clip has padding)."""
    torch.manual_seed(0)
    mask = torch.ones(4, 50, dtype=torch.bool)
    mask[1, 20:] = False
    return Gate(DIM, **changes).train(), torch.randn(4, 50, DIM), mask


def moved(gate: Gate, loss: float, lr: float = 0.01) -> float:
    """How far the threshold goes at this loss."""
    before = gate.threshold.item()
    gate.update_threshold(loss, lr)
    return gate.threshold.item() - before


def buffers(gate: Gate) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in gate.state_dict().items()}


# Forward and backward.


def test_straight_through_is_the_identity_for_the_score_and_minus_the_sum_for_the_threshold() -> None:
    score = torch.tensor([[0.2, 0.6], [0.9, 0.5]], requires_grad=True)
    threshold = torch.tensor(0.5, requires_grad=True)
    is_open: Any = StraightThrough.apply(score, threshold)
    assert is_open.tolist() == [[0, 1], [1, 0]]
    incoming = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    is_open.backward(incoming)
    assert torch.equal(score.grad, incoming)  # pyright: ignore[reportArgumentType]
    assert threshold.grad == -2.5


def test_the_score_is_the_original_one_with_a_sigmoid() -> None:
    gate, x, mask = make()
    gate.eval()
    normalised, keys = x / x.norm(dim=-1, keepdim=True), gate.keys / gate.keys.norm(dim=-1, keepdim=True)
    readout = torch.softmax(normalised @ keys.T / gate.log_temperature.exp(), dim=-1) @ gate.values
    score = torch.sigmoid(gate.combine(torch.cat([readout, gate.mlp(x)], dim=-1))).squeeze(-1)
    decision = gate(x, mask)
    assert torch.equal(decision.is_open.bool(), (score > 0.5) & mask)
    torch.testing.assert_close(decision.open_rate, decision.is_open.sum(1) / mask.sum(1))


def test_padding_is_never_open() -> None:
    gate, x, mask = make()
    gate.eval()
    decision = gate(x, mask, bias=1000.0)
    assert torch.equal(decision.is_open.bool(), mask)
    assert torch.equal(decision.computed, mask)
    assert gate(x, mask, bias=-1000.0).is_open.sum() == 0


@pytest.mark.parametrize("open_rate", [0.3, 0.85])
def test_the_first_training_batch_sets_the_offset_for_the_open_rate(open_rate: float) -> None:
    gate, x, mask = make(open_rate=open_rate)
    for _ in range(2):
        is_open = gate(x, mask).is_open.bool()
        assert int(is_open.sum()) / int(mask.sum()) == pytest.approx(open_rate, abs=0.01)
    offset = gate.offset.clone()
    assert offset != 0
    gate(x + 3, mask)
    assert torch.equal(gate.offset, offset)


def test_a_loaded_gate_keeps_its_offset() -> None:
    gate, x, mask = make()
    gate(x, mask)
    fresh, _, _ = make()
    fresh.load_state_dict(gate.state_dict())
    fresh(x + 3, mask)
    assert torch.equal(fresh.offset, gate.offset)


def test_scores_are_standardised_over_the_valid_tokens_of_the_batches_since() -> None:
    gate, x, mask = make(rule="off")
    x[1, 20:] = 1e3  # padding
    gate(x, mask)
    with torch.no_grad():
        gate.combine.weight.mul_(40)
        gate.values.add_(7.0)
    for training in (True, False):
        for _ in range(100):
            gate(x, mask)
            gate.update_threshold(1.0)
        standardised = (gate.train(training).logits(x, mask) - gate.offset)[mask]
        assert standardised.mean().abs() < 1e-3
        assert standardised.std().item() == pytest.approx(1, abs=0.01)


def test_a_forward_pass_alone_moves_no_score() -> None:
    gate, x, mask = make()
    gate(x, mask)
    before = gate.logits(x, mask)
    gate(x[:2] + 3, mask[:2])
    assert torch.equal(gate.logits(x, mask), before), "a clip of a batch would depend on the batch before"


def test_tokens_that_are_not_finite_leave_the_running_means_alone() -> None:
    gate, x, mask = make()
    gate(x, mask)
    before = buffers(gate)
    gate(x / 0, mask)
    for name in ("measured_mean", "measured_deviation"):
        assert torch.equal(gate.state_dict()[name], before[name])


def test_a_gradient_asks_nothing_that_shifts_or_stretches_all_scores_alike() -> None:
    gate, x, mask = make()
    gate(x, mask)
    (gate(x, mask).is_open * torch.rand(mask.shape)).sum().backward()
    values, weight = gate.values.grad, gate.combine.weight.grad
    assert isinstance(values, Tensor)
    assert isinstance(weight, Tensor)
    assert values.sum().abs() < 1e-3 * values.abs().sum(), "all values higher by the same"
    assert (weight * gate.combine.weight).sum().abs() < 0.02 * weight.norm(), "all scores larger by the same"


def test_a_detached_score_sends_nothing_back_to_the_tokens() -> None:
    for detach in (True, False):
        gate, x, mask = make(detach=detach)
        x.requires_grad_()
        gate(x, mask).is_open.sum().backward()
        assert (x.grad is None) == detach
        assert gate.keys.grad is not None
        assert gate.keys.grad.abs().sum() > 0


def test_packed_training_explores_a_share_of_the_closed_tokens() -> None:
    gate, x, mask = make(training_mode="packed", open_rate=0.5, explore=0.2)
    decision = gate(x, mask)
    is_open = decision.is_open.bool()
    assert (decision.computed & is_open).sum() == is_open.sum()
    closed = mask & ~is_open
    assert 0.05 < float((decision.computed & closed).sum() / closed.sum()) < 0.4
    assert not (decision.computed & ~mask).any()
    assert torch.equal(make(training_mode="full")[0](x, mask).computed, mask)


def test_macs_are_those_of_its_matrix_products() -> None:
    gate, _, _ = make(num_keys=4, hidden_ratio=0.25)
    assert gate.macs(10) == 10 * (DIM * 4 + 4 + DIM * 4 + 4 + 2)


# The threshold by gradient.


@pytest.mark.parametrize("set_to_none", [True, False])
def test_an_optimizer_moves_the_threshold_until_the_loss_does(set_to_none: bool) -> None:
    gate, x, mask = make(threshold_by="gradient", rule="off")
    optimizer = torch.optim.SGD(gate.parameters(), lr=0.001, momentum=0.9)

    def step() -> float:
        before = gate.threshold.item()
        optimizer.zero_grad(set_to_none=set_to_none)
        gate(x, mask).is_open.sum().backward()
        optimizer.step()
        return gate.threshold.item() - before

    assert step() > 0, "less open is cheaper here: the threshold rises"
    assert step() > 0
    gate.update_threshold(1.0)
    assert [step() for _ in range(3)] == [0, 0, 0], "no momentum drags it on"


def test_a_threshold_by_loss_is_a_buffer_that_saves_and_no_parameter() -> None:
    gate, _, _ = make(threshold_by="loss")
    assert "threshold" not in dict(gate.named_parameters())
    assert "threshold" in dict(gate.named_buffers())
    assert "threshold" in gate.state_dict()
    assert "threshold" in dict(make()[0].named_parameters())


def test_a_loaded_gate_knows_that_the_loss_moves_its_threshold() -> None:
    gate, _, _ = make(threshold_by="gradient")
    gate.update_threshold(1.0)
    fresh, _, _ = make(threshold_by="gradient")
    assert fresh.threshold.requires_grad
    fresh.load_state_dict(gate.state_dict())
    assert not fresh.threshold.requires_grad


# update_threshold.


@pytest.mark.parametrize("source", ["loss", "gradient"])
@pytest.mark.parametrize("rule", MOVING)
def test_every_rule_moves_the_threshold_both_ways(rule: Any, source: Any) -> None:
    gate, _, _ = make(rule=rule, threshold_by=source)
    gate.update_threshold(1.0)
    assert gate.threshold.item() == pytest.approx(0.5)
    assert moved(gate, 2.0) < 0, "a loss above its mean asks for more compute"
    assert moved(gate, 0.1) > 0


def test_the_steps_of_the_rules_are_those_documented() -> None:
    sign, proportional, target = (make(rule=rule)[0] for rule in ("sign", "proportional", "target"))
    for gate in (sign, proportional, target):
        gate.update_threshold(1.0)
    assert moved(sign, 1.3) == pytest.approx(-0.01)
    assert moved(proportional, 1.3) == pytest.approx(-0.003, abs=1e-6)
    assert moved(target, 1.3) == pytest.approx(0.01 * (0.85 - (0.85 + 0.1 * 0.3)), abs=1e-6)
    target.measured_rate.fill_(0.5)
    assert moved(target, float(target.loss_mean), lr=0.1) == pytest.approx(0.1 * (0.5 - 0.85), abs=1e-6)


def test_the_rule_off_moves_nothing() -> None:
    gate, _, _ = make(rule="off")
    gate.measured_rate.fill_(0.0)
    assert [moved(gate, loss) for loss in (1.0, 5.0, 0.1)] == [0, 0, 0]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), torch.tensor(float("nan"))])
@pytest.mark.parametrize("rule", RULES)
def test_a_loss_that_is_not_finite_changes_nothing_and_warns(rule: Any, loss: Any) -> None:
    gate, _, _ = make(rule=rule)
    gate.update_threshold(1.0)
    before = buffers(gate)
    with pytest.warns(UserWarning, match=r"update_threshold ignored a non-finite loss, (nan|inf)"):
        gate.update_threshold(loss)
    assert all(torch.equal(value, before[name]) for name, value in gate.state_dict().items())


@pytest.mark.parametrize("rule", MOVING)
def test_outside_floor_and_ceiling_the_threshold_moves_back_whatever_the_loss(rule: Any) -> None:
    for loss in (0.1, 1.0, 10.0):
        gate, _, _ = make(rule=rule, rate_floor=0.2, rate_ceiling=0.9)
        gate.update_threshold(1.0)
        gate.measured_rate.fill_(0.1)
        assert moved(gate, loss) == pytest.approx(-0.01)
        gate.measured_rate.fill_(0.95)
        assert moved(gate, loss) == pytest.approx(0.01)


@pytest.mark.parametrize("rule", MOVING)
def test_a_loss_that_only_falls_leaves_the_open_rate_above_its_floor(rule: Any) -> None:
    gate, x, mask = make(rule=rule, rate_floor=0.3, threshold_by="loss")
    rates = []
    for step in range(150):
        rates.append(gate(x, mask).open_rate.mean().item())
        gate.update_threshold(0.99**step, lr=0.004)
    assert min(rates[50:]) > 0.05
    assert 0.25 < sum(rates[50:]) / 100 < 0.99


def test_the_threshold_stays_between_0_and_1_with_room_for_the_bias_of_an_evaluation() -> None:
    for loss in (100.0, -100.0):
        gate, x, mask = make(rule="sign", rate_floor=0.0, rate_ceiling=1.0, open_rate=0.5)
        gate.update_threshold(0.0)
        for _ in range(5):
            gate.update_threshold(loss, lr=0.5)
        assert 0 < gate.threshold.item() < 1
        assert abs(gate.threshold.item() - 0.5) > 0.49
        gate.eval()
        assert gate(x, mask, bias=70.0).is_open.sum() == mask.sum()
        assert gate(x, mask, bias=-70.0).is_open.sum() == 0


@pytest.mark.parametrize("rule", RULES)
def test_threshold_survives_a_checkpoint(rule: Any) -> None:
    gate, x, mask = make(rule=rule)
    for loss in (1.0, 0.7, 1.4):
        gate(x, mask)
        gate.update_threshold(loss)
    fresh = Gate(DIM, rule=rule)
    fresh.load_state_dict(copy.deepcopy(gate.state_dict()))
    for one in (gate, fresh):
        one(x, mask)
        one.update_threshold(0.9)
    assert all(torch.equal(value, gate.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("rule", RULES)
def test_evaluation_leaves_every_buffer_bit_identical(rule: Any) -> None:
    gate, x, mask = make(rule=rule)
    gate(x, mask)
    gate.update_threshold(1.0)
    before = buffers(gate)
    gate.eval()
    gate(x + 1, mask, bias=0.3)
    gate.update_threshold(9.0)
    assert all(torch.equal(value, before[name]) for name, value in gate.state_dict().items())


@pytest.mark.parametrize("open_at", [0.0, 0.4])
def test_an_evaluation_before_any_training_sets_no_bias(open_at: float) -> None:
    gate, x, mask = make()
    before = buffers(gate)
    gate.eval()(x + open_at, mask)
    assert all(torch.equal(value, before[name]) for name, value in gate.state_dict().items())


def test_scores_stay_bounded_over_300_steps() -> None:
    torch.manual_seed(0)
    gate = Gate(DIM, threshold_by="loss")
    adapter, head = Adapter(DIM, 0, mini_hc=True, expansion=2, dropout=0.0, gate=gate), torch.nn.Linear(DIM, 2)
    optimizer, loss = torch.optim.AdamW([*adapter.parameters(), *head.parameters()], lr=0.01), torch.tensor(0.0)
    x, mask, labels = torch.randn(16, 6, DIM), torch.ones(16, 6, dtype=torch.bool), torch.arange(16) % 2
    for _ in range(300):
        optimizer.zero_grad()
        y, _ = adapter(x, mask, 0.0)
        loss = torch.nn.functional.cross_entropy(head(y.mean(dim=1)), labels)
        loss.backward()
        optimizer.step()
        gate.update_threshold(loss.item())
    assert loss.item() < 0.1
    assert gate.logits(x, mask).abs().max() < 10  # a probe without care ran off to 500


@pytest.mark.parametrize("rule", MOVING)
def test_no_rule_saturates_where_opening_every_token_is_all_that_the_gradient_asks(rule: Any) -> None:
    gate, _, mask = make(rule=rule, threshold_by="loss")
    optimizer = torch.optim.AdamW(gate.parameters(), lr=0.01)
    rates = []
    for step in range(600):
        optimizer.zero_grad()
        decision = gate(torch.randn(4, 50, DIM), mask)
        (-decision.is_open.sum()).backward()
        optimizer.step()
        gate.update_threshold(2 - 0.001 * step + 0.1 * torch.randn(()).item())
        rates.append(decision.open_rate.mean().item())
    assert 0.1 < sum(rates[300:]) / 300 < 0.99
    assert 0.05 < gate.threshold.item() < 0.95, "scores ran after it to 1 before they were standardised"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_floor": 0.9}, r"rate_floor, open_rate and rate_ceiling must rise from 0 to 1, got 0.9, 0.85, 0.98\."),
        ({"rate_ceiling": 1.1}, r"got 0.1, 0.85, 1.1\."),
    ],
)
def test_rates_out_of_order_are_rejected(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("lost", [-0.5, 1.5])
def test_a_threshold_that_an_optimizer_lost_still_lets_a_bias_decide(lost: float) -> None:
    gate, x, mask = make(threshold_by="gradient")
    gate(x, mask)
    assert isinstance(gate.threshold, torch.nn.Parameter)
    gate.threshold.data.fill_(lost)
    gate(x, mask).is_open.sum().backward()
    assert gate.threshold.grad is not None
    assert gate.threshold.grad.abs() > 0  # it can come back
    gate.eval()
    for bias, rate in ((1490.0, 1.0), (-1490.0, 0.0)):
        assert gate(x, mask, bias).open_rate.tolist() == [rate] * 4
