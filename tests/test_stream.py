"""A stream says what the whole recording at once does, however it is cut into chunks."""

from typing import Any

import numpy as np
import pytest
import torch

from hopscotch.detection import find
from hopscotch.models.always_on import AlwaysOn
from hopscotch.ship.runner import Finder, StreamEvent
from hopscotch.stream import Stream
from tests.test_always_on import HOP, RATE, head_of, make, noise

CLASSES = ["a", "b", "c"]


def ready(**changes: Any) -> AlwaysOn:
    """A model that opens some of the time, and thresholds that some scores reach."""
    model = make(**changes)
    waveform, lengths = noise(60.0)
    with torch.no_grad():
        scores = model._heard(waveform, model.frontend.frames(lengths), None).widened[0]
        if model.decides:
            model.decision_bias.fill_(-float(scores.quantile(0.7)))
        said = model(waveform, lengths).logits.softmax(dim=2)[0, :, :3]
    head_of(model).thresholds.copy_(said[said[:, 0] > 1e-6].quantile(0.8, dim=0).expand(2, -1))
    return model


def whole(model: AlwaysOn, waveform: torch.Tensor) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    with torch.no_grad():
        scores = model(waveform, torch.tensor([waveform.shape[1]])).logits.softmax(dim=2)[0, :, :3].numpy()
    head = head_of(model)
    found = find(scores, head.thresholds[-1].double().numpy(), head.step)
    return scores, sorted((start, end, CLASSES[int(label)]) for start, end, label in found.spans)


def streamed(model: AlwaysOn, waveform: torch.Tensor, sizes: list[int]) -> tuple[np.ndarray, list[StreamEvent], Stream]:
    rows: list[np.ndarray] = []
    stream = Stream(model, CLASSES, rows.append)
    events = [event for chunk in waveform[0].split(sizes) for event in stream.feed(chunk.numpy())]
    return np.concatenate([np.zeros((0, 3)), *rows]), events, stream


def chunks(total: int, most: int, seed: int) -> list[int]:
    generator, sizes = np.random.default_rng(seed), list[int]()
    while sum(sizes) < total:
        sizes.append(min(int(generator.integers(1, most)), total - sum(sizes)))
    return sizes


@pytest.mark.parametrize(
    "changes", [{}, {"longest": 1.0}, {"ceiling": 0.2}, {"before": 0.0, "after": 0.0}, {"awake_rate": 1.0}]
)
@pytest.mark.parametrize(("most", "seed"), [(80, 0), (4000, 1), (40_000, 2)])
def test_scores_and_events_are_those_of_the_whole_recording(changes: dict[str, Any], most: int, seed: int) -> None:
    model = ready(**changes)
    seconds = 11.37 if most == 80 else 61.3
    waveform, _ = noise(seconds)
    waveform[:, 5 * RATE : 6 * RATE] = 0.0
    expected, events = whole(model, waveform)
    scores, found, stream = streamed(model, waveform, chunks(waveform.shape[1], most, seed))
    before = len(scores)
    rows: list[np.ndarray] = []
    stream.on_scores = rows.append
    found += stream.end()
    scores = np.concatenate([scores, *rows])[: len(expected)]
    assert 0 < before < len(scores) == len(expected)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    assert len(events) > 0
    assert sorted((one.start, one.end, one.label) for one in found) == events
    assert all(one.latency >= 0 for one in found)


@pytest.mark.parametrize("samples", [61 * HOP + 30, 62 * HOP + 30, 61 * HOP, 10 * RATE])
def test_the_end_is_heard_of_a_recording_in_one_chunk(samples: int) -> None:
    """Also where its last frame comes with the chunk, and not with the silence behind it."""
    model = ready()
    waveform = noise(11.0)[0][:, :samples]
    expected, events = whole(model, waveform)
    scores, found, stream = streamed(model, waveform, [samples])
    rows = [scores]
    stream.on_scores = rows.append
    found += stream.end()
    np.testing.assert_allclose(np.concatenate(rows)[: len(expected)], expected, rtol=0, atol=1e-5)
    assert sorted((one.start, one.end, one.label) for one in found) == events


@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_a_stream_is_the_whole_recording_over_minutes_of_silence(level: float) -> None:
    """Digital silence, and noise 50 dB below what comes before and after it."""
    model = ready()
    loud, _ = noise(20.0)
    quiet = level * torch.randn(1, 180 * RATE, generator=torch.Generator().manual_seed(3))
    waveform = torch.cat([loud, quiet, loud], dim=1)
    expected, events = whole(model, waveform)
    rows: list[np.ndarray] = []
    stream = Stream(model, CLASSES, rows.append)
    found = [event for chunk in waveform[0].split(RATE // 5) for event in stream.feed(chunk.numpy())] + stream.end()
    np.testing.assert_allclose(np.concatenate(rows)[: len(expected)], expected, rtol=0, atol=1e-5)
    assert any(start > 200 for start, _, _ in events)
    assert sorted((one.start, one.end, one.label) for one in found) == events


def test_minutes_of_silence_open_nothing_and_memory_stays() -> None:
    model = ready()
    model.decision_bias.fill_(-1e3)
    stream = Stream(model, CLASSES)
    heard, sizes = stream.spans, []
    for _ in range(180):
        assert stream.feed(np.zeros(RATE)) == []
        sizes.append((heard.samples.size, heard.bands.size, len(heard.scores), len(heard.steps)))
    assert max(sizes[90:]) == max(sizes[10:90])
    assert stream.seconds == 180.0
    assert stream.awake_share == 0.0
    assert stream.end() == []


def test_an_endless_span_is_computed_part_by_part_and_memory_stays() -> None:
    model = ready()
    model.decision_bias.fill_(1e3)
    stream, sizes = Stream(model, CLASSES), []
    for _ in range(40):
        stream.feed(noise(1.0)[0][0])
        sizes.append(stream.spans.samples.size)
    assert max(sizes[20:]) <= max(sizes[:20]) < 7 * RATE
    assert stream.awake_share == 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_events_are_found_row_by_row_as_in_all_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random((300, 4)) * np.repeat(generator.random((60, 4)) > 0.6, 5, axis=0)
    thresholds = np.array([0.5, 0.8, 0.99, 1.0])
    finder = Finder(thresholds, 0.08)
    found = [event for row in scores for event in finder.push(row)] + finder.end()
    expected = find(scores, thresholds, 0.08)
    spans = [(round(start * 0.08, 6), round(end * 0.08, 6), label) for start, end, label, _ in found]
    assert len(spans) > 5
    assert sorted(spans) == sorted((start, end, int(label)) for start, end, label in expected.spans)
    assert sorted(peak for *_, peak in found) == pytest.approx(sorted(expected.confidence))


def test_an_empty_stream_ends_and_no_samples_come_after_the_end() -> None:
    stream = Stream(ready(), CLASSES)
    assert stream.feed([]) == []
    assert stream.end() == []
    with pytest.raises(ValueError, match="the stream must not have ended"):
        stream.feed([0.0])


def test_a_model_that_looks_at_whole_clips_is_refused() -> None:
    model = ready()
    model.frontend.level = "clip"
    with pytest.raises(ValueError, match=r"a stream needs frontend\.level=none .*, got clip"):
        Stream(model, CLASSES)
