"""detect.py and its head: the loss by hand, thresholds from validation alone, and a tone that is learnt as keyword."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from hopscotch.build import build_model, build_task
from hopscotch.config.monitors import LOGGED
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.events import NONE, Event
from hopscotch.detection import RATES, THRESHOLDS, Counts, choose, count, errors
from hopscotch.detection_figures import as_facts, detection_facts, draw_timeline, heard_by, write_detection
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.heads import SURE, DetectionHead
from hopscotch.report.collect import gather
from hopscotch.training.callbacks import AveragedWeights, BestAndLast
from hopscotch.training.detect import JUDGED, UNSURE, DetectionTask, RatioOfSums
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace, valid_mask
from tests.tiny import MODELS, TINY_MODEL, TINY_RUN, Watch, build, composed, fit, tiny_config, write_tones

RATE = 8000
SECONDS = 3.0
HERTZ = (500.0, 1500.0)  # of the two keywords
SPLIT_SIZES = {"train": 16, "val": 6, "test": 6}


class ToneStreams(AudioDataModule):
    """Recordings of noise in which tones of 0.3 s are the events; the last recording of each split has none."""

    has_events = True

    def find_clips(self) -> Any:
        clips: Any = {}
        for split, size in SPLIT_SIZES.items():
            clips[split] = [
                Clip(f"{split}/{n}", -1, round(SECONDS * RATE), events=self.events_of(n, size)) for n in range(size)
            ]
        return ["low", "high"], clips

    def events_of(self, number: int, size: int) -> tuple[Event, ...]:
        starts = [2000 + 300 * (number % 5), 14000 + 500 * (number % 7)]
        return tuple(Event(s, s + 2400, (number + i) % 2) for i, s in enumerate(starts)) if number + 1 < size else ()

    def load(self, clip: Clip) -> Tensor:
        split, _, number = clip.name.partition("/")
        generator = torch.Generator().manual_seed(1000 * len(split) + int(number))
        waveform = 0.01 * torch.randn(clip.num_samples, generator=generator)
        for start, end, label in clip.events or ():
            waveform[start:end] += 0.2 * torch.sin(2 * math.pi * HERTZ[label] / RATE * torch.arange(end - start))
        return waveform


def streams(**more: Any) -> ToneStreams:
    options: dict[str, Any] = {"sample_rate": RATE, "batch_size": 4, "num_workers": 0, "cache_gib": 1.0, "seed": 0}
    data = ToneStreams(**options | {"augment": None, "labels": "events"} | more)
    data.setup("fit")
    return data


def detector(run: Path, *more: str, **of_data: Any) -> tuple[DictConfig, DetectionTask, ToneStreams]:
    model = [] if any(word.startswith("model=") for word in more) else ["model=dense"]
    words = [f"data.sample_rate={RATE}", "task=detect", "augment=none", *model, *TINY_MODEL, *TINY_RUN, *more]
    cfg = composed(*words).copy()
    cfg.run_dir = str(run)
    data = streams(**of_data)
    torch.manual_seed(0)
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    assert isinstance(task, DetectionTask)
    task.model.frontend.measure(data.statistics_batches())
    return cfg, task, data


def head(pool_samples: int = 320, num_classes: int = 2) -> DetectionHead:
    torch.manual_seed(0)
    made = DetectionHead(8, num_classes, pooling="statistics", dropout=0.0)
    made.read_every(pool_samples, RATE)
    return made.eval()


@pytest.mark.parametrize(("hop", "pool", "step"), [(320, 2, 0.08), (160, 4, 0.08), (640, 1, 0.08), (1280, 1, 0.16)])
def test_a_score_lasts_about_80_milliseconds(hop: int, pool: int, step: float) -> None:
    made = head(hop)
    assert (made.pool, made.step) == (pool, step)
    assert made.num_scores(torch.tensor([1, 4, 5, 8])).tolist() == [-(-n // pool) for n in (1, 4, 5, 8)]


def test_scores_are_those_of_means_over_the_positions_of_the_clip_alone() -> None:
    made, x = head(), torch.randn(2, 7, 8)
    lengths = torch.tensor([7, 4])
    logits = made(x, valid_mask(lengths, 7))
    assert logits.shape == (2, 4, 3)
    first, last = made.norm(x[0, :2]).mean(dim=0), made.norm(x[0, 6])
    torch.testing.assert_close(logits[0, 0], made.output(first))
    torch.testing.assert_close(logits[0, 3], made.output(last))  # of one position, not of half a zero
    torch.testing.assert_close(made(x[1:, :4], valid_mask(lengths[1:], 4))[0], logits[1, :2])
    assert logits[1, 2:].tolist() == [[0, 0, SURE]] * 2
    assert int(made.macs(torch.tensor([7]))) == 4 * 8 * 3


def test_a_clip_is_said_to_have_the_classes_above_their_thresholds() -> None:
    made = head()
    made.thresholds.copy_(torch.tensor([[0.9, 0.9], [0.5, 0.2]]))
    logits = torch.tensor([[0.0, 0.0, 5.0], [2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    scores = made.scores(logits)
    assert scores.tolist() == pytest.approx([0.787, 0.422], abs=1e-3)
    label, confidence, shares = made.said(scores.tolist(), ["a", "b"])
    assert label == "a;b"
    assert confidence == pytest.approx(0.787, abs=1e-3)
    assert list(shares) == ["a", "b"]


def batch_of(*recordings: list[tuple[int, int, int]], lengths: list[int]) -> AudioBatch:
    most = max(1, *map(len, recordings))
    rows = [[*events, *[(NONE,) * 3] * (most - len(events))] for events in recordings]
    count = torch.arange(len(lengths))
    return AudioBatch(torch.zeros(len(lengths), max(lengths)), torch.tensor(lengths), torch.tensor(rows), count, count)


def output_of(task: DetectionTask, logits: Tensor, positions: list[int]) -> ModelOutput:
    task.head.read_every(320, RATE)  # a score every 640 samples, 0.08 s
    nothing: Any = None
    return ModelOutput(logits, nothing, {}, torch.zeros(len(logits)), torch.tensor(positions))


def test_the_loss_is_that_of_the_best_score_of_each_event_and_of_what_may_be_said_anywhere(tmp_path: Path) -> None:
    """Compare with loops."""
    _, task, _ = detector(tmp_path, "task.event_weight=0.7")
    logits = torch.randn(3, 20, 3)
    events = [[(3 * 640, 6 * 640, 0), (5 * 640 + 1, 6 * 640 + 1, 1)], [], [(19 * 640, 20 * 640, 1)]]
    positions = [40, 20, 39]
    found = task.losses(
        output_of(task, logits, positions), batch_of(*events, lengths=[20 * 640, 10 * 640, 20 * 640 - 5])
    )
    shares = logits.log_softmax(dim=-1)
    for clip, own in enumerate(events):
        valid = range(math.ceil(positions[clip] / 2))
        spans = [range(start // 640, min((end - 1) // 640, valid[-1]) + 1) for start, end, _ in own]
        assert round(UNSURE / 0.08) == 2
        near = [(range(span[0] - 2, span[-1] + 3), label) for span, (*_, label) in zip(spans, own, strict=True)]
        may_be_said = [sorted({2} | {label for span, label in near if place in span}) for place in valid]
        allowed = [
            shares[clip, place, classes].logsumexp(dim=0) for place, classes in zip(valid, may_be_said, strict=True)
        ]
        loss = -torch.stack(allowed).mean()
        missed = [-shares[clip, list(span), label].max() for span, (*_, label) in zip(spans, own, strict=True)]
        loss = loss + 0.7 * (torch.stack(missed).mean() if missed else 0.0)
        assert float(found[clip]) == pytest.approx(float(loss), rel=1e-5)


def test_a_recording_full_of_events_and_one_of_a_single_score_have_finite_losses_and_gradients(tmp_path: Path) -> None:
    _, task, _ = detector(tmp_path)
    logits = torch.randn(2, 3, 3, requires_grad=True)
    batch = batch_of([(0, 1920, 0)], [(100, 101, 1), (600, 9000, 0)], lengths=[1920, 640])
    losses = task.losses(output_of(task, logits, [6, 1]), batch)
    losses.sum().backward()
    assert bool(losses.isfinite().all())
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad[1, 1:] == 0).all())  # padding


def test_a_ratio_without_a_whole_is_unknown_and_equal_starts_do_not_join_metrics(tmp_path: Path) -> None:
    metric = RatioOfSums(lambda c: (c.missed_2, c.events))
    counts = torch.zeros(1, len(Counts._fields))
    metric.update(counts, torch.zeros(1))
    assert metric.compute().isnan()
    _, task, _ = detector(tmp_path)
    metrics = task.metrics()
    metrics.update(counts, torch.zeros(1))
    places = {name: place for place, name in enumerate(Counts._fields)}
    counts[0, [places["events"], places["missed_2"]]] = torch.tensor([4.0, 1.0])
    metrics.update(counts, torch.zeros(1))
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert (found["miss_2"], found["miss_05"]) == (0.25, 0.0)


@pytest.mark.parametrize("averaged", [False, True])
def test_thresholds_come_from_validation_alone_and_are_kept_in_the_checkpoint(tmp_path: Path, averaged: bool) -> None:
    cfg, task, data = detector(tmp_path, "trainer.max_epochs=2")
    best = BestAndLast(dirpath=str(tmp_path / "kept"), monitor="val/loss", filename="best")
    assert sorted(task.tags) == sorted(LOGGED[cfg.task._target_])
    trainer = fit(cfg, *([AveragedWeights(decay=0.5)] if averaged else []), best, built=(task, data))
    assert set(task.tags) <= set(trainer.callback_metrics)
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    task.load_state_dict(state)
    task.eval()
    with torch.no_grad():
        recordings = [
            one
            for batch in data.val_dataloader()
            for one in task.recordings(task.model(batch.waveform, batch.lengths), batch)
        ]
    wanted = np.stack([choose(errors(recordings), rate) for rate in RATES])
    assert state["model.head.thresholds"].numpy() == pytest.approx(wanted, rel=1e-6)
    before = task.head.thresholds.clone()
    assert not torch.equal(before, torch.full_like(before, 0.5))
    trainer.test(task, datamodule=data, verbose=False)
    assert torch.equal(task.head.thresholds, before)


def test_a_tone_is_learnt_as_keyword(tmp_path: Path) -> None:
    cfg, task, data = detector(tmp_path, "trainer.max_epochs=12", "optimizer.lr=0.01", "scheduler=constant")
    watch = Watch()
    trainer = fit(cfg, watch, built=(task, data))
    assert np.mean(watch.losses[-4:]) < 0.3 * np.mean(watch.losses[:4])
    found = {tag: float(value) for tag, value in trainer.callback_metrics.items()}
    assert found["val/miss_2"] <= 0.1
    assert found["val/event_f1"] > 0.5
    assert found["train/miss_2"] < 1
    trainer.test(task, datamodule=data, verbose=False)
    rows = {name: torch.cat([step.rows[name] for step in task.steps["test"]]) for name in Counts._fields}
    assert float(rows["events"].sum()) == 10
    assert float(rows["events"].min()) == 0
    assert trainer.callback_metrics["test/miss_2"] == pytest.approx(float(rows["missed_2"].sum()) / 10)
    by_hand = [
        count(one, task.head.thresholds.double().numpy())
        for batch in data.test_dataloader()
        for one in task.recordings(task.model(batch.waveform, batch.lengths), batch)
    ]
    assert sum(float(one.false_2) for one in by_hand) == float(rows["false_2"].sum())


def test_a_validation_without_events_is_refused_before_the_first_step(tmp_path: Path) -> None:
    cfg, task, data = detector(tmp_path)
    data.clips["val"] = [clip for clip in data.clips["val"] if not clip.events]
    with pytest.raises(ValueError, match=r"data must have an event in a validation recording, .* got none in 1 rec"):
        fit(cfg, built=(task, data))


def test_figures_of_training_are_those_of_the_first_batches(tmp_path: Path) -> None:
    cfg, task, data = detector(tmp_path, "trainer.max_epochs=1", batch_size=2)
    fit(cfg, built=(task, data))
    events = [float(step.judged[0][:, 0].sum()) for step in task.steps["train"]]
    assert len(events) == 8
    assert all(count > 0 for count in events[:JUDGED])
    assert events[JUDGED:] == [0] * (8 - JUDGED)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in ("early_exit", "exits_every_layer", "slimmable")]
)  # which answers for clips
def test_every_model_scores_whole_recordings(name: str, tmp_path: Path) -> None:
    _, task, data = detector(tmp_path, f"model={name}")
    (batch, *_) = data.val_dataloader()
    output = task.model(batch.waveform, batch.lengths, keys=batch.keys)
    losses = task.losses(output, batch)
    losses.mean().backward()
    assert output.logits.shape == (len(batch.lengths), int(task.head.num_scores(output.positions).max()), 3)
    assert bool(losses.isfinite().all())
    assert task.distance(output, output).item() == pytest.approx(0.0, abs=1e-6)
    assert task.recordings(output, batch)[0].seconds == SECONDS
    assert len(task.recordings(output, batch)[0].scores) == pytest.approx(SECONDS / task.head.step, abs=1)


def test_long_recordings_are_cropped_in_training_alone(tmp_path: Path) -> None:
    _, task, data = detector(tmp_path, max_seconds=2.0)
    (batch, *_) = data.train_dataloader()
    assert batch.lengths.tolist() == [2 * RATE] * len(batch.lengths)
    task.losses(task.model(batch.waveform, batch.lengths, keys=batch.keys), batch).mean().backward()
    (batch, *_) = data.val_dataloader()
    assert batch.lengths.tolist() == [round(SECONDS * RATE)] * len(batch.lengths)


def test_no_candidate_is_never_but_the_last() -> None:
    assert THRESHOLDS[-1] == 1
    assert (np.diff(THRESHOLDS) > 0).all()


def test_pictures_and_figures_of_a_test_tell_of_events_thresholds_and_intervals(tmp_path: Path) -> None:
    cfg, task, data = detector(tmp_path, "trainer.max_epochs=6", "optimizer.lr=0.01", "scheduler=constant")
    trainer = fit(cfg, built=(task, data))
    trainer.test(task, datamodule=data, verbose=False)
    test = gather(task.steps["test"])
    found = detection_facts(test, data)
    assert found["miss_2"].value == pytest.approx(float(trainer.callback_metrics["test/miss_2"]))
    assert test.interval(found["miss_2"].value, data.clips["test"]) is not None
    facts = as_facts(found)["detection"]
    assert facts["alarms_2"]["value"] == found["alarms_2"].value
    write_detection(tmp_path / "report", task, data, found)
    timeline, det = ((tmp_path / "report" / name).read_text() for name in ("timeline.svg", "det.svg"))
    assert "test/" in timeline
    assert all(f">{name}<" in timeline for name in data.classes)
    assert "chosen on validation for 0.5" in det
    heard = heard_by(task, data)
    assert [one.name for one in heard] == [f"test/{n}" for n in range(6)]
    assert [one.recording.events.tolist() for one in heard] == [
        [[event.start / RATE, event.end / RATE, event.label] for event in clip.events or ()]
        for clip in data.clips["test"]
    ]
    assert all(one.computed.mean() == 1 for one in heard)


def test_what_was_computed_is_drawn_from_the_open_tokens(tmp_path: Path) -> None:
    cfg, task, data = detector(tmp_path, "trainer.max_epochs=1", "model.open_rate=0.5")
    trainer = fit(cfg, built=(task, data))
    trainer.test(task, datamodule=data, verbose=False)
    shares = [one.computed.mean() for one in heard_by(task, data)]
    assert 0 < np.mean(shares) < 1


def test_spans_that_were_open_are_drawn_of_a_model_that_is_always_on(tmp_path: Path) -> None:
    words = ("model=always_on", "frontend=log_mel_stream", "trainer.max_epochs=1")
    cfg, task, data = detector(tmp_path, *words)
    trainer = fit(cfg, built=(task, data))
    assert isinstance(task.model, AlwaysOn)
    waveform, lengths = next(iter(data.test_dataloader()))[:2]
    scores = task.model.heard(waveform, task.model.frontend.frames(lengths)).widened
    task.model.decision_bias.fill_(-float(scores.detach().quantile(0.6)))
    trainer.test(task, datamodule=data, verbose=False)
    heard = heard_by(task, data)
    awake = SkipTrace.kept([step.output.trace for step in task.steps["test"]]).awake
    assert awake is not None
    assert 0.1 < float(awake.mean()) < 0.9
    for one, share in zip(heard, awake.tolist(), strict=True):
        assert set(one.computed.tolist()) <= {0.0, 1.0}
        assert one.computed.mean() == pytest.approx(share)
    (mesh,) = draw_timeline(heard[:1], np.full(2, 0.5), data.classes).axes[0].collections[:1]
    drawn = np.asarray(mesh.get_array())[0]
    is_open = heard[0].computed == 1
    assert len(np.unique(drawn, axis=0)) == 2
    assert (drawn[is_open] == drawn[is_open][0]).all()
    assert (drawn[~is_open] == drawn[~is_open][0]).all()


def test_no_pictures_are_drawn_of_another_task(tmp_path: Path) -> None:
    write_detection(tmp_path / "report", *build(tiny_config(write_tones(tmp_path / "tones"), tmp_path)), {})
    assert not (tmp_path / "report").exists()
    assert as_facts({}) == {}
