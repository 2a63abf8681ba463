"""What a model's decisions are worth: repeated, shuffled over the clips, at their cheapest, and not at all."""

import csv
import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hopscotch.build import build_model, build_task
from hopscotch.conditions import time_clips
from hopscotch.training.calibration import calibrate
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, Decisions
from scripts.studies.decision_value import (
    COLUMNS,
    evaluate,
    measure_decisions,
    measure_ends,
    numbers,
    with_noise,
    with_silence,
)
from tests.small_models import decide_at_random
from tests.tiny import SAMPLE_RATE, TINY_MODEL, TINY_RUN, Command, build, make_batch, tiny_config, tiny_folder

DECIDING = ("jump_attention", "learned_skip", "skip_layer", "skip_transformer")


@pytest.fixture
def make_task(tones: Path, tmp_path: Path):
    def make(*overrides: str) -> AudioTask:
        cfg = tiny_config(tones, tmp_path, "model.depth=5", *overrides)
        _, data = build(cfg)
        torch.manual_seed(0)
        model = build_model(cfg, data.num_classes)
        with torch.no_grad():  # fresh deciders say nearly the same of all clips: let them differ
            for part, parameter in model.named_parameters():
                if part.endswith(("policy.output.weight", "gate.net.2.weight")):
                    parameter.normal_()
        return build_task(cfg, model, data)

    return make


def batches() -> list[AudioBatch]:
    batch = make_batch(12, samples=(1280,))
    return [AudioBatch(*(part[:8] for part in batch)), AudioBatch(*(part[8:] for part in batch))]


def taken(decisions: Decisions) -> torch.Tensor:
    return torch.cat([decisions.strides, decisions.jumps.long()], dim=1)


@pytest.mark.parametrize("sees", ["first", "state"])
@pytest.mark.parametrize("name", DECIDING)
def test_a_clip_repeats_the_decisions_that_it_is_handed(make_task, name: str, sees: str) -> None:
    task = make_task(f"model={name}", *([] if name == "learned_skip" else [f"model.encoder.policy.sees={sees}"]))
    batch = make_batch(12, samples=(1280,))
    decide_at_random(task.model, batch.waveform, batch.lengths)  # so that clips differ
    own = evaluate(task, batches())
    again = evaluate(task, batches(), own.trace.decisions)
    assert torch.equal(again.losses, own.losses)
    assert torch.equal(taken(again.trace.decisions), taken(own.trace.decisions))
    handed = own.trace.decisions[torch.arange(11, -1, -1)]
    shuffled = evaluate(task, batches(), handed)
    assert torch.equal(taken(shuffled.trace.decisions), taken(handed))
    differ = (taken(handed) != taken(own.trace.decisions)).any(dim=1)
    assert differ.any()
    assert not torch.equal(shuffled.losses[differ], own.losses[differ])
    if (~differ).any():
        torch.testing.assert_close(shuffled.losses[~differ], own.losses[~differ], rtol=0, atol=1e-5)


def test_shuffled_decisions_are_those_of_other_clips(make_task) -> None:
    task = make_task("model=learned_skip")
    decide_at_random(task.model, batches()[0].waveform, batches()[0].lengths)
    measured = measure_decisions(task, batches(), measure_ends(task, batches()))
    assert not torch.equal(measured.shuffled_macs, measured.own.trace.macs.double())
    assert not torch.equal(measured.shuffled_losses, measured.own.losses)


def test_a_gain_that_is_predicted_right_has_a_correlation_of_one(make_task) -> None:
    task = make_task("model=learned_skip")
    measured = measure_decisions(task, batches(), measure_ends(task, batches()))
    found = numbers(measured._replace(predicted=measured.gain))
    assert found["gain_correlation"] == pytest.approx(1.0)


def test_the_share_of_time_is_the_models_own_over_the_dense_run(make_task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve clips in two batches, each measured as the median of rounds."""
    clock = itertools.accumulate(itertools.cycle([0.0, 1.0, 0.0, 4.0]))  # its own pass a second, the dense one four
    seen = SimpleNamespace(perf_counter=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr("hopscotch.conditions.time", seen)  # not the clock that other threads look at
    found = time_clips(make_task("model=learned_skip"), batches())
    assert found == (2 / 12, 8 / 12)
    assert found.fraction == 0.25
    clock = itertools.accumulate(itertools.cycle([0.0, 1.0]))
    assert time_clips(make_task("model=dense"), batches()) == (2 / 12, 2 / 12)  # nothing to skip: measured once


def test_timing_changes_no_model_and_ends_in_time(make_task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hopscotch.conditions.TIMED_SECONDS", 0.0)
    task, calls = make_task("model=learned_skip"), []
    task.model.decision_bias.fill_(0.3)
    task.model.register_forward_hook(lambda *_: calls.append(task.model.decision_bias.item()))
    time_clips(task, batches())
    assert len(calls) == 2  # one batch, one round
    assert calls[0] == pytest.approx(0.3) == task.model.decision_bias.item()
    assert calls[1] > 1000


@pytest.mark.parametrize("name", ["learned_skip_gain", "skip_transformer_gain"])
def test_gains_are_predicted_from_what_the_clips_own_decisions_are_planned_from(make_task, name: str) -> None:
    task = make_task(f"model={name}", "model.open_rate=0.5")
    decide_at_random(task.model, batches()[0].waveform, batches()[0].lengths)
    ends = measure_ends(task, batches())
    calibrate(task.model, batches(), 0.6)
    measured = measure_decisions(task, batches(), ends)
    own = measured.own.trace
    assert own.tokens is not None
    assert own.summary is not None
    assert 0 < own.tokens.float().mean() < 1
    assert task.model.planner is not None
    expected = task.model.planner.predicted_cost(own.summary, ends.short.trace)
    torch.testing.assert_close(measured.predicted, expected)


@pytest.mark.parametrize("name", ["learned_skip", "skip_transformer"])
def test_shuffled_decisions_cost_the_same_and_the_ends_are_the_ends(make_task, name: str) -> None:
    task = make_task(f"model={name}")
    task.model.decision_bias.fill_(0.3)
    measured = measure_decisions(task, batches(), measure_ends(task, batches()))
    assert task.model.decision_bias.item() == pytest.approx(0.3)
    assert measured.shuffled_macs.sum().item() == pytest.approx(measured.own.trace.macs.sum().item())  # equal lengths
    assert measured.full.compute_fraction == 1.0
    assert measured.short.compute_fraction == pytest.approx(task.model.cost(1280).floor)
    assert measured.short.compute_fraction < measured.own.compute_fraction < 1.0
    assert torch.equal(measured.gain, measured.short.losses - measured.full.losses)
    assert measured.indices.tolist() == list(range(12))


def test_noise_lies_as_far_below_the_clip_as_asked_and_follows_its_key() -> None:
    (clean, _), (noisy, _) = batches(), with_noise(batches(), 5.0, 5.0, SAMPLE_RATE)
    noise = noisy.waveform - clean.waveform
    ratio = clean.waveform.square().sum(1) / noise.square().sum(1)
    torch.testing.assert_close(10 * ratio.log10(), torch.full((8,), 5.0), rtol=0, atol=1.5)  # pink noise is lumpy
    assert (10 * ratio.log10()).mean().item() == pytest.approx(5.0, abs=0.5)
    alone = with_noise([AudioBatch(*(part[3:4] for part in clean))], 5.0, 5.0, SAMPLE_RATE)[0]
    torch.testing.assert_close(alone.waveform[0], noisy.waveform[3])


def test_silence_makes_clips_longer_and_leaves_their_sound() -> None:
    clean, quiet = batches()[0], with_silence(batches(), 0.5, SAMPLE_RATE)[0]
    added = quiet.lengths - clean.lengths
    assert ((added > 0) & (added <= SAMPLE_RATE)).all()
    torch.testing.assert_close(quiet.waveform.square().sum(1), clean.waveform.square().sum(1))


@pytest.mark.slow
def test_a_finished_model_is_evaluated_at_other_budgets(command: Command, tones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["model=skip_transformer_gain", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model.depth=5"]
    words += ["callbacks=decision_value", "callbacks.decision_value.levels=[0,1]", "trainer.max_epochs=1"]
    assert command(*words, f"hydra.run.dir={folder}").code == 0
    found = json.loads((folder / "report" / "decision_value.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    cheap, dense = found["budgets"]
    assert (cheap["level"], dense["level"]) == (0, 1)
    assert cheap["requested"] == pytest.approx(summary["compute"]["floor"])
    assert dense["requested"] == dense["clean"]["fraction"] == dense["mixed"]["fraction"] == 1
    assert cheap["clean"]["fraction"] < found["clean"]["fraction"] < 1  # the run's own budget lies in between
    assert found["clean"]["acc"] == pytest.approx(summary["test"]["acc"])
    assert all(one["time_fraction"] > 0 for one in (found, cheap, dense))
    lines = list(csv.DictReader((folder / "report" / "decision_value.csv").read_text().splitlines()))
    assert {line["level"] for line in lines} == {"", "0", "1"}
    for level, budget in (("0", cheap), ("1", dense)):
        own = [line for line in lines if (line["level"], line["set"]) == (level, "clean")]
        assert sum(int(line["own_macs"]) for line in own) / len(own) == pytest.approx(budget["clean"]["macs"])


def test_a_level_is_a_share(command: Command, tones: Path) -> None:
    words = ["model=learned_skip", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN]
    done = command(*words, "callbacks=decision_value", "hydra.run.dir=run", "callbacks.decision_value.levels=[0.5,1.5]")
    assert done.code == 1
    assert "callbacks.decision_value.levels must be a list of shares, 0 to 1, got [0.5, 1.5]" in done.err


@pytest.mark.parametrize("model", ["skip_transformer", pytest.param("dense", marks=pytest.mark.slow)])
def test_the_callback_writes_what_it_found(command: Command, tones: Path, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "run"
    words = [f"model={model}", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "callbacks=decision_value"]
    assert command(*words, f"hydra.run.dir={folder}").code == 0
    found = json.loads((folder / "report" / "decision_value.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    names = [one["condition"] for one in found["conditions"]]
    assert names == ["clean", "silence", "20 dB", "10 dB", "5 dB", "0 dB"]
    assert found["conditions"][0]["acc"] == pytest.approx(summary["test"]["acc"])
    assert found["conditions"][0]["fraction"] == pytest.approx(summary["compute"]["fraction"])
    lines = list(csv.DictReader((folder / "report" / "decision_value.csv").read_text().splitlines()))
    assert tuple(lines[0]) == COLUMNS
    clean = [line for line in lines if line["set"] == "clean"]
    assert len(clean) == len(lines) / 2 == summary["data"]["clips"]["test"]
    assert sum(float(line["own_acc"]) for line in clean) / len(clean) == pytest.approx(summary["test"]["acc"])
    assert all((line["shuffled_loss"] == "") == (model == "dense") for line in lines)
