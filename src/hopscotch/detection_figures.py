"""Draw what a detector made of test recordings: three of them over time, and misses against false alarms (DET)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.events import rows_of
from hopscotch.detection import Errors, Recording, errors, figures, find, judge
from hopscotch.intervals import Interval, Units
from hopscotch.report.collect import Evaluation
from hopscotch.report.paint import BLUE, COLOURS, GREY, INK, LIGHT_GREY, ORANGE, legend, new_figure, save, shortened
from hopscotch.training.detect import DetectionTask
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, SkipTrace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIMELINE, DET = "timeline.svg", "det.svg"
NUM_DRAWN = 3  # recordings
COMPUTED, FOUND, TRUE = (-0.16, -0.06), (1.04, 1.12), (1.15, 1.23)  # heights of the bands around the scores


class Heard(NamedTuple):
    """Hold a test recording, what was scored in it, and what of it was computed."""

    name: str
    recording: Recording
    computed: Float[np.ndarray, " position"]  # share of the layers that ran


def detection_facts(test: Evaluation, data: AudioDataModule) -> dict[str, Interval]:
    """Return all figures of a detector that was tested, each with its interval; none of another task."""
    units = Units.of([data.clips["test"][index].shared for index in test.indices.tolist()])
    return figures({name: column.numpy() for name, column in test.rows.items()}, units)


def as_facts(detected: Mapping[str, Interval]) -> dict[str, Any]:
    """Make a key of a summary of the figures, if there are any."""
    return {"detection": {name: asdict(one) for name, one in detected.items()}} if detected else {}


def write_detection(folder: Path, task: AudioTask, data: AudioDataModule, detected: Mapping[str, Interval]) -> None:
    """Write both pictures of a detector that was tested; nothing of another task."""
    if not isinstance(task, DetectionTask):
        return
    folder.mkdir(parents=True, exist_ok=True)
    heard, thresholds = heard_by(task, data), task.head.thresholds[-1].double().cpu().numpy()
    save(draw_timeline(chosen(heard, thresholds), thresholds, data.classes), folder / TIMELINE)
    save(draw_det(errors([one.recording for one in heard]), detected), folder / DET)


def heard_by(task: DetectionTask, data: AudioDataModule) -> list[Heard]:
    """Put the scores of the test beside the events."""
    found = []
    for step in task.steps["test"]:
        clips = [data.clips["test"][index] for index in step.indices.tolist()]
        lengths = torch.tensor([clip.num_samples for clip in clips])
        labels = rows_of([clip.events or () for clip in clips])
        batch = AudioBatch(torch.zeros(len(clips), 1), lengths, labels, step.indices, step.indices)
        trace = SkipTrace.kept([step.output.trace])
        for row, recording in enumerate(task.recordings(step.output, batch)):
            num_positions = int(step.output.positions[row])
            is_open = np.ones(num_positions) if trace.tokens is None else trace.tokens[row, :num_positions].numpy()
            computed = is_open * float(trace.visited[row].float().mean())
            found.append(Heard(clips[row].name, recording, computed))
    return found


def chosen(heard: Sequence[Heard], thresholds: Float[np.ndarray, " classes"]) -> list[Heard]:
    """Choose the recordings with most errors, with a middling number and with fewest, of those with events."""

    def num_errors(one: Heard) -> int:
        found = find(one.recording.scores, thresholds, one.recording.step)
        return sum(judge(found, one.recording.events)[:2])

    some = [one for one in heard if len(one.recording.events)] or list(heard)
    ordered = sorted(some, key=num_errors, reverse=True)
    places = np.linspace(0, len(ordered) - 1, min(NUM_DRAWN, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def draw_timeline(
    heard: Sequence[Heard], thresholds: Float[np.ndarray, " classes"], classes: Sequence[str]
) -> "Figure":
    """Draw each recording: its events, those found, the scores of their classes, and below what was computed."""
    figure, grid = new_figure(9.0, 0.6 + 1.9 * len(heard), len(heard), 1, squeeze=False)
    found = [find(one.recording.scores, thresholds, one.recording.step) for one in heard]
    seen = [spans[:, 2] for one, own in zip(heard, found, strict=True) for spans in (one.recording.events, own.spans)]
    labels: list[int] = np.unique(np.concatenate(seen)).astype(int).tolist()
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    for axes, one, own in zip(grid[:, 0], heard, found, strict=True):
        _draw_scores(axes, one, thresholds, colours)
        is_false = np.ones(len(own.spans), dtype=bool)
        is_false[list(judge(own, one.recording.events).mates.values())] = False
        _draw_spans(axes, one.recording.events, TRUE, colours)
        _draw_spans(axes, own.spans, FOUND, colours)
        middle = np.full(len(own.alarms), sum(FOUND) / 2)
        axes.plot(own.alarms[is_false], middle[is_false], "x", color=INK, markersize=6)
        axes.set_title(shortened(one.name, 60), loc="left", fontsize=9)
    grid[-1, 0].set_xlabel("seconds; from above: events, found (x: false alarm), scores, computed")
    if colours:
        legend(figure, {shortened(classes[label]): colour for label, colour in colours.items()}, fontsize=8, ncols=8)
    return figure


def _draw_scores(
    axes: "Axes", heard: Heard, thresholds: Float[np.ndarray, " classes"], colours: dict[int, str]
) -> None:
    scores, step, seconds = heard.recording.scores, heard.recording.step, heard.recording.seconds
    middles = (np.arange(len(scores)) + 0.5) * step
    for label, colour in colours.items():
        axes.plot(middles, scores[:, label], color=colour, linewidth=0.9)
        axes.axhline(thresholds[label], color=colour, linewidth=0.6, linestyle=":")
    edges = np.linspace(0, seconds, len(heard.computed) + 1)
    shades = _tints(heard.computed)
    axes.pcolormesh(edges, np.array(COMPUTED), shades[None])
    axes.set(xlim=(0, seconds), ylim=(COMPUTED[0], TRUE[1] + 0.02), yticks=[0, 0.5, 1])
    axes.grid(False)


def _tints(shares: Float[np.ndarray, " position"]) -> Float[np.ndarray, "position rgb"]:
    """Grey for nothing, blue for all."""
    from matplotlib.colors import to_rgb

    none, full = np.array(to_rgb(LIGHT_GREY)), np.array(to_rgb(BLUE))
    return none + shares[:, None] * (full - none)


def _draw_spans(
    axes: "Axes", spans: Float[np.ndarray, "span 3"], heights: tuple[float, float], colours: dict[int, str]
) -> None:
    low, high = heights
    for start, end, label in sorted(spans, key=lambda span: span[0] - span[1]):  # a short one lies over a long one
        axes.broken_barh([(start, end - start)], (low, high - low), color=colours[int(label)])


def draw_det(found: Errors, detected: Mapping[str, Interval]) -> "Figure":
    """Draw the share of misses against false alarms an hour: at one threshold for all classes, and at ours."""
    alarms, missed = found.curve
    least = 0.5 / found.hours  # half a false alarm in all stands for none
    figure, axes = new_figure(4.6, 3.4)
    axes.plot(np.maximum(alarms, least), missed, color=BLUE, label="one threshold for all classes")
    for suffix, rate, mark in (("05", 0.5, "o"), ("2", 2.0, "s")):
        across, up = detected[f"alarms_{suffix}"], detected[f"miss_{suffix}"]
        ends = [[[one.value - one.low], [one.high - one.value]] for one in (up, across)]
        words = f"chosen on validation for {rate:g}"
        axes.errorbar([max(across.value, least)], [up.value], *ends, fmt=mark, color=ORANGE, label=words, linewidth=0.8)
        axes.axvline(rate, color=GREY, linewidth=0.6, linestyle=":")
    axes.set(xscale="log", xlabel="false alarms an hour", ylabel="share of misses", ylim=(-0.02, 1.02))
    axes.set_xlim(min(0.25, least / 1.2), max(100.0, least * 10))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend(frameon=False, fontsize=8)
    return figure
