"""One label per clip: cross-entropy with label smoothing, judged by accuracy."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, ModelOutput, Primary


class ClassificationTask(AudioTask):
    """Give each clip one of `classes`. `label_smoothing` is the probability given to the other classes in training."""

    primary = Primary("acc", larger_is_better=True)

    def __init__(self, *, label_smoothing: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.label_smoothing = label_smoothing

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        return F.cross_entropy(output.logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")

    def metrics(self) -> MetricCollection:
        return MetricCollection({"acc": MulticlassAccuracy(num_classes=len(self.classes), average="micro")})

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        confidence, prediction = output.logits.detach().float().softmax(dim=-1).max(dim=-1)
        return {"label": batch.labels, "prediction": prediction, "confidence": confidence}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """KL divergence of what is said with decisions from what is said with nothing skipped."""
        said, taught = output.logits.log_softmax(dim=-1), teacher.logits.detach().log_softmax(dim=-1)
        return F.kl_div(said, taught, reduction="batchmean", log_target=True)
