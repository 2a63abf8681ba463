"""One label per clip: cross-entropy with label smoothing, judged by accuracy."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from hopscotch.training.task import OF_AN_EPOCH, AudioTask
from hopscotch.types import AudioBatch, ModelOutput, Primary


class ClassificationTask(AudioTask):
    """Give each clip one of `classes`. `label_smoothing` is the probability given to the other classes in training."""

    primary = Primary("acc", larger_is_better=True)
    also_logged = ("val/macro_f1",)

    def __init__(self, *, label_smoothing: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.label_smoothing = label_smoothing
        self.macro_f1 = MulticlassF1Score(num_classes=len(self.classes), average="macro")  # over classes that came up

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        return F.cross_entropy(output.logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")

    def metrics(self) -> MetricCollection:
        return MetricCollection({"acc": MulticlassAccuracy(num_classes=len(self.classes), average="micro")})

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for step in self.steps["val"]:
            self.macro_f1.update(*step.judged)
        self.log("val/macro_f1", self.macro_f1, **OF_AN_EPOCH)

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        confidence, prediction = output.logits.detach().float().softmax(dim=-1).max(dim=-1)
        return {"label": batch.labels, "prediction": prediction, "confidence": confidence}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """KL divergence of what is said with decisions from what is said with nothing skipped."""
        said, taught = output.logits.log_softmax(dim=-1), teacher.logits.detach().log_softmax(dim=-1)
        return F.kl_div(said, taught, reduction="batchmean", log_target=True)
