"""Where a model spends its compute, measured at the end of a run: `callbacks=probe`.

report/adaptation.json   accuracy and compute in silence and noise; what the model's own decisions are worth, at the
                         budget of the run and at others
report/adaptation.csv    the same clip by clip, for statistics over runs
"""

import csv
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.report.clips import clips_of
from hopscotch.report.findings import COMMON_ROUTE
from hopscotch.report.json_text import json_text
from hopscotch.report.numbers import partial_rank_correlation, route_shares
from hopscotch.tasks.adaptation import (
    Adaptation,
    Pass,
    evaluate,
    measure_adaptation,
    measure_ends,
    time_fraction,
    with_noise,
    with_silence,
)
from hopscotch.tasks.base import AudioTask
from hopscotch.tasks.budget import Calibration, calibrate, resolve_target
from hopscotch.types import AudioBatch

FILE = "adaptation"
SNR_DB = (20.0, 10.0, 5.0, 0.0)
MIXED_DB = (0.0, 20.0)  # drawn clip by clip
SILENCE_SECONDS = 1.0  # at most, at either end
COLUMNS = ("reach", "set", "clip", "own_loss", "own_acc", "own_macs", "dense_macs")
COLUMNS += ("dealt_loss", "dealt_acc", "dealt_macs", "short_loss", "full_loss", "predicted")


class AdaptationProbe(Callback):
    """`folder`: where the two files go. `reaches`: budgets to ask the finished model for beside its own.

    A reach is a share of the way from the model's floor to everything, as in compute.reach; the model's bias is set
    anew for each, nothing is trained. A model that decides nothing has one budget.
    """

    def __init__(self, *, folder: str, reaches: Sequence[float]) -> None:
        if not all(isinstance(reach, int | float) and 0 <= reach <= 1 for reach in reaches):
            raise ValueError(f"callbacks.adaptation.reaches must be a list of shares, 0 to 1, got {list(reaches)}.")
        self.folder, self.reaches = Path(folder), tuple(reaches)

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AudioTask)
        clips = clips_of(trainer, "test")
        clean = list(clips.datamodule.test_dataloader())
        sets = {"clean": clean, "mixed": with_noise(clean, *MIXED_DB, clips.sample_rate)}
        decides = pl_module.model.decides
        ends = {name: measure_ends(pl_module, batches) for name, batches in sets.items()} if decides else {}
        rows: list[tuple[object, ...]] = []

        def measured(reach: float | None) -> dict[str, Any]:
            found: dict[str, Any] = {"time_fraction": time_fraction(pl_module, clean)} if decides else {}
            for name, batches in sets.items():
                if decides:
                    adaptation = measure_adaptation(pl_module, batches, ends[name])
                    found[name], listed = numbers(adaptation), by_clip(adaptation)
                else:
                    found[name], listed = without_decisions(evaluate(pl_module, batches), batches)
                rows.extend((reach, name, clips.name(index), *row) for index, *row in listed)
            return found

        found = {"conditions": conditions(pl_module, clean, clips.sample_rate), **measured(None), "budgets": []}
        if decides:
            for reach, budget in self._at_reaches(pl_module, clips.datamodule):
                found["budgets"].append(
                    {"reach": reach, "requested": budget.requested, "calibrated": budget.achieved, **measured(reach)}
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{FILE}.json").write_text(json_text(found, indent=2) + "\n", encoding="utf-8")
        with (self.folder / f"{FILE}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((*row, *[""] * (len(COLUMNS) - len(row))) for row in rows)

    def _at_reaches(self, task: AudioTask, data: AudioDataModule) -> Generator[tuple[float, Calibration]]:
        """Every reach with its budget, the model's bias being set for it; afterwards as it was."""
        bias, batches = task.model.decision_bias.clone(), list(data.calibration_batches())
        for reach in self.reaches:
            task.model.decision_bias.copy_(bias)  # each from there: the order of the reaches changes nothing
            requested = resolve_target("auto", task.model, data.mean_samples(), reach)
            assert requested is not None
            yield reach, calibrate(task.model, batches, requested)
        task.model.decision_bias.copy_(bias)


def conditions(task: AudioTask, clean: Sequence[AudioBatch], sample_rate: int) -> list[dict[str, Any]]:
    """Accuracy, loss and mean compute fraction of the same clips under each condition."""
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


def numbers(measured: Adaptation) -> dict[str, float | None]:
    """Means over the clips; `gain_correlation` is Spearman's, of the gain predicted with the one that is there.

    Duration is taken out: what a stride saves, and what a clip has to lose, both grow with it.
    """
    own, shares = measured.own, route_shares(measured.own.trace)
    predicted, duration = measured.predicted.numpy(), own.trace.dense_macs.numpy().astype(float)
    return {
        "acc": own.is_right.double().mean().item(),
        "loss": own.losses.mean().item(),
        "fraction": own.compute_fraction,
        "macs": own.trace.macs.double().mean().item(),
        "dealt_acc": measured.dealt_is_right.mean().item(),
        "dealt_loss": measured.dealt_losses.mean().item(),
        "dealt_fraction": (measured.dealt_macs.sum() / own.trace.dense_macs.sum()).item(),
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
    """JSON has no NaN: what is not there is null."""
    return None if math.isnan(value) else value


def without_decisions(own: Pass, batches: Sequence[AudioBatch]) -> tuple[dict[str, float], list[tuple[Any, ...]]]:
    """What is left of `numbers` and `by_clip` where nothing is decided."""
    indices = torch.cat([batch.indices for batch in batches])
    columns = (indices, own.losses, own.is_right.int(), own.trace.macs, own.trace.dense_macs)
    found = {"acc": own.is_right.double().mean().item(), "loss": own.losses.mean().item()}
    return found, list(zip(*(column.tolist() for column in columns), strict=True))


def by_clip(measured: Adaptation) -> list[tuple[Any, ...]]:
    """Position of the clip in its split, then its values in the order of COLUMNS."""
    own = measured.own
    columns = (
        measured.indices,
        own.losses,
        own.is_right.int(),
        own.trace.macs,
        own.trace.dense_macs,
        measured.dealt_losses,
        measured.dealt_is_right,
        measured.dealt_macs,
        measured.short.losses,
        measured.full.losses,
        measured.predicted,
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))
