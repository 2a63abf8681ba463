"""Make the log-mel frames that Whisper was trained on (Radford et al. 2022, section 2.2).

    x = (max(log10 mel, most - 8) + 4) / 4        most: the largest log10 mel of the clip

Mel power is that of 400 samples under a Hann window every 160 samples at 16 kHz, in triangular bands of equal area on
Slaney's scale. Frame t is centred on sample t * hop. Ahead of a clip lies its mirror image, as in Whisper; behind it
lie zeros, as they do where Whisper fills a clip up to 30 s, so that a clip of its own length has the same frames.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Float, Int
from torch import Tensor

from hopscotch.frontend import LogMel
from hopscotch.types import AudioBatch, Mask, valid_mask

SAMPLE_RATE = 16_000  # Hz
QUIETEST = 1e-10  # mel power, below which nothing is told apart
RANGE = 8.0  # powers of ten below the largest that are heard: 80 dB


class WhisperMel(LogMel):
    """Compute Whisper's log-mel frames; nothing is measured on a training set."""

    def __init__(
        self, *, sample_rate: int, num_mels: int = 80, window_seconds: float = 0.025, hop_seconds: float = 0.010
    ) -> None:
        """Check the sample rate; conf/frontend explains each value."""
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"data.sample_rate must be {SAMPLE_RATE} with frontend=whisper, got {sample_rate}.")
        super().__init__(
            sample_rate=sample_rate,
            num_mels=num_mels,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            min_hz=0.0,
            top_db=10 * RANGE,
        )

    def transform(self, min_hz: float) -> torchaudio.transforms.MelSpectrogram:
        return torchaudio.transforms.MelSpectrogram(
            self.sample_rate,
            n_fft=self.window,
            hop_length=self.hop,
            n_mels=self.num_mels,
            f_min=min_hz,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        )

    def frames(self, samples: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        return (samples // self.hop).clamp(min=1)

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time mel"], Int[Tensor, " batch"]]:
        half, frame_lengths = self.fft // 2, self.frames(lengths)
        mirrored = waveform[:, 1 : half + 1].flip(1)
        power = self.power(torch.cat([F.pad(mirrored, (half - mirrored.shape[1], 0)), F.pad(waveform, (0, half))], 1))
        power = power[:, : max(1, waveform.shape[1] // self.hop)]
        return self.masked(power, valid_mask(frame_lengths, power.shape[1])), frame_lengths

    def levels(self, power: Float[Tensor, "batch time mel"], mask: Mask) -> Float[Tensor, " batch"]:
        """Return the largest power of each clip in any band."""
        return (power.amax(dim=2) * mask).amax(dim=1).clamp(min=QUIETEST)

    def scaled(
        self, power: Float[Tensor, "batch time mel"], levels: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch time mel"]:
        least = levels.log10()[:, None, None] - RANGE
        return (torch.maximum(power.clamp(min=QUIETEST).log10(), least) + 4) / 4

    def measure(self, batches: Iterable[AudioBatch]) -> None:
        """Leave the scale as Whisper has it."""
