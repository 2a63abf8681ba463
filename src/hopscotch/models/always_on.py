"""Listen to recordings without end: a small net hears everything and opens spans, the full model computes those alone.

    every second mel frame -> stage 0 (models/stage0.py) -> spans, cut into pieces (models/spans.py)
    pieces of the waveform -> their other mel frames -> stem -> encoder -> head -> results at their true positions

Pieces are gathered ahead of the stem: a closed second costs stage 0 alone. Where nothing was computed a head that reads
positions says background, and a head that reads clips has nothing to read.

Training begins with everything open. The share of open time falls to `training_rate`: the surest units of a batch are
open. Of the others `random_rate` is open, too, so that the full model knows what stage 0 may let through by mistake.
Evaluation opens what passes a threshold, calibrated so that `awake_rate` of the validation recordings is open. Stage 0
learns from the times of events (training/waking.py) and from what the spans are expected to cost. A head that reads
clips tells it by a straight-through gradient, too, what an open unit is worth.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hopscotch.compute import Cost
from hopscotch.layers.checks import refuse_tracing
from hopscotch.layers.sampling import interpolate
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.spans import CEILING_SECONDS, Ceiling, Piece, pieces, runs, widened
from hopscotch.models.stage0 import STEP, THINNED, Awake, Stage0
from hopscotch.models.token_gate import CLOSED, GatedEncoder, groups_of, stretched, without
from hopscotch.types import Decisions, Lengths, Mask, ModelOutput, SkipTrace, valid_mask


class Heard(NamedTuple):
    """Hold what stage 0 made of a batch."""

    samples: Float[Tensor, "batch sample"]  # with half a frame of silence at both ends
    mel: Float[Tensor, "batch time mel"]  # every second frame
    levels: Float[Tensor, " batch"]  # of the power of the frames
    scores: Float[Tensor, "batch step"]
    widened: Float[Tensor, "batch unit"]  # the highest score that would open a unit; -inf in the padding


class Computed(NamedTuple):
    """Hold what the full model made of pieces."""

    places: list[int]  # of the pieces, in the order of their rows
    rows: Float[Tensor, "row features"]  # of all cores: hidden states, or what the head made of them
    targets: list[int]  # the place of each row among those of the whole batch
    trace: SkipTrace  # a row for each piece, stem and head not counted


class AlwaysOn(AudioModel):
    """Run the full model on the spans that stage 0 opens.

    Args:
        channels: Width of stage 0.
        width: Steps that each of its convolutions spans, an odd number.
        awake_rate: Share of the time that is open at the end of training; 1 for a model without stage 0, which computes
            everything, piece by piece.
        training_rate: The same of recordings of the training, where those have more events than others; None: the same.
        random_rate: Share of the closed time that training opens at random.
        before: Seconds that open ahead of what was heard.
        after: Seconds that stay open behind it.
        context: Seconds at both ends of a span whose results do not count.
        longest: Seconds of results that are computed together.
        ceiling: Share of the time that evaluation opens at most, over 10 seconds and more; 1 for no limit.
        parts: Of the full model.
    """

    in_pieces = True

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        awake_rate: float,
        training_rate: float | None,
        random_rate: float,
        before: float,
        after: float,
        context: float,
        longest: float,
        ceiling: float,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        training_rate = awake_rate if training_rate is None or awake_rate == 1 else training_rate
        for name, share in {"awake_rate": awake_rate, "training_rate": training_rate, "ceiling": ceiling}.items():
            if not 0 < share <= 1:
                raise ValueError(f"stage.{name} must be above 0 and up to 1, got {share}.")
        for name, number in {"random_rate": random_rate, "before": before, "after": after, "context": context}.items():
            if not 0 <= number < math.inf:
                raise ValueError(f"stage.{name} must be at least 0, got {number}.")
        if longest <= 0:
            raise ValueError(f"stage.longest must be above 0 seconds, got {longest}.")
        if isinstance(self.encoder, GatedEncoder):
            raise ValueError("open_rate must be null with a stage, which opens spans ahead of the stem.")
        if super().planner is not None:
            raise ValueError("encoder.*.estimator must not be gain with a stage: gains are those of whole clips.")
        self.is_awake = awake_rate == 1
        self.stage = Awake() if self.is_awake else Stage0(self.frontend.num_mels, channels=channels, width=width)
        self.rates, self.awake_rate = (1.0, training_rate), awake_rate
        self.random_rate, self.ceiling = random_rate, ceiling
        frames = math.prod(self.stem.strides)
        self.per_row = frames * max(1, self.head.pool)  # frames of a row that is put back
        self.unit = math.lcm(STEP, self.per_row)  # frames

        def units(seconds: float) -> int:
            return math.ceil(seconds * self.frontend.sample_rate / (self.frontend.hop * self.unit) - 1e-9)

        self.context, self.longest = units(context), units(longest)
        self.ahead, self.behind = units(before) + self.context, units(after) + self.context
        self.saved = units(CEILING_SECONDS)
        with torch.no_grad():
            self.encoder.eval()
            some = torch.zeros(1, 1, parts["dim"]), torch.tensor([1])
            self.depth = self.encoder(*some)[1].visited.shape[1]
            self.encoder.train()
        self._costs: dict[int, Cost] = {}  # of pieces, by frames: counted once
        self.set_progress(0.0)

    @property
    def decides(self) -> bool:
        return not self.is_awake

    @property
    def skips(self) -> frozenset[str]:
        return self.encoder.skips | {"tokens"}

    @property
    def token_frames(self) -> int:
        return self.unit

    def set_progress(self, progress: float) -> None:
        super().set_progress(progress)
        self.rate = interpolate(*self.rates, min(1.0, progress / CLOSED))

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Lengths,
        keys: Lengths | None = None,
        repeat: Decisions | None = None,
    ) -> ModelOutput:
        refuse_tracing()
        frames = self.frontend.frames(lengths)
        heard = self.heard(waveform, frames, keys)
        units, is_cpu = self._units(frames), frames.device.type == "cpu"
        num_rows = -(-(waveform.shape[1] // self.frontend.hop + 1) // self.per_row)  # of each recording
        mask = valid_mask(units, heard.widened.shape[1])
        if repeat is not None and repeat.tokens is not None and repeat.positions is not None:
            is_open = stretched(repeat.tokens.to(mask.device), repeat.positions.to(mask.device), units, mask.shape[1])
        else:
            is_open = self._opened(heard.widened, mask) & mask
        opened, times, sizes = is_open.tolist(), frames.tolist(), units.tolist()
        found = [
            (clip, piece)
            for clip, row in enumerate(opened)
            for piece in pieces(runs(row), sizes[clip], context=self.context, longest=self.longest)
        ]
        spans = [self._frames_of(piece, times[clip]) for clip, piece in found]
        computed = [
            self.compute(heard, num_rows, found, group, spans, keys, repeat)
            for group in groups_of(spans, lambda size: self._piece_cost(size).dense, together=not is_cpu)
        ]
        clips = torch.tensor([clip for clip, _ in found], device=frames.device, dtype=torch.long)
        odd = torch.tensor(spans, device=frames.device, dtype=torch.long) // THINNED
        return ModelOutput(
            logits=self._put_back(computed, heard, units, num_rows),
            trace=self._traced(computed, found, spans, heard, is_open, frames),
            thresholds={gate.layer: gate.threshold.detach() for gate in self.encoder.gates},
            frontend_macs=self._thin(frames).index_add(0, clips, odd) * self.frontend.frame_macs,
            positions=self.stem.positions(frames),
            stage=None if self.is_awake else heard.scores,
        )

    # Stage 0.

    def heard(self, waveform: Tensor, frames: Lengths, keys: Lengths | None = None) -> Heard:
        """Let stage 0 hear recordings of so many frames."""
        half = self.frontend.fft // 2
        samples = F.pad(waveform, (half, half))
        power, thin = self.frontend.power(samples, every=THINNED), self._thin(frames)
        mask = valid_mask(thin, power.shape[1])
        levels = self.frontend.levels(power, mask)
        mel = self.frontend.scaled(power, levels) * mask[:, :, None]
        scores, steps = self.stage(self._augmented(mel, thin, keys), thin)
        by_step = scores.masked_fill(~valid_mask(steps, scores.shape[1]), -torch.inf)
        per_unit = self.unit // STEP
        by_unit = F.pad(by_step, (0, -by_step.shape[1] % per_unit), value=-torch.inf).unflatten(1, (-1, per_unit))
        reached = widened(by_unit.amax(dim=2), self.ahead, self.behind)
        reached = reached.masked_fill(~valid_mask(self._units(frames), reached.shape[1]), -torch.inf)
        return Heard(samples, mel, levels, scores, reached)

    def _opened(self, scores: Float[Tensor, "batch unit"], mask: Mask) -> Mask:
        """Choose the units to compute; the surest ones of the batch in training, with some others."""
        if not self.training:
            is_open = scores + self.decision_bias > 0
            return is_open if self.ceiling == 1 else self._limited(is_open)
        surest = scores.detach()[mask]
        threshold = surest.topk(max(1, round(self.rate * len(surest)))).values[-1]
        chance = self.random_rate / (self.ahead + self.behind + 1)
        uniform = self.uniform(scores.shape[1])
        drawn = ((torch.rand_like(scores) if uniform is None else uniform) < chance).to(scores.dtype)
        return (scores >= threshold) | (widened(drawn, self.ahead, self.behind) > 0)

    def _limited(self, is_open: Mask) -> Mask:
        rows = []
        for row in is_open.tolist():
            ceiling = self.make_ceiling()
            rows.append([ceiling.allows(wanted) for wanted in row])
        return torch.tensor(rows, device=is_open.device)

    def make_ceiling(self) -> Ceiling:
        """Make the ceiling of a recording that begins."""
        return Ceiling(self.ceiling, most=self.ceiling * self.saved, least=self.ahead + self.behind + 1)

    def _augmented(self, mel: Tensor, frames: Lengths, keys: Lengths | None) -> Tensor:
        if not self.training or self.spectrogram_augment is None or keys is None:
            return mel
        return self.spectrogram_augment(mel, frames, keys)

    # The full model.

    def compute(
        self,
        heard: Heard,
        num_rows: int,
        found: Sequence[tuple[int, Piece]],
        places: list[int],
        spans: Sequence[int],
        keys: Lengths | None = None,
        repeat: Decisions | None = None,
    ) -> Computed:
        """Compute those of the pieces whose places are given, as one batch."""
        device, here = heard.mel.device, [found[place] for place in places]
        clips = torch.tensor([clip for clip, _ in here], device=device)
        frames = torch.tensor([spans[place] for place in places], device=device)
        mel = self._mel(heard, clips, [piece.start * self.unit for _, piece in here], frames)
        mel = self._augmented(mel, frames, None if keys is None else keys[clips])
        same = None if repeat is None else replace(repeat, tokens=None, positions=None)[clips]
        with self.among(clips, torch.tensor([1 + piece.start for _, piece in here], device=device)):
            x, positions, trace = self.encoded(mel, frames, same)
        if self.head.pool > 0:
            x = self.head(x, valid_mask(positions, x.shape[1]))
        per_unit = self.unit // self.per_row
        sources, targets = list[int](), list[int]()
        for row, ((clip, piece), size) in enumerate(zip(here, frames.tolist(), strict=True)):
            first = (piece.core_start - piece.start) * per_unit
            last = min((piece.core_end - piece.start) * per_unit, -(-size // self.per_row))
            sources += range(row * x.shape[1] + first, row * x.shape[1] + last)
            start = clip * num_rows + piece.start * per_unit
            targets += range(start + first, start + last)
        return Computed(places, x.flatten(0, 1)[torch.tensor(sources, device=device)], targets, trace)

    def _mel(self, heard: Heard, clips: Tensor, starts: list[int], frames: Lengths) -> Tensor:
        """Make all mel frames of pieces that begin at so many frames, which are even: half of them are there."""
        start = torch.tensor(starts, device=clips.device)[:, None]
        hop, most = self.frontend.hop, int(frames.max())
        num_pairs, num_odd = -(-most // THINNED), max(1, most // THINNED)
        pairs = start // THINNED + torch.arange(num_pairs, device=clips.device)
        even = heard.mel[clips[:, None], pairs.clamp(max=heard.mel.shape[1] - 1)]
        size = (num_odd - 1) * THINNED * hop + self.frontend.fft
        here = (start + 1) * hop + torch.arange(size, device=clips.device)
        samples = heard.samples[clips[:, None], here.clamp(max=heard.samples.shape[1] - 1)]
        odd = self.frontend.scaled(self.frontend.power(samples, every=THINNED), heard.levels[clips])
        odd = F.pad(odd, (0, 0, 0, num_pairs - num_odd))
        mel = torch.stack([even, odd], dim=2).flatten(1, 2)  # piece time mel
        return mel * valid_mask(frames, mel.shape[1])[:, :, None]

    def _put_back(
        self, computed: Sequence[Computed], heard: Heard, units: Lengths, num_rows: int
    ) -> Float[Tensor, "batch ..."]:
        """Give every result its place in its recording; a head that reads clips then reads what is there."""
        batch, device = len(units), heard.mel.device
        targets = torch.tensor([place for part in computed for place in part.targets], device=device, dtype=torch.long)
        reads_clips = self.head.pool == 0
        closed = heard.mel.new_zeros(1, self.dim) if reads_clips else self.closed_row(heard.mel)
        rows = closed.expand(batch * num_rows, -1)
        if computed:
            rows = rows.index_copy(0, targets, torch.cat([part.rows for part in computed]).to(rows.dtype))
        rows = rows.unflatten(0, (batch, num_rows))
        if not reads_clips:
            return rows
        is_there = torch.zeros(batch * num_rows, dtype=torch.bool, device=device).index_fill(0, targets, True)
        is_there = is_there.view(batch, num_rows)
        is_there[:, 0] |= ~is_there.any(dim=1)  # a head needs a position
        needed = heard.widened.sigmoid().repeat_interleave(self.unit // self.per_row, dim=1)[:, :num_rows, None]
        return self.head(rows * (1 + (needed - needed.detach())), is_there)

    @torch.no_grad()
    def closed_row(self, like: Tensor) -> Float[Tensor, "1 outputs"]:
        """Return what a head that reads positions says where nothing was computed."""
        x = like.new_zeros(1, 1, self.dim)
        return self.head(x, torch.zeros(1, 1, dtype=torch.bool, device=x.device))[0]

    # What it cost.

    def cost(self, samples: int) -> Cost:
        """Count the multiply-accumulates of a recording; the cheapest opens nothing, the dearest everything."""
        return self._cost(int(self.frontend.frames(torch.tensor([samples]))))

    def _cost(self, frames: int) -> Cost:
        whole = [(0, -(-frames // self.unit))]
        found = pieces(whole, whole[0][1], context=self.context, longest=self.longest)
        costs = [self._piece_cost(self._frames_of(piece, frames)) for piece in found]
        dearest, dense = (sum(getattr(cost, name) for cost in costs) for name in ("dearest", "dense"))
        shortest = self.ahead + self.behind + 1  # units of a span
        spans = self.awake_rate * whole[0][1] / shortest
        trained = min(dearest, round(spans * self._piece_cost(shortest * self.unit).dearest))
        return Cost(0, trained, dearest, dense) + int(self._always(torch.tensor([frames])))

    def _always(self, frames: Lengths) -> Lengths:
        """Count what recordings of so many frames cost with nothing open."""
        total = self.stage.macs(self._thin(frames))
        return total + self.head.macs(self.stem.positions(frames)) if self.head.pool == 0 else total

    def _piece_cost(self, frames: int) -> Cost:
        if frames not in self._costs:
            positions = self.stem.positions(torch.tensor([frames]))
            self._costs[frames] = self.encoder.cost(int(positions)) + self._around(frames)
        return self._costs[frames]

    def _around(self, frames: int) -> int:
        """Count what a piece of so many frames costs ahead of the encoder and behind it."""
        number = torch.tensor([frames])
        total = self._stem_macs(number)
        return int(total if self.head.pool == 0 else total + self.head.macs(self.stem.positions(number)))

    def _traced(
        self,
        computed: Sequence[Computed],
        found: Sequence[tuple[int, Piece]],
        spans: Sequence[int],
        heard: Heard,
        is_open: Mask,
        frames: Lengths,
    ) -> SkipTrace:
        """Make a row for each recording: costs of all pieces, decisions of the one with the most results."""
        device, batch = frames.device, len(frames)
        units, always = self._units(frames), self._always(frames)
        dense = torch.tensor([self._cost(time).dense for time in frames.tolist()], device=device)
        share = is_open.sum(dim=1) / units
        if not computed:
            trace = SkipTrace.of(torch.zeros(batch, self.depth, dtype=torch.bool, device=device), 0 * dense, dense)
            macs, expected = 0 * dense, torch.ones(batch, device=device)
        else:
            order = [place for part in computed for place in part.places]
            by_piece = SkipTrace.cat([part.trace for part in computed])
            clips = torch.tensor([found[place][0] for place in order], device=device)
            around = torch.tensor([self._around(spans[place]) for place in order], device=device)

            def total(rows: Tensor) -> Tensor:
                return rows.new_zeros(batch).index_add(0, clips, rows)

            macs = total(by_piece.macs + around)
            whole = total(by_piece.dense_macs + around).clamp(min=1)
            expected = total(by_piece.expected_compute * by_piece.dense_macs + around) / whole
            longest = [0] * batch
            for row in sorted(range(len(order)), key=lambda row: _results(found[order[row]][1])):
                longest[found[order[row]][0]] = row
            trace = without(by_piece[torch.tensor(longest, device=device)], ~is_open.any(dim=1))
            trace = replace(trace, log_prob=total(by_piece.log_prob))
        macs = macs + always
        soft = heard.widened.sigmoid().sum(dim=1) / units
        expected = (always + expected * soft * (dense - always)) / dense if self.training else macs / dense
        inner = torch.where(trace.open_rate.isnan(), 1.0, trace.open_rate)
        return replace(
            trace,
            open_rate=torch.where(trace.visited, share[:, None] * inner, torch.nan),
            macs=macs,
            dense_macs=dense,
            expected_compute=expected.float(),
            decisions=replace(trace.decisions, tokens=is_open, positions=units),
        )

    # Sizes.

    def _thin(self, frames: Lengths) -> Lengths:
        return (frames + THINNED - 1) // THINNED

    def _units(self, frames: Lengths) -> Lengths:
        return (frames + self.unit - 1) // self.unit

    def _frames_of(self, piece: Piece, frames: int) -> int:
        """Count the frames of a piece of a recording of so many frames."""
        return min(piece.end * self.unit, frames) - piece.start * self.unit


def _results(piece: Piece) -> int:
    return piece.core_end - piece.core_start
