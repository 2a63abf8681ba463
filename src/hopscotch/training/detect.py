"""Events in recordings: which class is heard, from when to when, judged by misses at a number of false alarms an hour.

    loss = mean over the scores of -log p(what may be said there)
         + event_weight * mean over the recording's events of min over the event of -log p(its class)

An event has to be heard once, wherever in it (multiple-instance learning; `max` over its scores). Background may be
said everywhere, and the class of an event in it and within 0.2 s of it, since where one begins and ends labels are not
sure. So an event is never to be heard as one of another class, which would be a false alarm.

After each validation thresholds by class are chosen for 0.5 and for 2 false alarms an hour (hopscotch/detection.py),
and kept in the head. The figures of training are those of the first batches of each epoch, at the thresholds so far.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from hopscotch.data.events import NONE
from hopscotch.detection import METRICS, RATES, Counts, Ratio, Recording, choose, count, errors
from hopscotch.models.audio_model import OutputHead, Pooling
from hopscotch.models.heads import DetectionHead
from hopscotch.training.task import AudioTask, StepOutput
from hopscotch.types import AudioBatch, ModelOutput, Primary, valid_mask

UNSURE = 0.2  # seconds around an event
JUDGED = 4  # training batches of an epoch: counting is for the CPU, and would wait for a GPU


class RatioOfSums(Metric):
    """Divide two sums over recordings; NaN where there is nothing to divide by."""

    part: Tensor
    whole: Tensor

    def __init__(self, ratio: Ratio) -> None:
        super().__init__()
        self.ratio = ratio
        for name in ("part", "whole"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, counts: Float[Tensor, "recording count"], _: Tensor) -> None:
        part, whole = self.ratio(Counts(*counts.double().cpu().numpy().T))
        self.part += float(part.sum())
        self.whole += float(whole.sum())

    def compute(self) -> Tensor:
        return torch.where(self.whole > 0, self.part / self.whole, torch.nan).float()


class DetectionTask(AudioTask):
    """Find the events of `classes`. `event_weight` weighs those that are missed against what is said falsely."""

    primary = Primary("miss_2", larger_is_better=False)
    labels = "events"

    def __init__(self, *, event_weight: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.event_weight = event_weight
        self.validated: list[Recording] = []

    @classmethod
    def make_head(cls, dim: int, num_outputs: int, *, pooling: Pooling, dropout: float) -> OutputHead:
        return DetectionHead(dim, num_outputs, pooling=pooling, dropout=dropout)

    @property
    def head(self) -> DetectionHead:
        assert isinstance(self.model.head, DetectionHead)
        return self.model.head

    def on_fit_start(self) -> None:
        """Refuse a validation without events, for thresholds are chosen on it."""
        super().on_fit_start()
        if not any(clip.events for clip in self.trainer.datamodule.clips["val"]):
            raise ValueError(
                "data must have an event in a validation recording, from which thresholds are chosen, got none in "
                f"{len(self.trainer.datamodule.clips['val'])} recordings: move some with events there, or raise "
                "data.val_fraction."
            )

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        log_shares = output.logits.float().log_softmax(dim=-1)
        places = torch.arange(log_shares.shape[1], device=log_shares.device)
        lengths = self.head.num_scores(output.positions)
        start, end, label = batch.labels.unbind(dim=2)  # batch event
        is_there = (label != NONE)[..., None]  # batch event 1
        last = (lengths - 1)[:, None]
        first, final = ((one // self.head.hop).minimum(last)[..., None] for one in (start, end - 1))
        around = round(UNSURE / self.head.step)
        is_near = is_there & (places >= first - around) & (places <= final + around)  # batch event score
        may_be_said = torch.zeros_like(log_shares, dtype=torch.bool)
        may_be_said[..., -1] = True
        clip, event, place = is_near.nonzero(as_tuple=True)
        may_be_said[clip, place, label[clip, event]] = True
        allowed = log_shares.masked_fill(~may_be_said, -torch.inf).logsumexp(dim=2)
        is_valid = valid_mask(lengths, len(places))
        false = -(allowed * is_valid).sum(dim=1) / is_valid.sum(dim=1)
        wanted = label.clamp(min=0)[..., None].expand(-1, -1, len(places))
        of_events = log_shares.transpose(1, 2).gather(1, wanted)  # batch event score
        is_inside = (places >= first) & (places <= final)
        best = of_events.masked_fill(~is_inside, -torch.inf).amax(dim=2)
        missed = -best.where(is_there[..., 0], 0.0).sum(dim=1) / is_there.sum(dim=(1, 2)).clamp(min=1)
        return false + self.event_weight * missed

    def metrics(self) -> MetricCollection:
        own: dict[str, Metric | MetricCollection] = {name: RatioOfSums(ratio) for name, ratio in METRICS.items()}
        return MetricCollection(own, compute_groups=False)  # a group is made of what is equal after the first update

    def judged(self, output: ModelOutput, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        if self.training and len(self.steps["train"]) >= JUDGED:
            return torch.zeros(len(batch.lengths), len(Counts._fields), dtype=torch.float64), batch.indices
        return self._counts(self.recordings(output, batch)), batch.indices

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        counts = self._counts(self.recordings(output, batch))
        return dict(zip(Counts._fields, counts.unbind(dim=1), strict=True))

    def recordings(self, output: ModelOutput, batch: AudioBatch) -> list[Recording]:
        """Take scores and events to the CPU, recording by recording."""
        scores = output.logits.detach().float().softmax(dim=-1)[..., :-1].cpu().numpy()
        rate, lengths = self.head.sample_rate, self.head.num_scores(output.positions).tolist()
        events = batch.labels.cpu().numpy()
        return [
            Recording(
                scores=scores[clip, : lengths[clip]],
                events=rows[rows[:, 2] != NONE] / np.array([rate, rate, 1]),
                step=self.head.step,
                seconds=samples / rate,
            )
            for clip, (rows, samples) in enumerate(zip(events, batch.lengths.tolist(), strict=True))
        ]

    def _counts(self, recordings: Sequence[Recording]) -> Float[Tensor, "recording count"]:
        thresholds = self.head.thresholds.double().cpu().numpy()
        return torch.tensor(np.array([count(one, thresholds) for one in recordings]))

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> StepOutput:
        """Choose thresholds after the last batch: at the epoch's end averaged weights are out of the model again."""
        told = super().validation_step(batch, batch_idx)
        self.validated = [] if batch_idx == 0 else self.validated
        self.validated += self.recordings(told["step"].output, batch)
        if not self.trainer.sanity_checking and batch_idx + 1 == self.trainer.num_val_batches[0]:
            found = errors(_everywhere(self.validated))
            self.head.thresholds.copy_(torch.tensor(np.array([choose(found, rate) for rate in RATES])))
            again = self._counts(self.validated).split([len(step.indices) for step in self.steps["val"]])
            for step, counts in zip(self.steps["val"], again, strict=True):
                step.judged = counts, step.judged[1]
                step.rows = dict(zip(Counts._fields, counts.unbind(dim=1), strict=True))
        return told

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """KL divergence of what is said with decisions from what is said with nothing skipped, mean over scores."""
        said, taught = output.logits.log_softmax(dim=-1), teacher.logits.detach().log_softmax(dim=-1)
        return (taught.exp() * (taught - said)).sum(dim=-1).mean()


def _everywhere(recordings: list[Recording]) -> list[Recording]:
    """Join what all processes have."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return recordings
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, recordings)
    return [one for part in parts for one in part]
