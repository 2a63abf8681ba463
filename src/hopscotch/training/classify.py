"""One label per clip: cross-entropy with label smoothing, judged by accuracy."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from hopscotch.training.task import OF_AN_EPOCH, STAGES, AudioTask
from hopscotch.types import AudioBatch


class ClassificationTask(AudioTask):
    """`classes` are the names of the labels, in order; the rest is AudioTask's."""

    def __init__(self, *, classes: Sequence[str], label_smoothing: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.classes = list(classes)
        self.label_smoothing = label_smoothing
        self.accuracy = nn.ModuleDict(
            {f"{stage}_acc": MulticlassAccuracy(num_classes=len(self.classes), average="micro") for stage in STAGES}
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What prediction needs to know where the data is not at hand; plain types, so that weights_only loads them."""
        data = self.trainer.datamodule
        longest = max(clip.num_samples for clips in data.clips.values() for clip in clips)
        checkpoint["classes"] = list(self.classes)
        checkpoint["clip_seconds"] = {
            "mean": data.mean_samples() / data.sample_rate,  # of the training clips
            "longest": longest / data.sample_rate,  # of all
        }

    def clip_losses(self, logits: Tensor, batch: AudioBatch) -> Float[Tensor, " batch"]:
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing, reduction="none")

    def measure(self, stage: str, logits: Tensor, labels: Tensor) -> None:
        accuracy = self.accuracy[f"{stage}_acc"]
        assert isinstance(accuracy, MulticlassAccuracy)
        accuracy.update(logits, labels)
        self.log(f"{stage}/acc", accuracy, prog_bar=True, **OF_AN_EPOCH)
