"""Join the steps of an epoch into one evaluation: everything the reports say is about a whole split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.training.task import Step
from hopscotch.types import SkipTrace


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

    def select(self, rows: Int[Tensor, " row"]) -> "Evaluation":
        """Select some of the clips, in the order asked for."""
        told = {name: column[rows] for name, column in self.rows.items()}
        return Evaluation(self.trace[rows], self.indices[rows], self.losses[rows], told, self.thresholds)


def gather(steps: Sequence[Step]) -> Evaluation:
    """Join steps, which stay on their device until then: copying batch by batch would synchronise every step."""
    everything = Evaluation(
        trace=SkipTrace.kept([step.output.trace for step in steps]),
        indices=torch.cat([step.indices for step in steps]).cpu(),
        losses=torch.cat([step.losses for step in steps]).float().cpu(),
        rows={name: torch.cat([step.rows[name] for step in steps]).cpu() for name in steps[0].rows},
        thresholds={layer: threshold.item() for layer, threshold in steps[-1].output.thresholds.items()},
    )
    return everything.select(everything.indices.argsort(stable=True))


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
    indices = torch.cat([part.indices for part in parts])
    whole = Evaluation(
        trace=SkipTrace.kept([part.trace for part in parts]),
        indices=indices,
        losses=torch.cat([part.losses for part in parts]),
        rows={name: torch.cat([part.rows[name] for part in parts]) for name in parts[0].rows},
        thresholds=parts[0].thresholds,
    )
    order = indices.argsort(stable=True)
    is_new = torch.cat([torch.tensor([True]), indices[order].diff() != 0])  # a batch may be filled up
    return whole.select(order[is_new])
