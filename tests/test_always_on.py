"""Closed seconds cost stage 0 alone, results stand at their true positions, and depend on their own context alone."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hopscotch import build
from hopscotch.frontend import LogMel
from hopscotch.layers.block import BlockSpec
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.heads import DetectionHead
from hopscotch.models.stack import Stack
from hopscotch.models.stem import ConvStem
from hopscotch.training.calibration import calibrate
from hopscotch.training.waking import waking_losses
from hopscotch.types import AudioBatch, Decisions, Step
from tests.counting import counted_macs
from tests.tiny import composed

RATE, HOP, DIM = 4000, 40, 16  # samples a second, samples from frame to frame, 10 ms
UNIT = 8 * HOP  # samples: two positions of four frames
STAGE = dict(composed("model=always_on").model.stage)


def parts(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    frontend = LogMel(sample_rate=RATE, num_mels=8, window_seconds=0.032, level="none", top_db=60.0)
    return {
        "name": "always_on",
        "frontend": frontend,
        "spectrogram_augment": None,
        "encoder": Stack(BlockSpec(DIM, 2, dropout=0.0, convolution_width=3), 2),
        "dim": DIM,
        "stem": ConvStem(8, DIM, stride=4, dropout=0.0, positions="none"),
        "head": partial(DetectionHead, num_outputs=3, pooling="statistics", dropout=0.0),
    }


def make(**changes: Any) -> AlwaysOn:
    return AlwaysOn(**(STAGE | {"channels": 8} | changes), **parts()).eval()


def noise(*seconds: float) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([round(RATE * one) for one in seconds])
    waveform = 0.1 * torch.randn(len(seconds), int(lengths.max()), generator=torch.Generator().manual_seed(1))
    loud = torch.rand(len(seconds), 1 + waveform.shape[1] // RATE, generator=torch.Generator().manual_seed(2))
    waveform = waveform * loud.repeat_interleave(RATE, dim=1)[:, : waveform.shape[1]]
    return waveform * (torch.arange(waveform.shape[1]) < lengths[:, None]), lengths


def first_weight(model: AlwaysOn) -> Tensor:
    return next(model.stem.parameters())


def head_of(model: AlwaysOn) -> DetectionHead:
    assert isinstance(model.head, DetectionHead)
    return model.head


def opened(model: AlwaysOn, like: Decisions, *spans: tuple[int, int]) -> Decisions:
    assert like.tokens is not None
    tokens = torch.zeros_like(like.tokens)
    for start, end in spans:
        tokens[:, start:end] = True
    return replace(like, tokens=tokens)


@torch.no_grad()
def test_everything_open_is_the_full_model_alone() -> None:
    model, full = make(longest=60.0), AudioModel(**parts()).eval()
    waveform, lengths = noise(3.0, 2.33)
    model.decision_bias.fill_(1e3)
    output, expected = model(waveform, lengths), full(waveform, lengths)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5)
    assert (
        output.trace.macs.tolist()
        == (expected.trace.macs + model.stage.macs((model.frontend.frames(lengths) + 1) // 2)).tolist()
    )
    assert output.frontend_macs.tolist() == expected.frontend_macs.tolist()


def test_a_model_that_never_sleeps_has_no_stage_0_and_decides_nothing() -> None:
    model, other = make(awake_rate=1.0), make()
    model.load_state_dict(other.state_dict(), strict=False)
    assert not list(model.stage.parameters())
    assert model.skips == {"tokens"}
    assert (model.decides, other.decides) == (False, True)
    waveform, lengths = noise(9.0, 2.33)
    other.decision_bias.fill_(1e3)
    for is_training in (False, True):
        model.train(is_training)
        output = model(waveform, lengths)
        assert output.stage is None
        assert output.trace.macs.tolist() == output.trace.dense_macs.tolist()
        assert output.trace.expected_compute.tolist() == [1.0, 1.0]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(waveform, lengths).logits, other(waveform, lengths).logits)


def test_what_is_kept_of_a_step_holds_no_graph() -> None:
    waveform, lengths = noise(9.0)
    output = make().train()(waveform, lengths)
    nothing = torch.zeros(1)
    batch = AudioBatch(waveform, lengths, torch.zeros(1, 1, 3, dtype=torch.long), torch.tensor([0]), torch.tensor([0]))
    kept = Step(nothing, output, batch, (nothing, nothing), {}).output
    assert output.stage is not None
    assert output.stage.requires_grad
    tensors = [value for value in (*kept, *vars(kept.trace).values()) if isinstance(value, Tensor)]
    assert len(tensors) > 4
    assert not any(value.requires_grad for value in tensors)


def test_training_opens_as_much_of_its_recordings_as_it_is_told() -> None:
    model = make(awake_rate=0.05, training_rate=0.5, random_rate=0.0).train()
    waveform, lengths = noise(60.0)
    for progress, share in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.5)):
        model.set_progress(progress)
        tokens = model(waveform, lengths).trace.decisions.tokens
        assert tokens is not None
        assert float(tokens.float().mean()) == pytest.approx(share, abs=0.03)


@torch.no_grad()
def test_a_long_span_in_parts_differs_from_the_whole_only_by_what_lies_beyond_the_context() -> None:
    whole, cut = make(longest=60.0), make(longest=2.0, context=1.0)
    waveform, lengths = noise(9.0)
    for model in (whole, cut):
        model.decision_bias.fill_(1e3)
    expected, found = whole(waveform, lengths), cut(waveform, lengths)
    assert found.logits.shape == expected.logits.shape
    assert found.trace.macs.item() == cut.cost(int(lengths)).dense > expected.trace.macs.item()
    difference = (found.logits - expected.logits).abs().amax(dim=2)
    assert 0 < difference.max() < 0.3  # attention alone reaches that far


@torch.no_grad()
def test_a_result_depends_on_its_piece_alone_and_stands_at_its_true_position() -> None:
    model = make()
    waveform, lengths = noise(8.0, 8.0)
    decisions = opened(model, model(waveform, lengths).trace.decisions, (30, 60))
    before = model(waveform, lengths, repeat=decisions)
    closed = before.logits.argmax(dim=2) == 3
    core = slice(30 + model.context, 60 - model.context)
    is_core = torch.zeros(before.logits.shape[1], dtype=torch.bool)
    is_core[core] = True
    assert closed[:, ~is_core].all()
    assert (before.logits[:, ~is_core, -1] == 30.0).all()
    assert before.logits[:, is_core].std() > 0
    half = model.frontend.fft // 2
    outside = waveform.clone()
    outside[:, : 30 * UNIT - half] = 0.5
    outside[:, 60 * UNIT + half :] = -0.5
    torch.testing.assert_close(model(outside, lengths, repeat=decisions).logits, before.logits, rtol=0, atol=1e-5)
    inside = waveform.clone()
    inside[:, 59 * UNIT : 60 * UNIT] = 0.5  # of the context
    assert not torch.equal(model(inside, lengths, repeat=decisions).logits, before.logits)
    later = torch.roll(waveform, 20 * UNIT, dims=1)
    moved = model(later, lengths, repeat=opened(model, decisions, (50, 80)))
    here = slice(core.start + 20, core.stop + 20)
    torch.testing.assert_close(moved.logits[:, here], before.logits[:, core], rtol=0, atol=1e-4)


def test_closed_seconds_cost_stage_0_alone() -> None:
    model = make()
    model.decision_bias.fill_(-1e3)
    long, short = noise(20.0), noise(10.0)
    extra = counted_macs(model, *long) - counted_macs(model, *short)
    frames = [model.frontend.frames(lengths) for _, lengths in (long, short)]
    thin = [(one + 1) // 2 for one in frames]
    bands = model.frontend.mel.mel_scale.get_buffer("fb").numel()
    assert extra == int(model.stage.macs(thin[0]) - model.stage.macs(thin[1])) + bands * int(thin[0] - thin[1])
    with torch.no_grad():
        output = model(*long)
    assert output.trace.macs.tolist() == model.stage.macs(thin[0]).tolist() == [model.cost(80_000).cheapest]
    assert output.frontend_macs.item() == int(thin[0]) * model.frontend.frame_macs
    assert output.trace.awake is not None
    assert output.trace.awake.tolist() == [0.0]
    assert not output.trace.visited.any()


def test_losses_reach_stage_0_and_the_full_model() -> None:
    model = make().train()
    model.set_progress(1.0)
    waveform, lengths = noise(20.0, 15.0)
    output = model(waveform, lengths, keys=torch.tensor([1, 2]))
    assert output.stage is not None
    events = torch.tensor([[[20_000, 22_000, 1]], [[-1, -1, -1]]])
    steps = (model.frontend.frames(lengths) + 3) // 4
    waking_losses(output.stage, steps, events, step_samples=4 * HOP, sample_rate=RATE).mean().backward(
        retain_graph=True
    )
    assert all(parameter.grad is not None for parameter in model.stage.parameters())
    assert first_weight(model).grad is None
    model.zero_grad()
    ((output.trace.expected_compute.mean() - 0.1) ** 2).backward(retain_graph=True)
    assert any(parameter.grad is not None for parameter in model.stage.parameters())
    output.logits.square().mean().backward()
    assert first_weight(model).grad is not None


def test_training_closes_from_everything_to_the_surest_and_some_others() -> None:
    model = make(random_rate=0.0).train()
    clips = noise(40.0, 40.0)

    def share(progress: float) -> float:
        model.set_progress(progress)
        awake = model(*clips).trace.awake
        assert awake is not None
        return float(awake.mean())

    assert share(0.0) == 1.0
    assert share(1.0) == pytest.approx(0.1, abs=0.02)
    model.random_rate = 0.5
    assert 0.2 < share(1.0) < 0.7


def test_a_bias_meets_the_target_and_with_it_the_awake_share() -> None:
    model = make()
    waveform, lengths = noise(*[60.0] * 6)
    cost = model.cost(int(lengths[0]))
    batch = AudioBatch(waveform, lengths, lengths, lengths, lengths)
    found = calibrate(model, [batch], cost.trained / cost.dense)
    with torch.no_grad():
        awake = model(waveform, lengths).trace.awake
    assert awake is not None
    assert found.achieved == pytest.approx(found.requested, abs=0.02)
    assert float(awake.mean()) == pytest.approx(0.1, abs=0.02)


@torch.no_grad()
def test_a_ceiling_holds_in_evaluation() -> None:
    model = make(ceiling=0.3)
    model.decision_bias.fill_(1e3)
    awake = model(*noise(60.0)).trace.awake
    assert awake is not None
    assert 0.25 < float(awake) < 0.3 + 0.3 * 10 / 60 + 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("model.stage.awake_rate=0.0", "model: stage.awake_rate must be above 0 and up to 1, got 0.0."),
        ("model.stage.width=4", "model: stage.width must be an odd number of steps, got 4."),
        ("model.stage.longest=0.0", "model: stage.longest must be above 0 seconds, got 0.0."),
        ("model.stage.context=-1.0", "model: stage.context must be at least 0, got -1.0."),
        ("model.open_rate=0.5", "model: open_rate must be null with a stage, which opens spans ahead of the stem."),
    ],
)
def test_what_does_not_fit_is_named(changes: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        build.build_model(composed("model=always_on", *changes.split()), 3)


def test_any_model_of_the_house_can_be_woken() -> None:
    name = "model=skip_transformer +model/parts@model.stage=stage model.dim=16 model.heads=2 model.depth=4"
    model = build.build_model(composed(*name.split()), 3).eval()
    assert isinstance(model, AlwaysOn)
    assert {"layers", "tokens"} <= model.skips
    model.decision_bias.fill_(1e3)
    with torch.no_grad():
        output = model(0.1 * torch.randn(2, 32_000), torch.tensor([32_000, 20_000]))
    assert output.logits.shape == (2, 3)
    assert output.trace.macs.tolist() == [model.cost(32_000).dearest, model.cost(20_000).dearest]
