"""Gather what the batches of an evaluation returned into one table of clips.

Lightning hands callbacks one step output at a time; everything the reports say is about a whole split.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from hopscotch.training.task import Step
from hopscotch.types import AudioBatch, SkipTrace, join_traces, select_clips


@dataclass(frozen=True)
class Evaluation:
    """What a model said of the clips of a split and did to say it, on the CPU, in the order of the split."""

    trace: SkipTrace
    indices: Int[Tensor, " clip"]  # position of the clip in its split
    labels: Int[Tensor, " clip"]
    predictions: Int[Tensor, " clip"]
    confidences: Float[Tensor, " clip"]  # probability of the predicted class
    losses: Float[Tensor, " clip"]
    thresholds: dict[int, float]  # decision layer -> threshold of its gate

    @property
    def num_clips(self) -> int:
        return len(self.indices)

    @property
    def is_wrong(self) -> Tensor:
        return self.predictions != self.labels

    @property
    def accuracy(self) -> float:
        return 1.0 - self.is_wrong.double().mean().item()

    @property
    def compute_fraction(self) -> float:
        """Share of the dense model's multiply-accumulates: sum over clips, not mean of shares."""
        return self.trace.macs.sum().item() / self.trace.dense_macs.sum().item()


class TraceBuffer:
    """Keep what a step returned, at the price of appending to a list; join only when asked.

    Tensors stay on their device until `gather`: copying them batch by batch would synchronise every step.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Step]] = []

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, batch: AudioBatch, outputs: Mapping[str, Any]) -> None:
        self.steps.append((batch.indices, batch.labels, outputs["step"]))

    def clear(self) -> None:
        self.steps = []

    def gather(self) -> Evaluation:
        """Everything added since the last call, in the order of the split; the buffer is empty afterwards."""
        assert self.steps, "nothing was added to the buffer"
        indices = torch.cat([indices for indices, _, _ in self.steps]).cpu()
        labels = torch.cat([labels for _, labels, _ in self.steps]).cpu()
        losses = torch.cat([step.losses for _, _, step in self.steps]).float().cpu()
        logits = torch.cat([step.output.logits for _, _, step in self.steps]).float().cpu()
        last = self.steps[-1][2].output
        trace = join_traces([step.output.trace for _, _, step in self.steps])
        self.clear()
        order = indices.argsort(stable=True)
        confidences, predictions = logits.softmax(dim=-1).max(dim=-1)
        return Evaluation(
            trace=select_clips(trace, order),
            indices=indices[order],
            labels=labels[order],
            predictions=predictions[order],
            confidences=confidences[order],
            losses=losses[order],
            thresholds={layer: threshold.item() for layer, threshold in last.thresholds.items()},
        )


def of_all_processes(own: Evaluation) -> Evaluation:
    """The evaluations of all processes as one; a clip that was dealt twice, to fill a batch, counts once."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return united(parts)


def united(parts: Sequence[Evaluation]) -> Evaluation:
    """In the order of the split, each clip once."""
    indices = torch.cat([part.indices for part in parts])
    order = indices.argsort(stable=True)
    order = order[torch.cat([torch.tensor([True]), indices[order].diff() != 0])]

    def picked(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[order]

    columns = ("indices", "labels", "predictions", "confidences", "losses")
    return Evaluation(
        trace=select_clips(join_traces([part.trace for part in parts]), order),
        **{name: picked(name) for name in columns},
        thresholds=parts[0].thresholds,
    )


class TraceCollector(Callback):
    """Keep the clips of the last whole validation and test pass, of all processes, for whoever reports at the end."""

    def __init__(self) -> None:
        self.buffer = TraceBuffer()
        self.validation: Evaluation | None = None
        self.test: Evaluation | None = None
        self.test_seconds = 0.0  # of the whole pass: batches made, run, judged
        self._begun = 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.buffer.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.buffer.add(batch, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = of_all_processes(self.buffer.gather())
        if not trainer.sanity_checking:
            self.validation = evaluation

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.buffer.clear()
        self._begun = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.buffer.add(batch, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.test = of_all_processes(self.buffer.gather())  # waits for a GPU
        self.test_seconds = time.perf_counter() - self._begun
