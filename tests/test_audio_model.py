"""All seven models, from the waveform."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from hopscotch.data.augment import SpecAugment
from hopscotch.models.audio_model import AudioModel
from hopscotch.types import ModelOutput, SkipTrace
from tests.small_models import DECIDING, MODELS, decide_at_random, make_clips, make_model

SAMPLES = [6000, 2500, 4100, 200, 5999]


def decided(name: str, **changes: Any) -> tuple[AudioModel, torch.Tensor, torch.Tensor]:
    """A model in evaluation whose decisions differ from clip to clip."""
    model = make_model(name, **changes)
    waveform, lengths = make_clips(SAMPLES)
    decide_at_random(model, waveform, lengths)
    return model, waveform, lengths


def assert_same_clip(one: ModelOutput, i: int, other: ModelOutput, j: int, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.logits[i], other.logits[j], rtol=0, atol=tolerance)
    for field in ("strides", "visited", "jumps", "landings", "macs", "dense_macs"):
        assert torch.equal(getattr(one.trace, field)[i], getattr(other.trace, field)[j]), field
    torch.testing.assert_close(one.trace.open_rate[i], other.trace.open_rate[j], rtol=0, atol=1e-6, equal_nan=True)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MODELS),
    ("learned_skip", {"gate_input": "encoder"}),
    ("skip_transformer", {"policy": {"sees": "state"}}),
    ("skip_layer", {"policy": {"sees": "input"}, "jump": {"mix": "literal", "rule": "literal"}}),
    *((name, {"open_rate": 0.5}) for name in ("dense", "learned_skip", "skip_transformer", "jump_attention")),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_a_clip_alone_equals_the_same_clip_in_a_padded_batch_decisions_included(
    name: str, changes: dict[str, Any]
) -> None:
    model, waveform, lengths = decided(name, **changes)
    together = model(waveform, lengths)
    if model.decides:
        assert len(set(together.trace.fraction.tolist())) > 2
    for clip, samples in enumerate(SAMPLES):
        alone = model(waveform[clip : clip + 1, :samples], lengths[clip : clip + 1])
        assert_same_clip(alone, 0, together, clip)
    longer = model(nn.functional.pad(waveform, (0, 3000)), lengths)
    for clip in range(len(SAMPLES)):
        assert_same_clip(longer, clip, together, clip)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_changing_clip_i_leaves_clip_j_untouched_decisions_included(name: str, changes: dict[str, Any]) -> None:
    model, waveform, lengths = decided(name, **changes)
    before = model(waveform, lengths)
    changed = waveform.clone()
    changed[2, :4100] = torch.randn(4100).cumsum(0) / 50
    after = model(changed, lengths)
    assert not torch.allclose(after.logits[2], before.logits[2])
    for clip in (0, 1, 3, 4):
        # Not to the last bit: where clip 2 now decides otherwise, the others share their products with other rows.
        assert_same_clip(after, clip, before, clip, tolerance=1e-6)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_changing_clip_i_but_not_its_decisions_leaves_clip_j_untouched_bit_for_bit(
    name: str, changes: dict[str, Any]
) -> None:
    model, waveform, lengths = decided(name, **changes)
    before = model(waveform, lengths)
    changed = waveform.clone()
    changed[2, :4100] += 3e-5 * torch.randn(4100)
    after = model(changed, lengths)
    assert torch.equal(after.trace.macs, before.trace.macs), "the same decisions"
    assert not torch.equal(after.logits[2], before.logits[2])
    for clip in (0, 1, 3, 4):
        assert torch.equal(after.logits[clip], before.logits[clip])


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_leaves_every_buffer_bit_identical(name: str) -> None:
    model, waveform, lengths = decided(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(waveform, lengths)
    model.update_threshold(3.0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_survives_its_state_dict(name: str) -> None:
    model, waveform, lengths = decided(name)
    model.decision_bias.fill_(0.3)
    fresh = make_model(name, seed=1).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(waveform, lengths).logits, model(waveform, lengths).logits)


# Budgets.


@pytest.mark.parametrize(("name", "changes"), [v for v in VARIANTS if v[0] in DECIDING])
def test_the_decision_bias_reaches_1_exactly_and_the_floor_exactly(name: str, changes: dict[str, Any]) -> None:
    model, waveform, lengths = decided(name, **changes)
    floors = [model.cost(samples).floor for samples in SAMPLES]
    if name == "jump_attention" and "open_rate" not in changes:  # of one open token every stride reads one key
        fixed = make_model("jump_attention", first=1, **changes).eval()
        assert model.cost(6000).floor < fixed.cost(6000).floor, "the strides behind the jumps are part of what is saved"
    model.decision_bias.fill_(1e5)
    highest = model(waveform, lengths).trace
    model.decision_bias.fill_(-1e5)
    lowest = model(waveform, lengths).trace
    assert lowest.fraction.tolist() == pytest.approx(floors, abs=1e-12)
    if name != "jump_attention":  # whose attention keeps its strides
        assert highest.fraction.tolist() == [1.0] * len(SAMPLES)
    assert highest.visited.all()


@pytest.mark.parametrize("name", DECIDING)
def test_a_larger_decision_bias_costs_more(name: str) -> None:
    model, waveform, lengths = decided(name)

    def fraction(bias: float) -> float:
        model.decision_bias.fill_(bias)
        trace: SkipTrace = model(waveform, lengths).trace
        return int(trace.macs.sum()) / int(trace.dense_macs.sum())

    fractions = [fraction(bias) for bias in (-20.0, -5.0, -2.0, 0.0, 2.0, 5.0, 20.0)]
    assert fractions[0] < fractions[3] < fractions[-1]
    # A clip that jumps less far may land where it then jumps further: small steps back are the models' right.
    assert all(later > earlier - 0.05 for earlier, later in pairwise(fractions))


@pytest.mark.parametrize("name", ["dense", "skip_attention"])
def test_a_model_that_decides_nothing_has_its_own_fraction_as_floor_whatever_the_bias(name: str) -> None:
    model, waveform, lengths = decided(name)
    assert not model.decides
    before = model(waveform, lengths)
    model.decision_bias.fill_(-50.0)
    assert torch.equal(model(waveform, lengths).logits, before.logits)
    assert before.trace.fraction.tolist() == pytest.approx([model.cost(samples).floor for samples in SAMPLES])


def test_expected_compute_is_a_share_of_the_whole_model() -> None:
    model, waveform, lengths = decided("skip_transformer")
    output = model(waveform, lengths)
    mel, frames = model.frontend(waveform, lengths)
    _, inner = model.encoder(*model.stem(mel, frames))
    fixed = output.trace.macs - inner.macs
    assert torch.equal(output.trace.dense_macs - inner.dense_macs, fixed)
    assert (fixed > 0).all()
    expected = (inner.expected_compute * inner.dense_macs + fixed) / (inner.dense_macs + fixed)
    torch.testing.assert_close(output.trace.expected_compute, expected)
    assert torch.equal(output.frontend_macs, model.frontend.macs(lengths))


# Augmentation.


def test_augmentation_is_for_training_and_keyed_by_clip() -> None:
    augment = SpecAugment(num_time_masks=1, time_mask_share=0.3, num_mel_masks=1, mel_mask_share=0.3, tilt=0.1)
    model = make_model("dense", spectrogram_augment=augment)
    waveform, lengths = make_clips([4000, 2000])
    keys = torch.tensor([5, 7])
    plain = model.eval()(waveform, lengths, keys=keys).logits
    model.train()
    augmented = model(waveform, lengths, keys=keys).logits
    assert not torch.allclose(plain, augmented)
    torch.testing.assert_close(model(waveform, lengths).logits, plain, rtol=0, atol=1e-5)
    alone = model(waveform[1:, :2000], lengths[1:], keys=keys[1:]).logits
    torch.testing.assert_close(alone[0], augmented[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["dense", "learned_skip", "skip_transformer", "jump_attention"])
def test_branches_start_as_large_as_asked(model: str) -> None:
    usual, small = (
        dict(make_model(model, residual_init_scale=start).encoder.named_parameters()) for start in (1.0, 0.1)
    )
    scaled = {name for name in usual if not torch.equal(usual[name], small[name])}
    ends = (".around.", ".attention.output.", ".attention.attention.output.", ".ffn.2.")
    assert scaled == {name for name in usual if any(end in f".{name}" for end in ends)}
    assert scaled
    for name in scaled:
        torch.testing.assert_close(small[name], 0.1 * usual[name])
