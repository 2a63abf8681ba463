"""Collect what the steps of an epoch returned into one evaluation.

Lightning hands callbacks one step at a time; everything the reports say is about a whole split.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from hopscotch.training.task import Step
from hopscotch.types import AudioBatch, SkipTrace


@dataclass(frozen=True)
class Evaluation:
    """What a model said of the clips of a split and did to say it, on the CPU, in the order of the split."""

    trace: SkipTrace
    indices: Int[Tensor, " clip"]  # position of the clip in its split
    labels: Int[Tensor, " clip"]
    logits: Float[Tensor, "clip classes"]
    losses: Float[Tensor, " clip"]
    thresholds: dict[int, float]  # decision layer -> threshold of its gate

    @property
    def num_clips(self) -> int:
        return len(self.indices)

    @cached_property
    def predictions(self) -> Int[Tensor, " clip"]:
        return self.logits.softmax(dim=-1).argmax(dim=-1)

    @cached_property
    def confidences(self) -> Float[Tensor, " clip"]:
        """Probability of the predicted class."""
        return self.logits.softmax(dim=-1).amax(dim=-1)

    @property
    def is_wrong(self) -> Bool[Tensor, " clip"]:
        return self.predictions != self.labels

    @property
    def accuracy(self) -> float:
        return 1.0 - self.is_wrong.double().mean().item()

    @property
    def compute_fraction(self) -> float:
        """Share of the dense model's multiply-accumulates: sum over clips, not mean of shares."""
        return self.trace.macs.sum().item() / self.trace.dense_macs.sum().item()

    @property
    def compute(self) -> dict[str, float]:
        """Compute fraction, and multiply-accumulates per clip: of the model as it ran and of the dense one."""
        means = {name: getattr(self.trace, name).double().mean().item() for name in ("macs", "dense_macs")}
        return {"fraction": self.compute_fraction, **means}

    def select(self, rows: Int[Tensor, " row"]) -> "Evaluation":
        """The same evaluation for some of its clips, in the order asked for."""
        columns = {name: getattr(self, name)[rows] for name in ("indices", "labels", "logits", "losses")}
        return Evaluation(trace=self.trace[rows], thresholds=self.thresholds, **columns)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Merge evaluations, such as those of several processes, in the order of the split and without duplicates."""
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "labels", "losses")}
    logits, trace = torch.cat([part.logits for part in parts]), SkipTrace.kept([part.trace for part in parts])
    order = columns["indices"].argsort(stable=True)
    is_new = torch.cat([torch.tensor([True]), columns["indices"][order].diff() != 0])  # a batch may be filled up
    return Evaluation(trace=trace, logits=logits, thresholds=parts[0].thresholds, **columns).select(order[is_new])


class TraceCollector(Callback):
    """Keep what steps returned; as a callback, keep the last whole test of all processes.

    Adding a step costs an append: tensors stay on their device until `gather`, for copying them batch by batch would
    synchronise every step.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Step]] = []  # indices, labels, and what the step returned
        self.test: Evaluation | None = None
        self.test_seconds = 0.0  # of the whole pass: batches made, run, judged
        self._begun = 0.0

    def add(self, batch: AudioBatch, outputs: Mapping[str, Any]) -> None:
        self.steps.append((batch.indices, batch.labels, outputs["step"]))

    def gather(self) -> Evaluation:
        """Everything added since the last call; the collector is empty afterwards."""
        assert self.steps, "no step was added"
        indices, labels, steps = zip(*self.steps, strict=True)
        self.steps = []
        everything = Evaluation(
            trace=SkipTrace.kept([step.output.trace for step in steps]),
            indices=torch.cat(indices).cpu(),
            labels=torch.cat(labels).cpu(),
            logits=torch.cat([step.output.logits for step in steps]).float().cpu(),
            losses=torch.cat([step.losses for step in steps]).float().cpu(),
            thresholds={layer: threshold.item() for layer, threshold in steps[-1].output.thresholds.items()},
        )
        return everything.select(everything.indices.argsort(stable=True))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps = []
        self._begun = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        self.add(batch, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        test = self.gather()  # waits for a GPU
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, test)
            test = joined(parts)
        self.test, self.test_seconds = test, time.perf_counter() - self._begun
