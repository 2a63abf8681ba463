"""Call clips and classes by their names in what a person reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from lightning.pytorch import Trainer
from torch import Tensor

from hopscotch.data.datamodule import AudioDataModule


@dataclass(frozen=True)
class SplitClips:
    """The clips of one split by position, for reports."""

    datamodule: AudioDataModule
    split: Literal["val", "test"]

    @property
    def sample_rate(self) -> int:
        return self.datamodule.sample_rate

    @property
    def classes(self) -> Sequence[str]:
        return self.datamodule.classes

    def name(self, index: int) -> str:
        return self.datamodule.clips[self.split][index].name

    def names(self, indices: Sequence[int]) -> list[str]:
        return [self.name(index) for index in indices]

    def word(self, label: int) -> str:
        return self.datamodule.classes[label]

    def waveform(self, index: int) -> Float[Tensor, " sample"]:
        """Unaugmented samples."""
        return self.datamodule.waveform(self.split, index)


def clips_of(trainer: Trainer, split: Literal["val", "test"]) -> SplitClips:
    """The clips that a trainer evaluates."""
    datamodule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in fit
    assert isinstance(datamodule, AudioDataModule), "reports need an AudioDataModule, not bare loaders"
    return SplitClips(datamodule, split)
