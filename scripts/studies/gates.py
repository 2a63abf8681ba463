"""Hear recordings with a model that is always on, behind its own gate or another."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hopscotch.data.datamodule import Split
from hopscotch.detection import Recording
from hopscotch.evaluate import load
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.spans import widened
from hopscotch.training.detect import DetectionTask
from hopscotch.types import AudioBatch, Decisions, valid_mask

EQUAL = 0.95  # share of the validation events that gates are compared at
SPEECH_RATE, SPEECH_CHUNK = 16_000, 512  # Hz and samples that silero-vad takes
KINDS = ("own", "own, 95 %", "own, 99 %", "all", "oracle", "random", "energy", "speech")


class Heard(NamedTuple):
    """Hold what a run makes of a split."""

    recordings: list[Recording]
    macs: np.ndarray  # of each recording
    opened: np.ndarray  # share of its time, and number of its events


class Loaded(NamedTuple):
    """Hold a run with recordings of some duty."""

    name: str  # what it is but for its seed
    seed: int
    task: DetectionTask
    model: AlwaysOn
    batches: Callable[[Split], Iterable[AudioBatch]]


def load_at(run: Path, events: float, distractors: float) -> Loaded:
    """Load a run, with so many events and distractors a minute."""
    cfg, task, data = load(run, [f"data.events_per_minute={events}", f"data.distractors_per_minute={distractors}"])
    if not isinstance(task, DetectionTask) or not isinstance(task.model, AlwaysOn):
        raise ValueError(f"a run must have task=detect and model.stage, got {run}.")
    kind = "always on" if task.model.decides else "static"
    loaders = {"val": data.val_dataloader, "test": data.test_dataloader}
    name = f"{kind}, {cfg.model.depth} x {cfg.model.dim}"
    return Loaded(name, cfg.seed, task, task.model, lambda split: loaders[split]())


@dataclass
class Gate:
    """Open the units whose scores, widened to spans, are above a threshold."""

    scores: Callable[[AlwaysOn, AudioBatch, Tensor], Tensor]  # of each unit of each recording
    threshold: float = 0.0

    def widened(self, model: AlwaysOn, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        units = -(-model.frontend.frames(batch.lengths) // model.unit)
        scores = self.scores(model, batch, units)
        return widened(scores, model.ahead, model.behind), units

    def decisions(self, model: AlwaysOn, batch: AudioBatch) -> Decisions:
        scores, units = self.widened(model, batch)
        is_open = (scores > self.threshold) & valid_mask(units, scores.shape[1])
        nothing = torch.zeros(len(units), model.depth, dtype=torch.long)
        return Decisions(nothing + 1, nothing.to(torch.int8), is_open, units)

    @torch.inference_mode()
    def open_as_much(self, loaded: Loaded, share: float) -> None:
        """Set the threshold so that this share of the validation recordings' time is open."""
        found = [self.widened(loaded.model, batch)[0].flatten() for batch in loaded.batches("val")]
        self.threshold = float(torch.cat(found).quantile(1 - share))

    @torch.inference_mode()
    def catch_as_many(self, loaded: Loaded, share: float) -> None:
        """Set the threshold so that this share of the validation events is open."""
        size, best = loaded.model.unit * loaded.model.frontend.hop, []
        for batch in loaded.batches("val"):
            scores, _ = self.widened(loaded.model, batch)
            rows = zip(scores, batch.labels.tolist(), strict=True)
            best += [
                float(row[a // size : -(-b // size)].max()) for row, events in rows for a, b, c in events if c >= 0
            ]
        self.threshold = float(np.quantile(best, 1 - share, method="lower")) - 1e-6


@torch.inference_mode()
def hear(loaded: Loaded, split: Split, gate: Gate | None = None) -> Heard:
    """Run a model over a split, with its own gate or another."""
    model, recordings, macs, awake = loaded.model, [], [], []
    for batch in loaded.batches(split):
        repeat = None if gate is None else gate.decisions(model, batch)
        output = model(batch.waveform, batch.lengths, repeat=repeat)
        recordings += loaded.task.recordings(output, batch)
        macs.append(output.trace.macs + output.frontend_macs)
        tokens, units = output.trace.decisions.tokens, output.trace.decisions.positions
        assert tokens is not None
        assert units is not None
        awake.append(opened(loaded, tokens, units, batch))
    return Heard(recordings, torch.cat(macs).numpy(), np.concatenate(awake))


def opened(loaded: Loaded, tokens: Tensor, units: Tensor, batch: AudioBatch) -> np.ndarray:
    """Return for each recording the share of its time that is open, and how many of its events are."""
    size = loaded.model.unit * loaded.model.frontend.hop
    caught = [
        sum(bool(row[start // size : -(-end // size)].any()) for start, end, label in events if label >= 0)
        for row, events in zip(tokens, batch.labels.tolist(), strict=True)
    ]
    return np.stack([(tokens.sum(dim=1) / units).numpy(), np.array(caught)], axis=1)


class OwnGate(Gate):
    """Open what the model's own scores are highest for."""

    def __init__(self) -> None:
        super().__init__(everything)

    def widened(self, model: AlwaysOn, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        frames = model.frontend.frames(batch.lengths)
        return model.heard(batch.waveform, frames).widened, -(-frames // model.unit)


def everything(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    return torch.ones(len(units), int(units.max()))


def of_events(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score the units of events by 1, all others by -1."""
    scores, size = -torch.ones(len(units), int(units.max())), model.unit * model.frontend.hop
    for row, events in zip(scores, batch.labels.tolist(), strict=True):
        for start, end, label in events:
            if label >= 0:
                row[start // size : -(-end // size)] = 1.0
    return scores


def drawn(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units at random, recordings by their index."""
    rows = [torch.rand(int(units.max()), generator=torch.Generator().manual_seed(int(i))) for i in batch.indices]
    return torch.stack(rows)


def energy(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units by the logarithm of their power."""
    return by_unit(model, batch, units).square().mean(dim=2).clamp(min=1e-10).log10()


def speech(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units by the probability of speech that silero-vad gives, chunk by chunk."""
    detector = speech_detector()
    detector.reset_states()
    chunks = F.pad(batch.waveform, (0, -batch.waveform.shape[1] % SPEECH_CHUNK)).unflatten(1, (-1, SPEECH_CHUNK))
    said = torch.cat([detector(chunk, SPEECH_RATE) for chunk in chunks.unbind(1)], dim=1)
    by_sample = said.repeat_interleave(SPEECH_CHUNK, dim=1)[:, : batch.waveform.shape[1]]
    return by_unit(model, batch._replace(waveform=by_sample), units).amax(dim=2)


def by_unit(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    size, most = model.unit * model.frontend.hop, int(units.max())
    return F.pad(batch.waveform, (0, max(0, most * size - batch.waveform.shape[1])))[:, : most * size].unflatten(
        1, (most, size)
    )


@cache
def speech_detector() -> Any:
    from silero_vad import load_silero_vad  # pyright: ignore[reportMissingImports]  # an extra

    return load_silero_vad()


def make_gate(kind: str, loaded: Loaded) -> Gate | None:
    """Make a gate, with what it needs to know from the validation recordings."""
    if kind == "own":
        return None
    if kind.startswith("own, "):
        gate = OwnGate()
        gate.catch_as_many(loaded, float(kind.split()[1]) / 100)
        return gate
    gate = Gate({"all": everything, "oracle": of_events, "random": drawn, "energy": energy, "speech": speech}[kind])
    if kind == "random":
        gate.open_as_much(loaded, float(hear(loaded, "val").opened[:, 0].mean()))
    if kind in ("energy", "speech"):
        gate.catch_as_many(loaded, EQUAL)
    return gate


def can_hear_speech() -> bool:
    return find_spec("silero_vad") is not None
