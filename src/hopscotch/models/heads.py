"""Read a clip's hidden states as a number, as several labels at once, or as events in time.

What a head learns of its targets besides weights is a buffer, so that it goes wherever the model goes:
into checkpoints, exported folders and models that start from this one.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.compute import linear_macs
from hopscotch.detection import RATES
from hopscotch.models.audio_model import Head, OutputHead, Pooling, Said
from hopscotch.types import Hidden, Lengths, Mask

SEPARATOR = ";"  # between the labels of a clip
SCORE_SECONDS = 0.08  # that a score of an event stands for, about
SURE = 30.0  # logit of background where nothing is to be heard


class NumberHead(Head):
    """Say a number in the units of its targets: mean + deviation * (a standardised output)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, num_outputs: int, **options: Any) -> None:
        super().__init__(dim, num_outputs, **options)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def forward(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch outputs"]:
        return self.mean + self.deviation * super().forward(x, mask).float()

    def scores(self, logits: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch outputs"]:
        return logits

    def said(self, scores: list[float], classes: list[str]) -> Said:
        return Said(f"{scores[0]:.6g}", None, {})


class TagHead(Head):
    """Give each class a probability of its own; a clip has those that reach the threshold of their class."""

    thresholds: Tensor

    def __init__(self, dim: int, num_outputs: int, **options: Any) -> None:
        super().__init__(dim, num_outputs, **options)
        self.register_buffer("thresholds", torch.full((num_outputs,), 0.5))

    def scores(self, logits: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch outputs"]:
        return logits.sigmoid()

    def said(self, scores: list[float], classes: list[str]) -> Said:
        triples = zip(classes, scores, self.thresholds.tolist(), strict=True)
        names = [name for name, score, threshold in triples if score >= threshold]
        return Said(SEPARATOR.join(names), max(scores), dict(zip(classes, scores, strict=True)))


class DetectionHead(OutputHead):
    """Score the classes and, last, background all through a clip: the mean of so many positions as last about 80 ms."""

    thresholds: Tensor

    def __init__(self, dim: int, num_outputs: int, *, pooling: Pooling, dropout: float) -> None:
        """Take a number of classes. `pooling` has no effect: nothing is pooled over a clip."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(dim, num_outputs + 1)
        self.pool = 1  # positions of a score
        self.hop, self.sample_rate = 0, 1  # samples from score to score, and in a second
        self.register_buffer("thresholds", torch.full((len(RATES), num_outputs), 0.5))

    @property
    def step(self) -> float:
        """Return the seconds from score to score."""
        return self.hop / self.sample_rate

    def read_every(self, hop: int, sample_rate: int) -> None:
        self.pool = max(1, round(SCORE_SECONDS * sample_rate / hop))
        self.hop, self.sample_rate = self.pool * hop, sample_rate

    def num_scores(self, positions: Lengths) -> Lengths:
        """Count the scores of clips of so many positions."""
        return (positions + self.pool - 1) // self.pool

    def forward(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch score outputs"]:
        rest = -x.shape[1] % self.pool
        weights = nn.functional.pad(mask, (0, rest)).unflatten(1, (-1, self.pool)).to(x.dtype)  # batch score position
        sums = nn.functional.pad(self.norm(x), (0, 0, 0, rest)).unflatten(1, (-1, self.pool))
        counts = weights.sum(dim=2)
        means = (sums * weights[..., None]).sum(dim=2) / counts.clamp(min=1)[..., None]
        logits = self.output(self.dropout(means))
        padding = torch.zeros_like(logits[0, 0])
        padding[-1] = SURE
        return torch.where(counts[..., None] > 0, logits, padding)

    def macs(self, time: Lengths) -> Lengths:
        return linear_macs(self.num_scores(time), self.output.in_features, self.output.out_features)

    def scores(self, logits: Float[Tensor, "*batch score outputs"]) -> Float[Tensor, "*batch classes"]:
        """Return the largest probability that each class has anywhere in a clip."""
        return logits.softmax(dim=-1)[..., :-1].amax(dim=-2)

    def said(self, scores: list[float], classes: list[str]) -> Said:
        """Name the classes that are heard at 2 false alarms an hour."""
        triples = zip(classes, scores, self.thresholds[-1].tolist(), strict=True)
        names = [name for name, score, threshold in triples if score > threshold]
        return Said(SEPARATOR.join(names), max(scores), dict(zip(classes, scores, strict=True)))


HEADS: dict[str, Callable[..., OutputHead]] = {  # of our tasks, known without an import of theirs
    "hopscotch.training.classify.ClassificationTask": Head,
    "hopscotch.training.detect.DetectionTask": DetectionHead,
    "hopscotch.training.regress.RegressionTask": NumberHead,
    "hopscotch.training.tag.TaggingTask": TagHead,
}
