"""Does a model spend compute where it helps? Its decisions, against the same decisions dealt to the wrong clips.

Every clip is judged in several ways, on the same waveform:

    own      the model's own decisions
    dealt    the decisions that the model took for some other clip: the same compute, no information
    short    every decision at its cheapest
    full     nothing skipped
    gain     loss(short) - loss(full): what more compute is worth to this clip, and what a policy should know
    predicted   the gain that the model expects; of a model that predicts none, the compute that it plans for the clip

and what decisions and fixed strides leave of the time is measured beside it, in turn with the dense run on the same
batches.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.data.augment import WaveformAugment
from hopscotch.layers.attention import SkipAttention
from hopscotch.models.audio_model import AudioModel
from hopscotch.tasks.base import AudioTask
from hopscotch.tasks.budget import REACH
from hopscotch.types import AudioBatch, SkipTrace, join_traces, key_bits, select_clips

NUM_DEALS = 4  # permutations over which the dealt decisions are averaged
TIMED_BATCHES = 8  # spread over the split
TIMED_ROUNDS = 3  # of each, the fastest counts: other work on the machine only ever adds


class Pass(NamedTuple):
    """One pass over the clips of a split."""

    losses: Float[Tensor, " clip"]
    is_right: Bool[Tensor, " clip"]
    trace: SkipTrace

    @property
    def compute_fraction(self) -> float:
        return self.trace.macs.sum().item() / self.trace.dense_macs.sum().item()


class Adaptation(NamedTuple):
    """What was measured of the same clips; `dealt_*` are means over the deals."""

    indices: Int[Tensor, " clip"]
    own: Pass
    dealt_losses: Float[Tensor, " clip"]
    dealt_is_right: Float[Tensor, " clip"]  # share of the deals in which the clip was recognised
    dealt_macs: Float[Tensor, " clip"]
    short: Pass
    full: Pass
    predicted: Float[Tensor, " clip"]

    @property
    def gain(self) -> Float[Tensor, " clip"]:
        return self.short.losses - self.full.losses


def with_noise(
    batches: Sequence[AudioBatch], lowest_db: float, highest_db: float, sample_rate: int
) -> list[AudioBatch]:
    """The same clips in noise, its level drawn between two signal-to-noise ratios; a clip's noise follows its key."""
    return _changed(batches, sample_rate, noise_probability=1.0, noise_snr_db=(lowest_db, highest_db))


def with_silence(batches: Sequence[AudioBatch], seconds: float, sample_rate: int) -> list[AudioBatch]:
    """The same clips between two silences, each of up to so many seconds."""
    return _changed(batches, sample_rate, silence_probability=1.0, silence_seconds=seconds)


@torch.no_grad()
def evaluate(task: AudioTask, batches: Sequence[AudioBatch], repeat: SkipTrace | None = None) -> Pass:
    """`repeat`: decisions to take instead of the model's own, clip by clip."""
    model, device = task.model.eval(), task.model.decision_bias.device
    losses, is_right, traces, first = [], [], [], 0
    for batch in batches:
        size = len(batch.labels)
        rows = torch.arange(first, first + size)
        taken = None if repeat is None else select_clips(repeat, rows)
        batch = AudioBatch(*(part.to(device) for part in batch))
        output = model(batch.waveform, batch.lengths, repeat=taken)
        losses.append(task.clip_losses(output.logits, batch).cpu())
        is_right.append((output.logits.argmax(dim=-1) == batch.labels).cpu())
        traces.append(output.trace)
        first += size
    return Pass(torch.cat(losses), torch.cat(is_right), join_traces(traces))


class Ends(NamedTuple):
    """What every budget has in common: the cheapest decisions, and nothing skipped."""

    short: Pass
    full: Pass


@torch.no_grad()
def measure_ends(task: AudioTask, batches: Sequence[AudioBatch]) -> Ends:
    """For a model that decides; its bias is as it was afterwards."""
    bias = task.model.decision_bias.clone()
    task.model.decision_bias.fill_(-math.sinh(REACH))
    short = evaluate(task, batches)
    task.model.decision_bias.fill_(math.sinh(REACH))
    full = evaluate(task, batches)
    task.model.decision_bias.copy_(bias)
    return Ends(short, full)


def measure_adaptation(task: AudioTask, batches: Sequence[AudioBatch], ends: Ends) -> Adaptation:
    """Of a model that decides, at the budget that its bias is set for."""
    own = evaluate(task, batches)
    generator = torch.Generator().manual_seed(key_bits(task.seed))
    deals = []
    for _ in range(NUM_DEALS):
        order = torch.randperm(len(own.losses), generator=generator)
        deals.append(evaluate(task, batches, select_clips(own.trace, order)))
    return Adaptation(
        indices=torch.cat([batch.indices for batch in batches]),
        own=own,
        dealt_losses=torch.stack([deal.losses for deal in deals]).mean(0),
        dealt_is_right=torch.stack([deal.is_right for deal in deals]).float().mean(0),
        dealt_macs=torch.stack([deal.trace.macs for deal in deals]).double().mean(0),
        short=ends.short,
        full=ends.full,
        predicted=_predicted(task.model, own.trace, ends.short.trace),
    )


@torch.no_grad()
def _predicted(model: AudioModel, own: SkipTrace, short: SkipTrace) -> Float[Tensor, " clip"]:
    """From what the clip's own decisions were planned from."""
    if model.encoder.gain_net is None:
        return own.expected_compute
    assert own.summary is not None
    device = model.decision_bias.device
    return model.encoder.predicted_cost(own.summary.to(device), short).cpu()


@torch.no_grad()
def time_fraction(task: AudioTask, batches: Sequence[AudioBatch]) -> float:
    """What the model's decisions and fixed strides leave of the seconds of its dense run: nothing skipped, stride 1."""
    model, bias = task.model.eval(), task.model.decision_bias
    seconds = {"own": 0.0, "dense": 0.0}
    for batch in batches[:: -(-len(batches) // TIMED_BATCHES)]:
        waveform, lengths = batch.waveform.to(bias.device), batch.lengths.to(bias.device)
        fastest = {"own": math.inf, "dense": math.inf}
        for _ in range(TIMED_ROUNDS):
            for name, setting in (("own", contextlib.nullcontext()), ("dense", nothing_skipped(model))):
                with setting:
                    begun = time.perf_counter()
                    model(waveform, lengths).logits.sum().item()  # waits for a GPU
                    fastest[name] = min(fastest[name], time.perf_counter() - begun)
        seconds = {name: seconds[name] + fastest[name] for name in seconds}
    return seconds["own"] / seconds["dense"]


@contextlib.contextmanager
def nothing_skipped(model: AudioModel) -> Iterator[None]:
    """Every decision as dear as it gets, and every stride that was fixed beforehand 1."""
    bias = model.decision_bias.clone()
    fixed = [(module, module.stride) for module in model.modules() if isinstance(module, SkipAttention)]
    model.decision_bias.fill_(math.sinh(REACH))
    for module, _ in fixed:
        module.stride = 1
    try:
        yield
    finally:
        model.decision_bias.copy_(bias)
        for module, stride in fixed:
            module.stride = stride


def _changed(batches: Sequence[AudioBatch], sample_rate: int, **what: object) -> list[AudioBatch]:
    nothing = {
        "speeds": [1.0],
        "silence_probability": 0.0,
        "silence_seconds": 0.0,
        "gain_db": 0.0,
        "noise_probability": 0.0,
        "noise_snr_db": (0.0, 0.0),
    }
    augment = WaveformAugment(sample_rate=sample_rate, **(nothing | what))  # pyright: ignore[reportArgumentType]
    changed = []
    for batch in batches:
        waveform, lengths = augment(batch.waveform, batch.lengths, batch.keys)
        changed.append(batch._replace(waveform=waveform, lengths=lengths))
    return changed
