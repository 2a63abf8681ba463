"""Measure at the end of a run what the model's decisions are worth: `callbacks=decision_value`.

report/decision_value.json   accuracy and compute in silence and noise; what the model's own decisions are worth, at the
                             budget of the run and at others
report/decision_value.csv    the same clip by clip, for statistics over runs

Does a model spend compute where it helps? Its decisions are compared with the same decisions shuffled over the clips.
Every clip is judged in several ways, on the same waveform:

    own         the model's own decisions
    shuffled    the decisions that the model took for some other clip: the same compute, no information
    short       every decision at its cheapest
    full        nothing skipped
    gain        loss(short) - loss(full): what more compute is worth to this clip, and what a policy should know
    predicted   the gain that the model expects; of a model that predicts none, the compute that it plans for the clip

The share of the dense run's time that the model takes is measured in turn with the dense run on the same batches.
"""

import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from hopscotch.conditions import augment_only, changed, time_clips
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.files import write_csv
from hopscotch.models.audio_model import AudioModel
from hopscotch.report.clips import clips_of
from hopscotch.report.decisions import COMMON_ROUTE, route_shares
from hopscotch.report.statistics import partial_rank_correlation
from hopscotch.report.text import json_text
from hopscotch.training.calibration import MAX_BIAS, Calibration, calibrate, resolve_target
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, Decisions, SkipTrace, key_bits

FILE = "decision_value"
SNR_DB = (20.0, 10.0, 5.0, 0.0)
MIXED_DB = (0.0, 20.0)  # drawn clip by clip
SILENCE_SECONDS = 1.0  # at most, at either end
NUM_SHUFFLES = 4  # permutations over which shuffled decisions are averaged
COLUMNS = ("level", "set", "clip", "own_loss", "own_acc", "own_macs", "dense_macs")
COLUMNS += ("shuffled_loss", "shuffled_acc", "shuffled_macs", "short_loss", "full_loss", "predicted")


class Pass(NamedTuple):
    """Hold one pass over the clips of a split."""

    losses: Float[Tensor, " clip"]
    is_right: Bool[Tensor, " clip"]
    trace: SkipTrace

    @property
    def compute_fraction(self) -> float:
        return self.trace.macs.sum().item() / self.trace.dense_macs.sum().item()


class Measured(NamedTuple):
    """Hold what was measured on the same clips; `shuffled_*` are means over the permutations."""

    indices: Int[Tensor, " clip"]
    own: Pass
    shuffled_losses: Float[Tensor, " clip"]
    shuffled_is_right: Float[Tensor, " clip"]  # share of the permutations in which the clip was recognised
    shuffled_macs: Float[Tensor, " clip"]
    short: Pass
    full: Pass
    predicted: Float[Tensor, " clip"]

    @property
    def gain(self) -> Float[Tensor, " clip"]:
        return self.short.losses - self.full.losses


class DecisionValue(Callback):
    """Write the two files to `folder`, at the budget of the run and at each of `levels`.

    A level is a share of the way from the model's floor to everything, as in compute.level. The model's bias is set
    for each; nothing is trained. A model that decides nothing has one budget.
    """

    def __init__(self, *, folder: str, levels: Sequence[float]) -> None:
        if not all(isinstance(level, int | float) and 0 <= level <= 1 for level in levels):
            raise ValueError(f"callbacks.decision_value.levels must be a list of shares, 0 to 1, got {list(levels)}.")
        self.folder, self.levels = Path(folder), tuple(levels)

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AudioTask)
        clips = clips_of(trainer, "test")
        clean = list(clips.datamodule.test_dataloader())
        sets = {"clean": clean, "mixed": with_noise(clean, *MIXED_DB, clips.sample_rate)}
        decides = pl_module.model.decides
        ends = {name: measure_ends(pl_module, batches) for name, batches in sets.items()} if decides else {}
        rows: list[tuple[object, ...]] = []

        def measured(level: float | None) -> dict[str, Any]:
            found: dict[str, Any] = {"time_fraction": time_clips(pl_module, clean).fraction} if decides else {}
            for name, batches in sets.items():
                if decides:
                    decided = measure_decisions(pl_module, batches, ends[name])
                    found[name], listed = numbers(decided), by_clip(decided)
                else:
                    found[name], listed = without_decisions(evaluate(pl_module, batches), batches)
                rows.extend((level, name, clips.name(index), *row) for index, *row in listed)
            return found

        found = {"conditions": conditions(pl_module, clean, clips.sample_rate), **measured(None), "budgets": []}
        if decides:
            for level, budget in self._at_levels(pl_module, clips.datamodule):
                found["budgets"].append(
                    {"level": level, "requested": budget.requested, "calibrated": budget.achieved, **measured(level)}
                )
        write_csv(self.folder / f"{FILE}.csv", COLUMNS, [(*row, *[""] * (len(COLUMNS) - len(row))) for row in rows])
        (self.folder / f"{FILE}.json").write_text(json_text(found, indent=2) + "\n", encoding="utf-8")

    def _at_levels(self, task: AudioTask, data: AudioDataModule) -> Generator[tuple[float, Calibration]]:
        """Yield every level with its budget while the model's bias is set for it; restore the bias afterwards."""
        bias, batches = task.model.decision_bias.clone(), list(data.calibration_batches())
        for level in self.levels:
            task.model.decision_bias.copy_(bias)  # each from there: the order of the levels changes nothing
            requested = resolve_target("auto", task.model, data.mean_samples(), level)
            assert requested is not None
            yield level, calibrate(task.model, batches, requested)
        task.model.decision_bias.copy_(bias)


def conditions(task: AudioTask, clean: Sequence[AudioBatch], sample_rate: int) -> list[dict[str, Any]]:
    """Evaluate the same clips under each condition: accuracy, loss and mean compute fraction."""
    sets = {"clean": list(clean), "silence": with_silence(clean, SILENCE_SECONDS, sample_rate)}
    sets |= {f"{snr:g} dB": with_noise(clean, snr, snr, sample_rate) for snr in SNR_DB}
    found = []
    for name, batches in sets.items():
        own = evaluate(task, batches)
        found.append(
            {
                "condition": name,
                "acc": own.is_right.double().mean().item(),
                "loss": own.losses.mean().item(),
                "fraction": own.compute_fraction,
                "macs": own.trace.macs.double().mean().item(),
            }
        )
    return found


def numbers(measured: Measured) -> dict[str, float | None]:
    """Average over the clips; `gain_correlation` is Spearman's, of the predicted gain with the measured one.

    Duration is partialled out, because what a stride saves and what a clip has to lose both grow with it.
    """
    own, shares = measured.own, route_shares(measured.own.trace)
    predicted, duration = measured.predicted.numpy(), own.trace.dense_macs.numpy().astype(float)
    return {
        "acc": own.is_right.double().mean().item(),
        "loss": own.losses.mean().item(),
        "fraction": own.compute_fraction,
        "macs": own.trace.macs.double().mean().item(),
        "shuffled_acc": measured.shuffled_is_right.mean().item(),
        "shuffled_loss": measured.shuffled_losses.mean().item(),
        "shuffled_fraction": (measured.shuffled_macs.sum() / own.trace.dense_macs.sum()).item(),
        "short_acc": measured.short.is_right.double().mean().item(),
        "short_loss": measured.short.losses.mean().item(),
        "full_acc": measured.full.is_right.double().mean().item(),
        "full_loss": measured.full.losses.mean().item(),
        "gain_correlation": known(partial_rank_correlation(predicted, measured.gain.numpy(), duration)),
        "loss_correlation": known(
            partial_rank_correlation(own.trace.expected_compute.numpy(), own.losses.numpy(), duration)
        ),
        "routes": len(shares),
        "common_routes": int((np.asarray(shares) >= COMMON_ROUTE).sum()),
        "entropy": own.trace.entropy.mean().item(),
    }


def known(value: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return None if math.isnan(value) else value


def without_decisions(own: Pass, batches: Sequence[AudioBatch]) -> tuple[dict[str, float], list[tuple[Any, ...]]]:
    """Return what is left of `numbers` and `by_clip` where nothing is decided."""
    indices = torch.cat([batch.indices for batch in batches])
    columns = (indices, own.losses, own.is_right.int(), own.trace.macs, own.trace.dense_macs)
    found = {"acc": own.is_right.double().mean().item(), "loss": own.losses.mean().item()}
    return found, list(zip(*(column.tolist() for column in columns), strict=True))


def by_clip(measured: Measured) -> list[tuple[Any, ...]]:
    """List for each clip its position in the split, then its values in the order of COLUMNS."""
    own = measured.own
    columns = (
        measured.indices,
        own.losses,
        own.is_right.int(),
        own.trace.macs,
        own.trace.dense_macs,
        measured.shuffled_losses,
        measured.shuffled_is_right,
        measured.shuffled_macs,
        measured.short.losses,
        measured.full.losses,
        measured.predicted,
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


@torch.no_grad()
def evaluate(task: AudioTask, batches: Sequence[AudioBatch], repeat: Decisions | None = None) -> Pass:
    """Evaluate a task on batches; `repeat` holds decisions to take instead of the model's own, clip by clip."""
    model, device = task.model.eval(), task.model.decision_bias.device
    losses, is_right, traces, first = [], [], [], 0
    for batch in batches:
        size = len(batch.labels)
        rows = torch.arange(first, first + size)
        taken = None if repeat is None else repeat[rows]
        batch = AudioBatch(*(part.to(device) for part in batch))
        output = model(batch.waveform, batch.lengths, repeat=taken)
        losses.append(task.losses(output, batch).cpu())
        is_right.append((output.logits.argmax(dim=-1) == batch.labels).cpu())
        traces.append(output.trace)
        first += size
    return Pass(torch.cat(losses), torch.cat(is_right), SkipTrace.kept(traces))


class Ends(NamedTuple):
    """Hold what every budget has in common: the cheapest decisions, and nothing skipped."""

    short: Pass
    full: Pass


@torch.no_grad()
def measure_ends(task: AudioTask, batches: Sequence[AudioBatch]) -> Ends:
    """Evaluate a model that decides with its bias at both ends, and restore the bias."""
    bias = task.model.decision_bias.clone()
    task.model.decision_bias.fill_(-math.sinh(MAX_BIAS))
    short = evaluate(task, batches)
    task.model.decision_bias.fill_(math.sinh(MAX_BIAS))
    full = evaluate(task, batches)
    task.model.decision_bias.copy_(bias)
    return Ends(short, full)


def measure_decisions(task: AudioTask, batches: Sequence[AudioBatch], ends: Ends) -> Measured:
    """Measure a model that decides at the budget that its bias is set for."""
    own = evaluate(task, batches)
    generator = torch.Generator().manual_seed(key_bits(task.seed))
    shuffled = []
    for _ in range(NUM_SHUFFLES):
        order = torch.randperm(len(own.losses), generator=generator)
        shuffled.append(evaluate(task, batches, own.trace.decisions[order]))
    return Measured(
        indices=torch.cat([batch.indices for batch in batches]),
        own=own,
        shuffled_losses=torch.stack([one.losses for one in shuffled]).mean(0),
        shuffled_is_right=torch.stack([one.is_right for one in shuffled]).float().mean(0),
        shuffled_macs=torch.stack([one.trace.macs for one in shuffled]).double().mean(0),
        short=ends.short,
        full=ends.full,
        predicted=_predicted(task.model, own.trace, ends.short.trace),
    )


@torch.no_grad()
def _predicted(model: AudioModel, own: SkipTrace, short: SkipTrace) -> Float[Tensor, " clip"]:
    """Predict the gain of each clip from the features that its policy used."""
    if model.planner is None:
        return own.expected_compute
    assert own.summary is not None
    device = model.decision_bias.device
    return model.planner.predicted_cost(own.summary.to(device), short).cpu()


def with_noise(
    batches: Sequence[AudioBatch], lowest_db: float, highest_db: float, sample_rate: int
) -> list[AudioBatch]:
    """Add noise at a signal-to-noise ratio drawn between two levels, in dB; a clip's noise is a function of its key."""
    noisy = augment_only(sample_rate, noise_probability=1.0, noise_snr_db=(lowest_db, highest_db))
    return [changed(batch, noisy) for batch in batches]


def with_silence(batches: Sequence[AudioBatch], seconds: float, sample_rate: int) -> list[AudioBatch]:
    """Put each clip between two silences of up to `seconds` each."""
    padded = augment_only(sample_rate, silence_probability=1.0, silence_seconds=seconds)
    return [changed(batch, padded) for batch in batches]
