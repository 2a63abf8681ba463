"""A stride per clip, chosen by a gate that learns."""

import pytest
import torch
from torch import Tensor

from hopscotch.layers.sampling import floored
from hopscotch.layers.stride import LearnedSkip, StrideChoice, StrideGate, stride_pattern
from tests.small_models import last_layers

DIM, HEADS, TIME, CLIPS = 16, 2, 11, 6
LENGTHS = torch.tensor([11, 7, 1, 10, 3, 11])


def make(estimator: str = "selected") -> tuple[LearnedSkip, Tensor]:
    torch.manual_seed(0)
    return LearnedSkip(DIM, HEADS, 4, estimator=estimator).train(), torch.randn(CLIPS, TIME, DIM)  # pyright: ignore[reportArgumentType]


def masked_attention(layer: LearnedSkip, x: Tensor, lengths: Tensor, choice: StrideChoice) -> Tensor:
    """Dense attention with a (time, keys) mask per clip, times the straight-through weight of the stride."""
    attention, rows = layer.attention, []
    for clip, stride in enumerate(choice.strides.tolist()):
        kept = [j % stride == 0 and j < lengths[clip] for j in range(TIME)]
        key, value = attention.key_value(x[clip]).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(0, 1) for part in (attention.query(x[clip]), key, value)
        )
        scores = query @ key.transpose(-1, -2) / (DIM // HEADS) ** 0.5
        shares = scores.masked_fill(~torch.tensor(kept), -torch.inf).softmax(dim=-1)
        y = attention.output((shares @ value).transpose(0, 1).flatten(1))
        rows.append(y * choice.weights[clip, stride - 1])
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", [torch.full((CLIPS,), TIME), LENGTHS], ids=["equal", "padded"])
def test_selected_packed_equals_masked_in_value_and_gradient_of_gate_too(lengths: Tensor) -> None:
    layer, x = make()
    x.requires_grad_()
    choice = layer.choose(x, lengths)
    assert len(set(choice.strides.tolist())) > 1
    packed, masked = layer.attend(x, lengths, choice), masked_attention(layer, x, lengths, choice)
    torch.testing.assert_close(packed, masked, rtol=0, atol=1e-5)
    incoming = torch.randn_like(x)
    wanted = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad((y * incoming).sum(), wanted, retain_graph=True) for y in (packed, masked))
    for packed_gradient, masked_gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(packed_gradient, masked_gradient, rtol=1e-5, atol=1e-5)
    assert all(gradient.abs().sum() > 0 for gradient in ours)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["equal", "padded"])
def test_soft_dense_training_equals_packed_evaluation_in_value(lengths: Tensor | None) -> None:
    layer, x = make("soft")
    choice = layer.choose(x, lengths)
    assert len(set(choice.strides.tolist())) > 1
    trained = layer.attend(x, lengths, choice)
    torch.testing.assert_close(layer.eval().attend(x, lengths, choice), trained, rtol=0, atol=1e-5)


def test_soft_teaches_the_strides_that_were_not_chosen() -> None:
    layer, x = make("soft")
    choice = layer.choose(x)
    (gradient,) = torch.autograd.grad(layer.attend(x, None, choice).square().sum(), choice.weights)
    chosen = torch.nn.functional.one_hot(choice.strides - 1, 4).bool()
    assert (gradient[~chosen].abs() > 0.1).all()
    assert (gradient[chosen].abs() < 1e-4).all(), "shares do not change when all kept keys count for more"


@pytest.mark.parametrize("estimator", ["selected", "soft"])
def test_the_gate_gets_a_gradient_from_the_task_alone(estimator: str) -> None:
    layer, x = make(estimator)
    layer(x, LENGTHS).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.gate.parameters())


def test_training_draws_strides_in_proportion_to_their_probabilities() -> None:
    torch.manual_seed(0)
    gate = StrideGate(DIM, 4).train()
    (last,) = last_layers(gate)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    choice = gate(torch.zeros(4000, DIM))
    drawn = torch.bincount(choice.strides - 1, minlength=4) / 4000
    torch.testing.assert_close(drawn, choice.probabilities[0], rtol=0, atol=0.03)
    assert torch.equal(choice.weights.detach().argmax(1) + 1, choice.strides)
    assert choice.weights.detach().sum(1).tolist() == [1.0] * 4000
    distribution = torch.distributions.Categorical(choice.probabilities)
    torch.testing.assert_close(choice.entropy, distribution.entropy(), rtol=0, atol=1e-5)


def test_evaluation_takes_the_most_likely_stride_and_draws_nothing() -> None:
    layer, x = make()
    layer.eval()
    state = torch.get_rng_state()
    choice = layer.choose(x, LENGTHS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(choice.strides, choice.probabilities.argmax(1) + 1)
    assert torch.equal(layer(x, LENGTHS), layer.attend(x, LENGTHS, choice))


def test_there_are_exactly_max_stride_choices_and_a_fresh_gate_prefers_none() -> None:
    gate = StrideGate(DIM, 5).eval()
    probabilities = gate(torch.randn(8, DIM)).probabilities
    assert probabilities.shape == (8, 5)
    torch.testing.assert_close(probabilities, torch.full((8, 5), 0.2), rtol=0, atol=0.05)


def test_a_larger_bias_never_lengthens_a_stride() -> None:
    torch.manual_seed(0)
    gate, pooled = StrideGate(DIM, 8).eval(), torch.randn(20, DIM)
    strides = torch.stack([gate(10 * pooled, bias).strides for bias in (-1e4, -3.0, -1.0, 0.0, 1.0, 3.0, 1e4)])
    assert (strides.diff(dim=0) <= 0).all()
    assert strides[0].unique().tolist() == [8]
    assert strides[-1].unique().tolist() == [1]


def test_the_pattern_of_stride_k_keeps_every_kth_position() -> None:
    rows = stride_pattern(7, 3, torch.device("cpu")).long().tolist()
    assert rows == [[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0, 1], [1, 0, 0, 1, 0, 0, 1]]


def test_a_longest_stride_of_1_is_plain_attention() -> None:
    torch.manual_seed(0)
    layer, x = LearnedSkip(DIM, HEADS, 1), torch.randn(2, TIME, DIM)
    assert torch.equal(layer.eval()(x), layer.attention(x))
    assert layer.gate(torch.zeros(1, DIM), 5.0).strides.tolist() == [1]


def test_what_is_no_choice_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"max_stride must be a whole number of at least 1 .*got 0\."):
        LearnedSkip(DIM, HEADS, 0)


def test_costs_are_against_stride_1_and_the_cheapest_stride_is_taken() -> None:
    gate = StrideGate(4, 4, num_features=6, estimator="gain").eval()
    with torch.no_grad():
        last = gate.net[2]
        assert isinstance(last, torch.nn.Linear)
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 0.9, 1.2, 0.5]))
    pooled = torch.randn(3, 6)
    torch.testing.assert_close(gate.costs(pooled), torch.tensor([0.0, 0.1, -0.2, 0.5]).expand(3, -1))
    assert gate(pooled).strides.tolist() == [3, 3, 3]
    assert gate(pooled, bias=100.0).strides.tolist() == [1, 1, 1]
    assert gate(pooled, bias=-1000.0).strides.tolist() == [4, 4, 4]
    assert gate.macs() == 6 * 4 + 4 * 4
    assert not any(parameter.requires_grad for parameter in gate.parameters())


def test_choices_keep_a_chance_however_many_they_are() -> None:
    sure = torch.zeros(2, 64).index_fill(1, torch.tensor([3]), 1.0)
    chances = floored(sure)
    assert torch.allclose(chances.sum(dim=1), torch.ones(2))
    assert chances.min() > 0.005
    assert torch.equal(floored(sure[:, :8]), (1 - 0.02 * 8) * sure[:, :8] + 0.02)


def test_the_gate_reads_its_input_and_does_not_steer_it() -> None:
    pooled = torch.randn(3, DIM, requires_grad=True)
    StrideGate(DIM, 4).train()(pooled).probabilities[:, 0].sum().backward()
    assert pooled.grad is None
