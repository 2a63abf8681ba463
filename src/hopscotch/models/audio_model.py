"""The whole model: waveform -> mel -> stem -> encoder -> head, and what it cost.

mel (batch, time, mel) -> stem (batch, position, dim) -> encoder -> head (batch, classes)
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.frontend import LogMel
from hopscotch.layers.transformer import TransformerBlock
from hopscotch.models.encoder import Encoder
from hopscotch.models.head import Head, Pooling
from hopscotch.models.stem import ConvStem, Positions
from hopscotch.types import ModelOutput, SkipTrace, valid_mask


class AudioModel(nn.Module):
    """A classifier of clips. `decision_bias` is the scalar that evaluation adds to every decision to meet a budget.

    `branch_start`: size of what fresh transformer blocks add to their input (TransformerBlock.scale_branches).
    """

    decision_bias: Tensor

    def __init__(
        self,
        *,
        name: str,
        frontend: LogMel,
        spectrogram_augment: nn.Module | None,
        encoder: Encoder,
        dim: int,
        num_classes: int,
        dropout: float,
        stem_stride: int,
        positions: Positions,
        pooling: Pooling,
        branch_start: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.frontend = frontend
        self.spectrogram_augment = spectrogram_augment
        self.stem = ConvStem(frontend.num_mels, dim, stride=stem_stride, dropout=dropout, positions=positions)
        self.encoder = encoder
        for block in encoder.modules():
            if isinstance(block, TransformerBlock):
                block.scale_branches(branch_start)
        self.head = Head(dim, num_classes, pooling=pooling, dropout=dropout)
        self.register_buffer("decision_bias", torch.tensor(0.0))

    @property
    def decides(self) -> bool:
        return self.encoder.decides

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Int[Tensor, " batch"],
        keys: Int[Tensor, " batch"] | None = None,
        repeat: SkipTrace | None = None,
    ) -> ModelOutput:
        """`keys` seed each clip's spectrogram augmentation, in training.

        `repeat` holds decisions to take instead of the model's own: another trace of so many clips.
        """
        mel, frames = self.frontend(waveform, lengths)
        if self.training and self.spectrogram_augment is not None and keys is not None:
            mel = self.spectrogram_augment(mel, frames, keys)
        x, positions = self.stem(mel, frames)
        x, trace = self.encoder(x, positions, self.decision_bias, repeat)
        logits = self.head(x, valid_mask(positions, x.shape[1]))
        return ModelOutput(logits, self._whole(trace, frames), self.encoder.thresholds(), self.frontend.macs(lengths))

    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the gates' thresholds by the mean loss of the last step. Once after every optimizer step."""
        self.encoder.update_threshold(loss, lr)

    def set_progress(self, progress: float) -> None:
        """Where training stands, 0 to 1."""
        self.encoder.set_progress(progress)

    def floor(self, samples: int) -> float:
        """The smallest fraction that a clip of this many samples can cost: every decision at its cheapest."""
        return self.reachable(samples)[0]

    def reachable(self, samples: int) -> tuple[float, float]:
        """Smallest and largest fraction: strides fixed beforehand keep some models below 1 whatever they decide."""
        time, fixed, dense = self._of_samples(samples)
        cheapest = self.encoder.macs_range(time)[0]
        return (cheapest + fixed) / dense, (self.encoder.most_macs(time) + fixed) / dense

    def most_in_training(self, samples: int) -> float:
        """The largest fraction that training ends with: a gate before the encoder then lets some tokens in, not all."""
        time, fixed, dense = self._of_samples(samples)
        return (self.encoder.most_macs_in_training(time) + fixed) / dense

    def _of_samples(self, samples: int) -> tuple[int, int, int]:
        """Positions of a clip of this many samples, MACs that no decision changes, and those of the dense run."""
        frames = self.frontend.frames(torch.tensor([samples]))
        time, fixed = int(self.stem.positions(frames)), int(self._fixed_macs(frames))
        return time, fixed, self.encoder.macs_range(time)[1] + fixed

    def _fixed_macs(self, frames: Tensor) -> Tensor:
        return self.stem.macs(frames) + self.head.macs(self.stem.positions(frames))

    def _whole(self, trace: SkipTrace, frames: Tensor) -> SkipTrace:
        """The encoder's trace with stem and head in its MACs: fractions are those of the whole model."""
        fixed = self._fixed_macs(frames)
        dense_macs = trace.dense_macs + fixed
        expected = (trace.expected_compute * trace.dense_macs + fixed) / dense_macs
        return replace(trace, macs=trace.macs + fixed, dense_macs=dense_macs, expected_compute=expected)
