"""One number per clip: squared error of the standardised number, judged by the absolute error in its own units."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, PearsonCorrCoef

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.models.audio_model import OutputHead, Pooling
from hopscotch.models.heads import NumberHead
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, ModelOutput, Primary


class RegressionTask(AudioTask):
    """Predict a number, which the head standardises by mean and deviation of the training clips."""

    primary = Primary("mae", larger_is_better=False)
    labels = "number"

    @classmethod
    def make_head(cls, dim: int, num_outputs: int, *, pooling: Pooling, dropout: float) -> OutputHead:
        return NumberHead(dim, num_outputs, pooling=pooling, dropout=dropout)

    @property
    def head(self) -> NumberHead:
        assert isinstance(self.model.head, NumberHead)
        return self.model.head

    def look_at(self, data: AudioDataModule) -> None:
        numbers = torch.tensor([clip.label for clip in data.clips["train"]], dtype=torch.float64)
        if len(numbers) == 0:  # of an evaluation, whose checkpoint has both
            return
        deviation = numbers.std(correction=0)
        self.head.mean.copy_(numbers.mean())
        self.head.deviation.copy_(deviation if deviation > 0 else torch.ones(()))

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        return ((output.logits[:, 0] - batch.labels) / self.head.deviation).square()

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "pearson": PearsonCorrCoef()}
        )

    def judged(self, output: ModelOutput, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        return output.logits[:, 0], batch.labels

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        return {"said": output.logits[:, 0].detach(), "true": batch.labels}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """Compare standardised numbers, so that units do not matter."""
        return ((output.logits - teacher.logits.detach()) / self.head.deviation).square().mean()
