"""Several labels per clip, or none: binary cross-entropy, judged by average precision.

A class is said of a clip where its probability reaches the class's threshold, which is chosen for F1 on the validation
clips, among hundredths. Metrics are means over the classes that some of the clips have and some have not.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MultilabelPrecisionRecallCurve
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_f1_score
from torchmetrics.utilities.data import dim_zero_cat

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.models.audio_model import OutputHead, Pooling
from hopscotch.models.heads import TagHead
from hopscotch.training.task import AudioTask, StepOutput
from hopscotch.training.weights import ClassWeights, by_class, check_weights
from hopscotch.types import AudioBatch, ModelOutput, Primary

NUM_THRESHOLDS = 101  # from 0 to 1


class OverClasses(Metric):
    """Average a binary metric over the classes that some clips have and some have not; NaN where there is none."""

    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Float[Tensor, "clip classes"], targets: Int[Tensor, "clip classes"]) -> None:
        self.scores.append(scores)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        both = (targets.amin(dim=0) != targets.amax(dim=0)).nonzero().flatten().tolist()
        found = [self.function(scores[:, one], targets[:, one]) for one in both]
        return torch.stack(found).mean() if found else scores.new_tensor(torch.nan)


class TaggingTask(AudioTask):
    """Give each clip those of `classes` that it has. `class_weights` weigh the clips that have a class."""

    primary = Primary("map", larger_is_better=True)
    labels = "several"
    class_weights: Tensor | None

    def __init__(self, *, class_weights: ClassWeights, **rest: Any) -> None:
        super().__init__(**rest)
        if len(self.classes) < 2:
            raise ValueError(f"task=tag needs at least two classes, got {', '.join(self.classes) or 'none'}.")
        self.given_weights: ClassWeights = check_weights(class_weights, self.classes)
        self.register_buffer("class_weights", None, persistent=False)
        self.curve = MultilabelPrecisionRecallCurve(len(self.classes), thresholds=NUM_THRESHOLDS)

    @classmethod
    def make_head(cls, dim: int, num_outputs: int, *, pooling: Pooling, dropout: float) -> OutputHead:
        return TagHead(dim, num_outputs, pooling=pooling, dropout=dropout)

    @property
    def head(self) -> TagHead:
        assert isinstance(self.model.head, TagHead)
        return self.model.head

    def look_at(self, data: AudioDataModule) -> None:
        labels = [clip.label for clip in data.clips["train"] if isinstance(clip.label, tuple)]
        counts = torch.tensor([sum(one in label for label in labels) for one in range(len(self.classes))])
        self.class_weights = by_class(self.given_weights, self.classes, (len(labels) - counts) / counts.clamp(min=1))

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        weights = self.class_weights if self.training else None
        losses = F.binary_cross_entropy_with_logits(output.logits, batch.labels, pos_weight=weights, reduction="none")
        return losses.mean(dim=1)

    def metrics(self) -> MetricCollection:
        functions = {"map": binary_average_precision, "auc": binary_auroc, "f1": binary_f1_score}
        return MetricCollection({name: OverClasses(function) for name, function in functions.items()})

    def judged(self, output: ModelOutput, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        return self._against_half(output.logits.detach()), batch.labels.long()

    def _against_half(self, logits: Tensor) -> Tensor:
        """Shift probabilities so that every threshold is 0.5, where F1 cuts; the order of the clips stays."""
        return (logits.float() - self.head.thresholds.logit(eps=1e-4)).sigmoid()

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> StepOutput:
        """Choose thresholds after the last batch: at the epoch's end averaged weights are out of the model again."""
        told = super().validation_step(batch, batch_idx)
        if not self.trainer.sanity_checking and batch_idx + 1 == self.trainer.num_val_batches[0]:
            steps = self.steps["val"]
            for step in steps:
                self.curve.update(step.output.logits.float().sigmoid(), step.judged[1])
            self.head.thresholds.copy_(best_thresholds(*map(torch.as_tensor, self.curve.compute())))
            self.curve.reset()
            for step in steps:
                step.judged = self._against_half(step.output.logits), step.judged[1]
        return told

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        said, true = output.logits.detach().float().sigmoid() >= self.head.thresholds, batch.labels > 0
        return {"tags": true.sum(dim=1), "tags_said": said.sum(dim=1), "tags_right": (said & true).sum(dim=1)}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """Cross-entropy of what is said with decisions against what is said with nothing skipped."""
        return F.binary_cross_entropy_with_logits(output.logits, teacher.logits.detach().sigmoid())


def best_thresholds(
    precision: Float[Tensor, "classes points"], recall: Float[Tensor, "classes points"], thresholds: Float[Tensor, " t"]
) -> Float[Tensor, " classes"]:
    """Return for each class the threshold with the largest F1, the middle one of those; 0.5 where no F1 is above 0."""
    f1 = (2 * precision * recall / (precision + recall)).nan_to_num()[:, : len(thresholds)]  # the last has none
    best = f1.amax(dim=1)
    middle = [thresholds[row >= most - 1e-6].median() for row, most in zip(f1, best, strict=True)]
    return torch.where(best > 0, torch.stack(middle), 0.5)
