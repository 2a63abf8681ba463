"""A gate before the encoder: what it closes costs nothing and stays as it was, what it opens goes through."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hopscotch.models import token_gate
from hopscotch.models.encoder import Encoder
from hopscotch.models.token_gate import GatedEncoder, groups_of, stretched
from hopscotch.types import Decisions, SkipTrace, valid_mask
from tests.counting import counted_macs
from tests.small_models import DIM, decide_at_random, make_encoder, skip_nothing

LENGTHS = torch.tensor([30, 12, 1, 21])
GATED = ("dense", "learned_skip", "skip_transformer", "jump_attention")


def make_gated(name: str = "dense", **changes: Any) -> tuple[GatedEncoder, Tensor]:
    """In evaluation, about half of the tokens open; and clips for it."""
    torch.manual_seed(0)
    encoder = make_encoder(name, open_rate=0.5, **changes)
    assert isinstance(encoder, GatedEncoder)
    x = torch.randn(len(LENGTHS), 30, DIM) * valid_mask(LENGTHS, 30)[:, :, None]
    decide_at_random(encoder, x, LENGTHS)
    return encoder, x


def run(encoder: Encoder, x: Tensor, lengths: Tensor = LENGTHS, **how: Any) -> tuple[Tensor, SkipTrace]:
    with torch.no_grad():
        return encoder(x, lengths, **how)


@pytest.mark.parametrize("name", GATED)
def test_closed_tokens_stay_and_open_ones_are_the_encoders_on_them_alone(name: str) -> None:
    encoder, x = make_gated(name)
    y, trace = run(encoder, x)
    assert trace.tokens is not None
    for clip, length in enumerate(LENGTHS.tolist()):
        is_open = trace.tokens[clip, :length].clone()
        assert trace.visited[clip, 0] == is_open.any()
        assert bool(trace.open_rate[clip, 0].isnan()) == (not is_open.any())
        assert torch.equal(y[clip, :length][~is_open], x[clip, :length][~is_open])
        if is_open.any():
            alone, _ = run(encoder.encoder, x[clip : clip + 1, :length][:, is_open], is_open.sum()[None])
            torch.testing.assert_close(y[clip, :length][is_open], alone[0], rtol=0, atol=1e-5)
    assert 0.2 < float(trace.tokens.sum() / LENGTHS.sum()) < 0.8, "some open and some closed, for this to be a test"


@pytest.mark.parametrize("name", GATED)
def test_with_every_token_open_it_is_the_encoder_itself(name: str) -> None:
    encoder, x = make_gated(name)
    skip_nothing(encoder)
    y, trace = run(encoder, x)
    expected, inner = run(encoder.encoder, x)
    mask = valid_mask(LENGTHS, 30)
    torch.testing.assert_close(y[mask], expected[mask], rtol=0, atol=1e-5)
    assert trace.macs.tolist() == (inner.macs + encoder.gate.macs(LENGTHS)).tolist()
    assert trace.dense_macs.tolist() == (inner.dense_macs + encoder.gate.macs(LENGTHS)).tolist()


@pytest.mark.parametrize("name", ["dense", "skip_transformer"])
def test_macs_are_those_that_ran(name: str) -> None:
    encoder, x = make_gated(name)
    _, trace = run(encoder, x[:1], LENGTHS[:1])
    assert int(trace.macs) == pytest.approx(counted_macs(encoder, x[:1], LENGTHS[:1]), rel=0.02)
    cost = encoder.cost(30)
    assert cost.cheapest < int(trace.macs) < cost.dense == int(trace.dense_macs)
    if name == "dense":  # a policy expects what it may draw, not what it takes
        assert float(trace.expected_compute) == pytest.approx(float(trace.fraction), rel=1e-6)


def passes_of(encoder: GatedEncoder) -> list[int]:
    """How many clips go through the inner encoder together, pass by pass, from now on."""
    widths: list[int] = []
    encoder.encoder.register_forward_pre_hook(lambda _, arguments: widths.append(len(arguments[0])))
    return widths


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in GATED), ("learned_skip", {"estimator": "gain", "gate_input": "first"})],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_clips_come_out_the_same_however_they_are_grouped(
    name: str, changes: dict[str, str], shuffled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, x = make_gated(name, **changes)
    repeat = run(encoder, x)[1].decisions[torch.tensor([3, 0, 1, 2])] if shuffled else None
    passes = passes_of(encoder)
    monkeypatch.setattr(token_gate, "PASS", float("inf"))
    y, trace = run(encoder, x, repeat=repeat)
    assert len(passes) == 1
    monkeypatch.setattr(token_gate, "PASS", 0.0)
    again, same = run(encoder, x, repeat=repeat)
    assert len(passes) > 2
    assert sum(passes) == 2 * passes[0]
    torch.testing.assert_close(again, y, rtol=0, atol=1e-5)
    columns = [field.name for kind in (SkipTrace, Decisions) for field in fields(kind) if field.name != "decisions"]
    for column in columns:
        one, other = (getattr(t if hasattr(t, column) else t.decisions, column) for t in (trace, same))
        if column == "expected_compute" and name == "jump_attention":
            continue  # of adapters: a layer that a clip jumps over has the mean open rate of its batch
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5, equal_nan=True, msg=column)


@pytest.mark.parametrize("name", GATED)
def test_a_clip_without_an_open_token_skips_the_encoder_and_pays_the_gate_alone(name: str) -> None:
    encoder, x = make_gated(name)
    decisions = run(encoder, x)[1].decisions
    assert decisions.tokens is not None
    tokens = decisions.tokens.clone()
    tokens[0], tokens[1, 0] = False, True
    passes = passes_of(encoder)
    y, trace = run(encoder, x, repeat=replace(decisions, tokens=tokens))
    assert sum(passes) == int(tokens.any(dim=1).sum()) < len(LENGTHS)
    assert torch.equal(y[0], x[0])
    assert int(trace.macs[0]) == int(encoder.gate.macs(LENGTHS[:1]))
    assert not trace.visited[0].any()
    assert trace.visited[1].any()
    _, nothing = run(encoder, x, repeat=replace(decisions, tokens=torch.zeros_like(tokens)))
    assert nothing.macs.tolist() == encoder.gate.macs(LENGTHS).tolist()
    assert encoder.cost(30).cheapest == encoder.gate.macs(30)


def test_clips_of_like_size_share_a_pass_and_a_long_one_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = make_gated()

    def macs(size: int) -> int:
        return encoder.encoder_cost(size).dense

    monkeypatch.setattr(token_gate, "PASS", macs(20))  # a pass costs as much as 20 tokens
    assert groups_of([100, 30, 400, 28, 31, 102], macs) == [[3, 1, 4], [0, 5], [2]]
    assert groups_of([0, 30, 0, 28], macs) == [[3, 1]]
    assert groups_of([0, 0], macs) == []
    assert groups_of([0, 30, 400], macs, together=True) == [[1, 2]]


def test_in_training_all_clips_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_gate, "PASS", 0.0)
    encoder, x = make_gated()
    encoder.train()
    passes = passes_of(encoder)
    encoder(x, LENGTHS)
    assert passes == [len(LENGTHS)]


def test_tokens_that_explore_change_nothing_and_the_gate_learns_from_them() -> None:
    encoder, x = make_gated()
    encoder.train()
    encoder.gate.explore = 1.0  # every closed token comes along
    y, trace = encoder(x, LENGTHS)
    assert trace.tokens is not None
    closed = valid_mask(LENGTHS, 30) & ~trace.tokens
    assert closed.any()
    torch.testing.assert_close(y[closed], x[closed], rtol=0, atol=1e-6)
    y[closed].square().sum().backward()
    gradient = encoder.gate.keys.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_open_rate_falls_to_where_it_stays_by_half_of_training() -> None:
    encoder, _ = make_gated()
    rates = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        encoder.set_progress(progress)
        rates.append(encoder.gate.open_rate)
    assert rates == pytest.approx([0.98, 0.74, 0.5, 0.5])


def test_the_loss_moves_its_threshold() -> None:
    encoder, x = make_gated()
    encoder.train()
    encoder.gate.measured_rate.fill_(0.9)
    before = encoder.gate.threshold.clone()
    encoder.gate.update_threshold(1.0, 0.01)
    assert encoder.gate.threshold > before  # more are open than asked for
    encoder.eval()
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    run(encoder, x)
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())


def test_tokens_can_be_repeated_and_shuffled() -> None:
    encoder, x = make_gated("learned_skip")
    y, trace = run(encoder, x)
    again, same = run(encoder, x, repeat=trace.decisions)
    torch.testing.assert_close(again, y, rtol=0, atol=1e-6)
    assert torch.equal(same.macs, trace.macs)
    order = torch.tensor([3, 2, 1, 0])
    _, shuffled = run(encoder, x, repeat=trace.decisions[order])
    assert trace.tokens is not None
    assert shuffled.tokens is not None
    assert not torch.equal(shuffled.tokens, trace.tokens)
    rates = [trace.tokens[i, : LENGTHS[i]].float().mean() for i in range(4)]
    assert float(shuffled.tokens[0].float().mean()) == pytest.approx(float(rates[3]), abs=0.05)


def test_tokens_of_a_shorter_clip_are_stretched_over_a_longer_one() -> None:
    tokens = torch.tensor([[True, False, True, False]])
    longer = stretched(tokens, torch.tensor([3]), torch.tensor([6]), 8)
    assert longer.tolist() == [[True, True, False, False, True, True, False, False]]


def test_traces_of_batches_of_different_length_are_joined() -> None:
    encoder, x = make_gated()
    traces = [run(encoder, x[:, :time], LENGTHS.clamp(max=time))[1] for time in (30, 12)]
    joined = SkipTrace.kept(traces)
    assert joined.tokens is not None
    assert joined.tokens.shape == (8, 30)
    assert not joined.tokens[4:, 12:].any()


def test_a_rate_that_the_gate_may_not_have_is_refused() -> None:
    gate = {"rule": "target", "open_rate": 0.05, "rate_floor": 0.1, "rate_ceiling": 0.98}
    with pytest.raises(ValueError, match=r"^open_rate must lie between .*, 0\.1 and 0\.98, got 0\.05\."):
        GatedEncoder(make_encoder("dense"), DIM, gate=gate)
    with pytest.raises(ValueError, match=r"^rule must be target in a gate before an encoder, got sign"):
        GatedEncoder(make_encoder("dense"), DIM, gate={**gate, "open_rate": 0.5, "rule": "sign"})


@pytest.mark.parametrize("name", GATED)
def test_training_ends_with_so_many_macs_at_most(name: str) -> None:
    """Counted on a clip of as many positions as are then let in."""
    encoder, _ = make_gated(name)
    gate, inner = encoder.gate.macs(30), encoder.encoder.cost(15).dense
    assert encoder.cost(30).trained == gate + inner < encoder.cost(30).dense


def test_no_part_of_the_encoder_is_left_without_gradient() -> None:
    encoder, x = make_gated()
    encoder.train()
    y, _ = encoder(x, LENGTHS)
    y.square().sum().backward()
    without = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert without == []
