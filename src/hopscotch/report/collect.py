"""Join the steps of an epoch into one evaluation: everything the reports say is about a whole split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.data.clips import Clip
from hopscotch.detection import figures
from hopscotch.intervals import Interval, Units, share_interval
from hopscotch.types import SkipTrace, Step


@dataclass(frozen=True)
class Evaluation:
    """What a model said of the clips of a split and did to say it, on the CPU, in the order of the split."""

    trace: SkipTrace
    indices: Int[Tensor, " clip"]  # position of the clip in its split
    losses: Float[Tensor, " clip"]
    rows: dict[str, Tensor]  # what the task says of each clip, by column
    thresholds: dict[int, float]  # decision layer -> threshold of its gate

    @property
    def num_clips(self) -> int:
        return len(self.indices)

    @property
    def has_classes(self) -> bool:
        """Tell whether each clip has one label and was given one: whole numbers, both places among the classes."""
        return all(name in self.rows and not self.rows[name].is_floating_point() for name in ("label", "prediction"))

    @property
    def is_wrong(self) -> Bool[Tensor, " clip"]:
        return self.rows["prediction"] != self.rows["label"]

    @property
    def compute_fraction(self) -> float:
        """Share of the dense model's multiply-accumulates: sum over clips, not mean of shares."""
        return self.trace.macs.sum().item() / self.trace.dense_macs.sum().item()

    @property
    def compute(self) -> dict[str, float]:
        """Compute fraction, and multiply-accumulates per clip: of the model as it ran and of the dense one."""
        means = {name: getattr(self.trace, name).double().mean().item() for name in ("macs", "dense_macs")}
        return {"fraction": self.compute_fraction, **means}

    def interval(self, value: float, clips: Sequence[Clip]) -> Interval | None:
        """Return the interval of a metric of these `clips` of a split: a share of right ones, or a detector's."""
        units = Units.of([clips[index].shared for index in self.indices.tolist()])
        if self.has_classes:
            known = [share_interval((~self.is_wrong).numpy(), units)]
        else:
            known = figures({name: column.numpy() for name, column in self.rows.items()}, units).values()
        return next((found for found in known if math.isclose(value, found.value, abs_tol=1e-6)), None)

    def macro_f1(self, num_classes: int) -> float:
        """Average F1 over the classes that were shown or named."""
        from torchmetrics.functional.classification import multiclass_f1_score  # and with it matplotlib

        return multiclass_f1_score(self.rows["prediction"], self.rows["label"], num_classes, average="macro").item()

    def select(self, rows: Int[Tensor, " row"]) -> "Evaluation":
        """Select some of the clips, in the order asked for."""
        told = {name: column[rows] for name, column in self.rows.items()}
        return Evaluation(self.trace[rows], self.indices[rows], self.losses[rows], told, self.thresholds)


def gather(steps: Sequence[Step]) -> Evaluation:
    """Join steps, which stay on their device until then: copying batch by batch would synchronise every step."""
    thresholds = {layer: threshold.item() for layer, threshold in steps[-1].output.thresholds.items()}
    return in_order(
        [Evaluation(step.output.trace, step.indices, step.losses, dict(step.rows), thresholds) for step in steps]
    )


def gather_everywhere(steps: Sequence[Step]) -> Evaluation:
    """Join the steps of all processes; every process must call it."""
    own = gather(steps)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return joined(parts)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Merge evaluations, such as those of several processes, in the order of the split and without duplicates."""
    whole = in_order(parts)
    is_new = torch.cat([torch.tensor([True]), whole.indices.diff() != 0])  # a batch may be filled up
    return whole.select(is_new.nonzero().flatten())


def in_order(parts: Sequence[Evaluation]) -> Evaluation:
    """Concatenate evaluations on the CPU and sort their clips as the split does."""
    whole = Evaluation(
        trace=SkipTrace.kept([part.trace for part in parts]),
        indices=torch.cat([part.indices for part in parts]).cpu(),
        losses=torch.cat([part.losses for part in parts]).float().cpu(),
        rows={name: torch.cat([part.rows[name] for part in parts]).cpu() for name in parts[0].rows},
        thresholds=parts[0].thresholds,
    )
    return whole.select(whole.indices.argsort(stable=True))
