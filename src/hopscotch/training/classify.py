"""One label per clip: cross-entropy with label smoothing, judged by accuracy, with macro F1 beside it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.training.task import AudioTask
from hopscotch.training.weights import ClassWeights, by_class, check_weights
from hopscotch.types import AudioBatch, ModelOutput, Primary


class ClassificationTask(AudioTask):
    """Give each clip one of `classes`.

    `label_smoothing` is the probability given to the other classes in training. `class_weights` weigh the losses of
    training clips, `balanced` by N / (classes * clips of the class), whose mean over the N training clips is 1.
    """

    primary = Primary("acc", larger_is_better=True)
    class_weights: Tensor | None

    def __init__(self, *, label_smoothing: float, class_weights: ClassWeights = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.given_weights: ClassWeights = check_weights(class_weights, self.classes)
        self.register_buffer("class_weights", None, persistent=False)
        self.label_smoothing = label_smoothing

    def look_at(self, data: AudioDataModule) -> None:
        labels = torch.tensor([clip.label for clip in data.clips["train"]], dtype=torch.int64)
        counts = labels.bincount(minlength=len(self.classes)).clamp(min=1)
        self.class_weights = by_class(self.given_weights, self.classes, len(labels) / (len(counts) * counts))

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        losses = F.cross_entropy(output.logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")
        return losses * self.class_weights[batch.labels] if self.training and self.class_weights is not None else losses

    def metrics(self) -> MetricCollection:
        num_classes = len(self.classes)
        f1 = MulticlassF1Score(num_classes, average="macro")  # over the classes that were shown or named
        return MetricCollection({"acc": MulticlassAccuracy(num_classes, average="micro"), "f1": f1})

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        confidence, prediction = output.logits.detach().float().softmax(dim=-1).max(dim=-1)
        return {"label": batch.labels, "prediction": prediction, "confidence": confidence}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """KL divergence of what is said with decisions from what is said with nothing skipped."""
        said, taught = output.logits.log_softmax(dim=-1), teacher.logits.detach().log_softmax(dim=-1)
        return F.kl_div(said, taught, reduction="batchmean", log_target=True)
