"""The model around an encoder: stem, head, budgets; tests/test_contract.py has what every model must keep."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hopscotch.data.augment import SpecAugment
from hopscotch.models.audio_model import AudioModel, Head, Pooling
from tests.small_models import DIM, decide_at_random, make_clips, make_model

SAMPLES = [6000, 2500, 4100, 200, 5999]


def decided(name: str, **changes: Any) -> tuple[AudioModel, torch.Tensor, torch.Tensor]:
    """A model in evaluation whose decisions differ from clip to clip."""
    model = make_model(name, **changes)
    waveform, lengths = make_clips(SAMPLES)
    decide_at_random(model, waveform, lengths)
    return model, waveform, lengths


def test_fixed_strides_behind_jumps_are_part_of_what_is_saved() -> None:
    fixed, plain = make_model("jump_attention"), make_model("jump_attention", first=1)
    assert fixed.cost(6000).floor < plain.cost(6000).floor


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


# The head.


@pytest.mark.parametrize("pooling", ["statistics", "maxima"])
def test_padding_changes_nothing_in_the_head(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    x, mask = torch.randn(2, 6, DIM), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = head(x, mask)
    torch.testing.assert_close(head(x[1:, :4], mask[1:, :4])[0], together[1])


@pytest.mark.parametrize("pooling", ["statistics", "maxima"])
def test_macs_of_the_head_are_those_that_ran(pooling: Pooling) -> None:
    head = Head(DIM, 3, pooling=pooling, dropout=0.0)
    with FlopCounterMode(display=False) as counter:
        head(torch.randn(2, 6, DIM), torch.ones(2, 6, dtype=torch.bool))
    assert int(head.macs(torch.tensor([6, 6])).sum()) == counter.get_total_flops() // 2


def test_maxima_are_those_of_single_positions() -> None:
    torch.manual_seed(0)
    head = Head(DIM, 3, pooling="maxima", dropout=0.0).eval()
    x = torch.randn(1, 50, DIM)
    normed = head.norm(x)[0]
    pooled = torch.cat([normed.mean(dim=0), normed.max(dim=0).values])
    torch.testing.assert_close(head(x, torch.ones(1, 50, dtype=torch.bool))[0], head.linear(pooled))
