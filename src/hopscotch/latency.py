"""Time models beside each other on test clips: single ones on one thread, and a batch as large as many serve at once.

Each clip goes through all models before the next one does, so that what else the machine does is the same for all.
Reading a clip is not timed. A p99 of fewer than 100 clips is the slowest clip.
"""

import math
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer

from hopscotch.conditions import Setting, changed, seconds_of
from hopscotch.data.clips import one_thread
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.models.audio_model import AudioModel
from hopscotch.report.text import number
from hopscotch.types import AudioBatch

MOST_CLIPS = 100  # spread over the test split
BATCH = 32  # clips of medium length
ROUNDS = 3  # of the batch, of which the median counts
SECONDS = 20.0  # for all models, for clips and for batches each; a clip or round that has begun is finished


class Milliseconds(NamedTuple):
    """Hold the time of a model for a clip."""

    p50: float
    p95: float
    p99: float
    batch: float  # of a clip within a batch
    clips: int  # that the first three are of
    batch_size: int

    @property
    def cells(self) -> dict[str, str]:
        """Write them as cells of a table."""
        heads = ("ms, p50", "p95", "p99", f"batch of {self.batch_size}")
        return dict(zip(heads, (number(value, 2) for value in self[:4]), strict=True))


class Case(NamedTuple):
    """Say what is timed: a model with the bias of a budget on the clips of a setting."""

    model: AudioModel
    bias: float
    data: AudioDataModule
    setting: Setting

    def clips(self, places: Sequence[int]) -> AudioBatch:
        """Read test clips of these places in the split; a long one is all of its windows."""
        found = self.data.test_dataloader().batches.__getitems__([(0, place) for place in places])
        return found if self.setting.augment is None else changed(found, self.setting.augment)


@torch.no_grad()
def in_turn(cases: Sequence[Case], trainer: Trainer) -> list[Milliseconds]:
    """Time all cases on the same clips, single ones on the CPU and the batch where the trainer runs.

    The models keep their biases; they stay on the trainer's device.
    """
    biases = {case.model: case.model.decision_bias.clone() for case in cases}
    lengths = [clip.num_samples for clip in cases[0].data.clips["test"]]
    spread = list(range(0, len(lengths), -(-len(lengths) // MOST_CLIPS)))
    middle = sorted(range(len(lengths)), key=lengths.__getitem__)[max(0, (len(lengths) - BATCH) // 2) :][:BATCH]
    with trainer.precision_plugin.forward_context():
        for model in biases:
            model.eval().cpu()
        with one_thread():
            rounds(cases, [spread[:1]], math.inf)  # the first call is slower
            single = rounds(cases, [[place] for place in spread], SECONDS)
        for model in biases:
            model.to(trainer.strategy.root_device)
        together = rounds(cases, [middle] * ROUNDS, SECONDS)
    for model, bias in biases.items():
        model.decision_bias.copy_(bias)
    return [summed(one, each, len(middle)) for one, each in zip(single, together, strict=True)]


def rounds(cases: Sequence[Case], batches: Sequence[Sequence[int]], most: float) -> list[list[float]]:
    """Return the seconds of each batch by case; after `most` seconds no further one begins."""
    found: list[list[float]] = [[] for _ in cases]
    end = time.monotonic() + most
    for places in batches:
        if found[0] and time.monotonic() >= end:
            break
        for case, seconds in zip(cases, found, strict=True):
            batch = case.clips(places)
            case.model.decision_bias.fill_(case.bias)
            seconds.append(seconds_of(case.model, batch))
    return found


def summed(single: Sequence[float], together: Sequence[float], batch_size: int) -> Milliseconds:
    """Sum up the seconds of single clips, and of rounds of a batch of so many."""
    order = [1e3 * seconds for seconds in sorted(single)]
    p50, p95, p99 = (order[math.ceil(share * len(order)) - 1] for share in (0.5, 0.95, 0.99))
    return Milliseconds(p50, p95, p99, 1e3 * median(together) / batch_size, len(order), batch_size)
