"""Read a clip's hidden states as a number, or as several labels at once.

What a head learns of its targets besides weights is a buffer, so that it goes wherever the model goes:
into checkpoints, exported folders and models that start from this one.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.models.audio_model import Head, Said
from hopscotch.types import Hidden, Mask

SEPARATOR = ";"  # between the labels of a clip


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


HEADS: dict[str, type[Head]] = {  # of our tasks, known without an import of theirs
    "hopscotch.training.classify.ClassificationTask": Head,
    "hopscotch.training.regress.RegressionTask": NumberHead,
    "hopscotch.training.tag.TaggingTask": TagHead,
}
