"""The whole model: waveform -> mel -> stem -> encoder -> head, and what it cost.

mel (batch, time, mel) -> two masked convolutions, 2 or 4 frames per position -> + positions -> encoder
-> masked mean and standard deviation -> linear
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.compute import convolution_macs, linear_macs
from hopscotch.frontend import LogMel
from hopscotch.layers.pooling import masked_mean_and_std
from hopscotch.models.encoder import Encoder
from hopscotch.types import ModelOutput, SkipTrace, valid_mask

KERNEL = 5  # frames
STEM_STRIDES = {2: (1, 2), 4: (2, 2)}  # of the two convolutions
LONGEST_WAVELENGTH = 10_000.0  # of the sinusoidal positions, in positions (Vaswani et al. 2017)


class AudioModel(nn.Module):
    """A classifier of clips. `decision_bias` is the scalar that evaluation adds to every decision to meet a budget."""

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
    ) -> None:
        super().__init__()
        self.name = name
        self.frontend = frontend
        self.spectrogram_augment = spectrogram_augment
        self.stem = ConvStem(frontend.num_mels, dim, stride=stem_stride, dropout=dropout)
        self.encoder = encoder
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * dim, num_classes)
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

        In evaluation `repeat` holds decisions to take instead of the model's own: another trace of so many clips.
        """
        mel, frames = self.frontend(waveform, lengths)
        if self.training and self.spectrogram_augment is not None and keys is not None:
            mel = self.spectrogram_augment(mel, frames, keys)
        x, positions = self.stem(mel, frames)
        x, trace = self.encoder(x, positions, self.decision_bias, repeat)
        pooled = masked_mean_and_std(self.norm(x), valid_mask(positions, x.shape[1]))
        logits = self.head(self.dropout(pooled))
        return ModelOutput(logits, self._whole(trace, frames), self.encoder.thresholds(), self.frontend.macs(lengths))

    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the gates' thresholds by the mean loss of the last step. Once after every optimizer step."""
        self.encoder.update_threshold(loss, lr)

    def set_progress(self, progress: float) -> None:
        """Where training stands, 0 to 1."""
        self.encoder.set_progress(progress)

    def floor(self, samples: int) -> float:
        """The smallest fraction that a clip of this many samples can cost: every decision at its cheapest."""
        frames = self.frontend.frames(torch.tensor([samples]))
        cheapest, dense = self.encoder.macs_range(int(self.stem.positions(frames)))
        fixed = int(self._fixed_macs(frames))
        return (cheapest + fixed) / (dense + fixed)

    def _fixed_macs(self, frames: Tensor) -> Tensor:
        return self.stem.macs(frames) + linear_macs(1, self.head.in_features, self.head.out_features)

    def _whole(self, trace: SkipTrace, frames: Tensor) -> SkipTrace:
        """The encoder's trace with stem and head in its MACs: fractions are those of the whole model."""
        fixed = self._fixed_macs(frames)
        dense_macs = trace.dense_macs + fixed
        expected = (trace.expected_compute * trace.dense_macs + fixed) / dense_macs
        return replace(trace, macs=trace.macs + fixed, dense_macs=dense_macs, expected_compute=expected)


class ConvStem(nn.Module):
    """Two convolutions over time that never see padding, each with norm and GELU; then sinusoidal positions."""

    def __init__(self, num_mels: int, dim: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        if stride not in STEM_STRIDES:
            raise ValueError(f"model.stem_stride must be 2 or 4 frames per position, got {stride}.")
        self.strides = STEM_STRIDES[stride]
        widths = (num_mels, dim, dim)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(widths[i], widths[i + 1], KERNEL, stride=self.strides[i], padding=KERNEL // 2) for i in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, mel: Float[Tensor, "batch time mel"], frames: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch position dim"], Int[Tensor, " batch"]]:
        x = mel
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            frames = (frames + stride - 1) // stride
            x = nn.functional.gelu(norm(convolution(x.transpose(1, 2)).transpose(1, 2)))
            x = x * valid_mask(frames, x.shape[1])[:, :, None]
        return self.dropout(x + sinusoids(x.shape[1], x.shape[2], x.device)), frames

    def positions(self, frames: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        for stride in self.strides:
            frames = (frames + stride - 1) // stride
        return frames

    def macs(self, frames: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        total = torch.zeros_like(frames)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv1d)
            frames = (frames + stride - 1) // stride
            total = total + convolution_macs(frames, convolution.in_channels, convolution.out_channels, KERNEL)
        return total


def sinusoids(time: int, dim: int, device: torch.device) -> Float[Tensor, "time dim"]:
    """Sine and cosine of the position at geometrically spaced wavelengths."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(LONGEST_WAVELENGTH) / dim))
    angles = torch.arange(time, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :dim]
