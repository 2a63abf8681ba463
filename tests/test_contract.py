"""What every model of conf/model keeps, those that a user adds there included; no list by hand."""

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from hopscotch.build import build_model, build_task
from hopscotch.conditions import nothing_skipped
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.layers import attention
from hopscotch.models import token_gate
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.encoder import KINDS, Encoder
from hopscotch.training.calibration import MAX_BIAS
from hopscotch.types import AudioBatch, ModelOutput
from tests.counting import counted_macs
from tests.small_models import decide_at_random, wake_for
from tests.tiny import CLASS_HZ, MODELS, build, make_batch, tiny_config

VARIANTS = (  # options that change how a model decides, or what it runs
    "learned_skip model.encoder.gate_input=encoder",
    "learned_skip model.encoder.gate_input=encoder model.encoder.estimator=soft",
    "skip_transformer model.encoder.policy.sees=state",
    "skip_transformer model.encoder.policy.estimator=gain model.encoder.jump.mix=none",
    "skip_layer model.encoder.policy.sees=state",
    "skip_layer model.encoder.policy.sees=input model.encoder.jump.mix=literal model.encoder.jump.rule=literal",
    "skip_layer model.encoder.policy.sees=input model.encoder.policy.tied=true",
    "jump_attention model.encoder.inner=transformer model.encoder.first=2",
    "early_exit model.exits.rule=learned model.encoder.first=3",
    "slimmable model.stem_channels=[4,8] model.widths.rule=learned model.widths.shares=[0.25,0.5,0.75,1.0]",
    "early_exit model.exits.every=1 model.stem_channels=null model.stem_layers=1",
    *(f"{name} model.open_rate=0.5" for name in ("dense", "learned_skip", "skip_transformer", "jump_attention")),
)
SIZE = ("model.depth=4",)  # of 16 channels; deep enough for every kind of jump
SAMPLES = (1600, 960, 1280, 1600)


@pytest.fixture(scope="module", params=[*MODELS, *VARIANTS])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AudioModel:
    """The model at toy size, in evaluation, its decisions as different from clip to clip as they can be made."""
    folder = tmp_path_factory.mktemp("contract")
    seed_everything(0, verbose=False)
    model = build_model(
        tiny_config(folder, folder, *f"model={request.param}".split(), *SIZE), num_classes=len(CLASS_HZ)
    )
    model.set_progress(1.0)  # token gates let in as many as at the end of training
    batch = make_batch(8, SAMPLES)
    model.frontend.measure([batch])
    decide_at_random(model, batch.waveform, batch.lengths)
    if isinstance(model, AlwaysOn):
        batch = make_batch(4, SAMPLES)
        wake_for(model, batch.waveform, batch.lengths, clip=1)  # whose changes must show
    return model


@pytest.fixture
def model(made: AudioModel) -> AudioModel:
    return copy.deepcopy(made).eval()


def run(model: AudioModel, samples: tuple[int, ...] = SAMPLES, **how: Any) -> ModelOutput:
    return run_batch(model, make_batch(len(samples), samples), **how)


def run_batch(model: AudioModel, batch: AudioBatch, **how: Any) -> ModelOutput:
    with torch.no_grad():
        return model(batch.waveform, batch.lengths, **how)


def counted_behind_the_frontend(model: AudioModel, batch: AudioBatch) -> int:
    """The counter knows nothing of Fourier transforms: what it sees of the front end are products with its bands."""
    frames = int(run_batch(model, batch).frontend_macs.sum()) // model.frontend.frame_macs
    return (
        counted_macs(model, batch.waveform, batch.lengths)
        - frames * model.frontend.mel.mel_scale.get_buffer("fb").numel()
    )


def test_a_clip_alone_equals_the_clip_in_a_padded_batch(model: AudioModel) -> None:
    batch, together = make_batch(4, SAMPLES), run(model)
    assert not model.decides or len(set(together.trace.fraction.tolist())) > 1, "or this tests little"
    with torch.no_grad():
        longer = model(nn.functional.pad(batch.waveform, (0, 800)), batch.lengths)
    for clip, length in enumerate(batch.lengths.tolist()):
        with torch.no_grad():
            alone = model(batch.waveform[clip : clip + 1, :length], batch.lengths[clip : clip + 1])
        torch.testing.assert_close(longer.logits[clip], alone.logits[0], rtol=0, atol=1e-5)
        ours, theirs = together.trace.open_rate[clip], alone.trace.open_rate[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(together.logits[clip], alone.logits[0], rtol=0, atol=1e-5)
        for field in ("strides", "visited", "jumps", "landings", "macs", "dense_macs"):
            for trace in (together.trace, longer.trace):
                assert torch.equal(getattr(trace, field)[clip], getattr(alone.trace, field)[0]), field


def test_changing_one_clip_leaves_the_others_alone(model: AudioModel) -> None:
    batch, before = make_batch(4, SAMPLES), run(model)
    changed = batch.waveform.clone()
    changed[1, : int(batch.lengths[1])] = torch.randn(int(batch.lengths[1]), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        after = model(changed, batch.lengths)
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(after.logits[others], before.logits[others], rtol=0, atol=1e-5)
    assert torch.equal(after.trace.macs[others], before.trace.macs[others])
    assert not torch.equal(after.logits[1], before.logits[1])


def test_changing_one_clip_but_not_its_decisions_leaves_the_others_alone_bit_for_bit(model: AudioModel) -> None:
    batch, before = make_batch(4, SAMPLES), run(model)
    batch.waveform[1, : int(batch.lengths[1])] *= torch.linspace(1, 1 + 1e-4, int(batch.lengths[1]))
    with torch.no_grad():
        after = model(batch.waveform, batch.lengths)
    assert torch.equal(after.trace.macs, before.trace.macs), "the same decisions"
    assert not torch.equal(after.logits[1], before.logits[1])
    for clip in (0, 2, 3):
        assert torch.equal(after.logits[clip], before.logits[clip])


def test_evaluation_leaves_every_buffer_bit_identical(model: AudioModel) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run(model)
    model.update_threshold(3.0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_larger_decision_bias_costs_more_and_changes_nothing_without_decisions(model: AudioModel) -> None:
    outputs = []
    for bias in (-20.0, -5.0, 0.0, 5.0, 20.0):
        model.decision_bias.fill_(bias)
        outputs.append(run(model))
    costs = [int(output.trace.macs.sum()) / int(output.trace.dense_macs.sum()) for output in outputs]
    if not model.decides:
        assert all(torch.equal(output.logits, outputs[0].logits) for output in outputs)
        return
    assert costs[0] < costs[-1]
    # A clip that jumps less far may land where it then jumps further: small steps back are possible.
    assert all(later > earlier - 0.05 for earlier, later in pairwise(costs))


def test_the_dense_run_that_time_is_compared_with_runs_the_dense_macs(model: AudioModel) -> None:
    batch, trace = make_batch(3, (1600,)), run(model, (1600,) * 3).trace
    with nothing_skipped(model):
        counted = counted_behind_the_frontend(model, batch)
    assert int(trace.dense_macs.sum()) == pytest.approx(counted, rel=0.02)
    assert run(model, (1600,) * 3).trace.macs.tolist() == trace.macs.tolist()


def test_macs_agree_with_the_flop_counter_on_the_code_that_ran(
    model: AudioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "SHORT", 0)  # what keys are padded with is a batch's cost, not a clip's
    monkeypatch.setattr(token_gate, "PASS", 0.0)  # so is what open tokens are padded with
    batch = make_batch(6, (1600,))
    counted = counted_behind_the_frontend(model, batch)
    assert int(run(model, (1600,) * 6).trace.macs.sum()) == pytest.approx(counted, rel=0.02)


def test_the_dearest_decisions_cost_what_the_model_says_and_the_dense_fraction_is_exactly_1(model: AudioModel) -> None:
    model.decision_bias.fill_(math.sinh(MAX_BIAS))
    trace = run(model).trace
    for clip, samples in enumerate(SAMPLES):
        cost = model.cost(samples)
        assert int(trace.macs[clip]) == cost.dearest
        assert int(trace.dense_macs[clip]) == cost.dense
        assert cost.dearest < cost.dense or float(trace.fraction[clip]) == 1.0
    torch.testing.assert_close(trace.expected_compute, trace.fraction.float(), rtol=0, atol=1e-3)


def test_the_cheapest_decisions_cost_what_the_model_says(model: AudioModel) -> None:
    usual = run(model).trace
    model.decision_bias.fill_(-math.sinh(MAX_BIAS))
    trace = run(model).trace
    costs = [model.cost(samples) for samples in SAMPLES]
    assert all(int(macs) >= cost.cheapest for macs, cost in zip(usual.macs, costs, strict=True))
    assert trace.macs.tolist() == [cost.cheapest for cost in costs]
    assert model.decides == (model.cost(SAMPLES[0]).cheapest < model.cost(SAMPLES[0]).dearest)


def test_what_it_can_skip_is_declared_and_nothing_else_is_skipped(model: AudioModel) -> None:
    skips, trace = model.skips, run(model).trace
    assert skips <= KINDS
    gated = "tokens" in skips  # a clip without an open token has none of the layers
    whole = trace.visited.all(dim=1) | ~trace.visited.any(dim=1) if gated else trace.visited
    assert "layers" in skips or "exits" in skips or bool(whole.all())
    assert "strides" in skips or int(trace.strides.max()) <= 1
    assert ("tokens" in skips) == (not bool(trace.open_rate.isnan().all()))
    assert all(0 <= gate.layer < trace.visited.shape[1] for gate in model.encoder.gates)


def test_decisions_can_be_taken_again_by_other_clips(model: AudioModel) -> None:
    trace = run(model).trace
    order = torch.tensor([3, 2, 1, 0])
    again = run(model, repeat=trace.decisions[order]).trace
    assert torch.equal(again.visited, trace.visited[order])
    assert torch.equal(again.strides, trace.strides[order])


@pytest.mark.parametrize("name", MODELS)
def test_one_step_trains_and_what_is_saved_loads_to_the_same_bits(name: str, tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, f"model={name}", *SIZE)
    task, data = build(cfg)
    assert isinstance(data, AudioDataModule)
    batch = make_batch(4, SAMPLES)
    optimizer = task.make_optimizer([{"params": [p for p in task.model.parameters() if p.requires_grad]}])
    before = {key: value.clone() for key, value in task.model.named_parameters() if value.requires_grad}
    output = task.train().model(batch.waveform, batch.lengths)
    (task.losses(output, batch).mean() + (output.trace.expected_compute.mean() - 0.5) ** 2).backward()
    optimizer.step()
    moved = {key for key, value in task.model.named_parameters() if value.requires_grad and value.ne(before[key]).any()}
    assert {key.partition(".")[0] for key in moved} == {key.partition(".")[0] for key in before}
    other = build_task(cfg, build_model(cfg, data.num_classes), data)
    other.load_state_dict(copy.deepcopy(task.state_dict()))
    logits = [part.eval().model(batch.waveform, batch.lengths).logits for part in (task, other)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("method", sorted(Encoder.__abstractmethods__))
@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_without_one_of_its_methods_cannot_be_made(name: str, method: str, tmp_path: Path) -> None:
    encoder = build_model(tiny_config(tmp_path, tmp_path, f"model={name}", *SIZE), num_classes=2).encoder
    lacking = type("Lacking", (type(encoder),), {method: getattr(Encoder, method)})
    with pytest.raises(TypeError, match=rf"abstract class Lacking .*'?{method}'?"):
        lacking()
