"""Hear a recording without end chunk by chunk, and say which events were in it.

    stream = load(run).stream()
    for event in stream.feed(samples): ...      any number of samples, at the model's rate
    for event in stream.end(): ...              what was not over yet

The state that is carried is what a result can depend on, so that events and scores are those of the whole recording
computed at once, however it is cut into chunks, and memory is the same after a day. Stage 0 hears blocks of 0.3 s. A
piece is computed once its span or its part of a long span is over, which is known about a second later.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.detection import FREE, HYSTERESIS, MERGED
from hopscotch.models.always_on import AlwaysOn, Heard
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.heads import DetectionHead
from hopscotch.models.spans import Piece, pieces
from hopscotch.models.stage0 import STEP, THINNED

BLOCK_SECONDS = 0.3  # that stage 0 hears at a time
TWO_AN_HOUR = -1  # row of the head's thresholds: those for 2 false alarms an hour


class StreamEvent(NamedTuple):
    """Say what was heard when, in seconds from the beginning of the stream."""

    start: float
    end: float
    label: str
    confidence: float
    latency: float  # seconds of the stream from the end of the event until it was said


class Finder:
    """Find events in scores that come row by row, as `hopscotch.detection.find` does in all of them."""

    def __init__(self, thresholds: Float[np.ndarray, " classes"], step: float) -> None:
        self.thresholds, self.step, self.row = thresholds, step, 0
        self.start = np.full(len(thresholds), -1)  # of what is heard of a class; -1: nothing
        self.last = np.zeros(len(thresholds), dtype=int)
        self.peak = np.zeros(len(thresholds))

    def push(self, scores: Float[np.ndarray, " classes"]) -> list[tuple[int, int, int, float]]:
        """Take a row, and return the events that are over: start, end, class and highest score."""
        heard = scores > HYSTERESIS * self.thresholds
        is_first = heard & (self.start < 0)
        self.start[is_first], self.peak[is_first] = self.row, 0.0
        self.last[heard] = self.row
        self.peak[heard] = np.maximum(self.peak, scores)[heard]
        self.row += 1
        return self._over((self.start >= 0) & ((self.row - self.last - 1) * self.step > MERGED - FREE))

    def end(self) -> list[tuple[int, int, int, float]]:
        """Return the events that are not over."""
        return self._over(self.start >= 0)

    def _over(self, is_over: np.ndarray) -> list[tuple[int, int, int, float]]:
        sure = np.flatnonzero(is_over & (self.peak > self.thresholds))
        found = [(int(self.start[one]), int(self.last[one]) + 1, int(one), float(self.peak[one])) for one in sure]
        self.start[is_over] = -1
        return found


class Stream:
    """Carry what the model has to remember of a stream from chunk to chunk. Scores go to `on_scores`, if it is given.

    Raises:
        ValueError: If a result of the model could depend on samples that are arbitrarily far away.
    """

    def __init__(self, model: AudioModel, classes: list[str], on_scores: Any = None) -> None:
        if not isinstance(model, AlwaysOn) or not isinstance(model.head, DetectionHead):
            raise ValueError(
                f"a stream needs model=always_on with task=detect, got model={model.name} with a "
                f"{type(model.head).__name__}."
            )
        if model.frontend.level != "none":
            raise ValueError(
                f"a stream needs frontend.level=none (frontend=log_mel_stream), got {model.frontend.level}."
            )
        self.model, self.head, self.classes, self.on_scores = model.eval(), model.head, classes, on_scores
        self.finder = Finder(model.head.thresholds[TWO_AN_HOUR].double().cpu().numpy(), model.head.step)
        self.ceiling = None if model.ceiling == 1 else model.make_ceiling()
        self.device = model.decision_bias.device
        frontend = model.frontend
        self.block = math.ceil(BLOCK_SECONDS * frontend.sample_rate / (frontend.hop * THINNED))  # thin frames
        self.samples = torch.zeros(1, frontend.fft // 2, device=self.device)  # from sample `first_sample` on
        self.mel = torch.zeros(1, 0, frontend.num_mels, device=self.device)  # from thin frame `first_thin` on
        self.scores = list[float]()  # of units from `first_unit` on
        self.steps = list[float]()  # of the unit that is not complete
        self.first_sample = self.first_thin = self.first_unit = 0
        self.received = self.num_steps = self.decided = self.written = self.awake = 0
        self.run: int | None = None  # where the open span begins
        self.next_core: int | None = None  # of the open span's parts that are not computed, once one is
        self.is_over = False

    @property
    def seconds(self) -> float:
        """Return how much was heard."""
        return self.received / self.model.frontend.sample_rate

    @property
    def awake_share(self) -> float:
        """Return the share of the time for which spans were open."""
        return self.awake / max(1, self.decided)

    def feed(self, samples: Any) -> list[StreamEvent]:
        """Hear more samples, full scale being 1, and return the events that are over."""
        if self.is_over:
            raise ValueError("the stream must not have ended, it has: begin another one.")
        chunk = torch.as_tensor(samples, dtype=torch.float32, device=self.device).reshape(1, -1)
        self.received += chunk.shape[1]
        return self._hear(chunk)

    def end(self) -> list[StreamEvent]:
        """Say that nothing more comes, and return the events that are left."""
        self.is_over = True
        found = self._hear(torch.zeros(1, self.model.frontend.fft // 2, device=self.device))
        return found + [self._event(*one) for one in self.finder.end()]

    @torch.inference_mode()
    def _hear(self, chunk: Tensor) -> list[StreamEvent]:
        frontend = self.model.frontend
        self.samples = torch.cat([self.samples, chunk], dim=1)
        known = self.first_sample + self.samples.shape[1]
        self.frames = (known - frontend.fft) // frontend.hop + 1 if known >= frontend.fft else 0
        thin, done = (self.frames + 1) // THINNED, self.first_thin + self.mel.shape[1]
        if thin - done < (1 if self.is_over else self.block):
            return self._decide() if self.is_over else []
        hop = THINNED * frontend.hop
        begin = done * hop - self.first_sample
        power = frontend.power(self.samples[:, begin : begin + (thin - done - 1) * hop + frontend.fft], every=THINNED)
        self.mel = torch.cat([self.mel, frontend.scaled(power, power.new_ones(1))], dim=1)
        self._score(thin)
        found = self._decide()
        self._forget()
        return found

    def _score(self, thin: int) -> None:
        """Let stage 0 score the steps that nothing later can change."""
        reach = self.model.stage.reach // THINNED
        steps = (thin + 1) // 2 if self.is_over else max(0, (thin + 1 - reach) // 2)
        if steps <= self.num_steps:
            return
        first = self._first_step()
        scores, _ = self.model.stage(self.mel[:, 2 * first - self.first_thin :], torch.tensor([thin - 2 * first]))
        self.steps += scores[0, self.num_steps - first : steps - first].tolist()
        self.num_steps = steps

    def _first_step(self) -> int:
        """Return the step that stage 0 has to begin with so that its next score is true."""
        return max(0, self.num_steps - (self.model.stage.reach // THINNED + 1) // 2)

    def _decide(self) -> list[StreamEvent]:
        """Open and close the units whose surroundings are known."""
        model, size = self.model, self.model.unit // STEP
        while len(self.steps) >= size or (self.is_over and self.steps):
            self.scores.append(max(self.steps[:size]))
            del self.steps[:size]
        known, found, bias = self.first_unit + len(self.scores), list[StreamEvent](), float(model.decision_bias)
        while self.decided + (0 if self.is_over else model.ahead) < known:
            unit = self.decided
            reached = self.scores[
                max(0, unit - model.behind - self.first_unit) : unit + model.ahead + 1 - self.first_unit
            ]
            is_open = max(reached) + bias > 0
            is_open = is_open if self.ceiling is None else self.ceiling.allows(is_open)
            self.decided += 1
            found += self._open(unit) if is_open else self._close(unit)
            self.awake += is_open
        return found + (self._close(self.decided, at_end=True) if self.is_over else [])

    def _open(self, unit: int) -> list[StreamEvent]:
        """Take a unit into the span, and compute the part of it that is whole."""
        context, longest = self.model.context, self.model.longest
        self.run = unit if self.run is None else self.run
        here = self.next_core
        if here is None:
            here = self.run if self.run == 0 else self.run + context
        end = here + longest + context
        if unit + 1 < end:
            return []
        self.next_core = here + longest
        return self._compute(Piece(max(self.run, here - context), end, here, here + longest))

    def _close(self, unit: int, at_end: bool = False) -> list[StreamEvent]:
        """End the span before a unit, and compute what is left of it; without one the unit is background."""
        found = list[StreamEvent]()
        if self.run is not None:
            num_units = unit if at_end else unit + 1
            left = pieces([(self.run, unit)], num_units, context=self.model.context, longest=self.model.longest)
            for piece in left:
                if self.next_core is None or piece.core_start >= self.next_core:
                    found += self._compute(piece)
        self.run = self.next_core = None
        return found + self._write_closed(unit if at_end else unit + 1)

    def _compute(self, piece: Piece) -> list[StreamEvent]:
        """Run the full model on a piece, and say its scores."""
        model, start = self.model, piece.start * self.model.unit
        size = min(piece.end * model.unit, self.frames) - start
        first = start // THINNED - self.first_thin
        heard = Heard(
            samples=self.samples[:, start * model.frontend.hop - self.first_sample :],
            mel=self.mel[:, first : first + (size + 1) // THINNED],
            levels=torch.ones(1, device=self.device),
            scores=self.mel[:, :0, 0],
            widened=self.mel[:, :0, 0],
        )
        here = Piece(*(unit - piece.start for unit in piece))
        rows = model.compute(heard, 0, [(0, here)], [0], [size]).rows
        return self._write_closed(piece.core_start) + self._write(rows.float().softmax(dim=1)[:, :-1], piece.core_end)

    def _write_closed(self, unit: int) -> list[StreamEvent]:
        missing = unit - self.written
        if missing <= 0:
            return []
        row = self.model.closed_row(self.mel).softmax(dim=1)[:, :-1]
        return self._write(row.expand(missing * self.model.unit // self.model.per_row, -1), unit)

    def _write(self, rows: Float[Tensor, "row classes"], unit: int) -> list[StreamEvent]:
        """Take the scores of the units up to `unit`."""
        self.written = unit
        scores = rows.cpu().numpy()
        if self.on_scores is not None:
            self.on_scores(scores)
        return [self._event(*one) for row in scores for one in self.finder.push(row)]

    def _event(self, start: int, end: int, label: int, confidence: float) -> StreamEvent:
        step = self.head.step
        return StreamEvent(
            round(start * step, 6),
            round(end * step, 6),
            self.classes[label],
            confidence,
            max(0.0, self.seconds - end * step),
        )

    def _forget(self) -> None:
        """Drop what no later result depends on."""
        model, hop = self.model, self.model.frontend.hop
        kept = self.decided if self.run is None else self.run
        if self.next_core is not None:
            kept = self.next_core - model.context
        thin = min(kept * model.unit // THINNED, 2 * self._first_step())
        sample = min(kept * model.unit, THINNED * (self.first_thin + self.mel.shape[1])) * hop
        self.mel, self.first_thin = self.mel[:, thin - self.first_thin :].clone(), thin
        self.samples, self.first_sample = self.samples[:, sample - self.first_sample :].clone(), sample
        unit = max(self.first_unit, self.decided - model.behind)
        del self.scores[: unit - self.first_unit]
        self.first_unit = unit
