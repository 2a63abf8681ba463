"""Turn waveforms into mel frames that depend neither on the level nor on the padding of a clip.

    x = log(mel / level + 10^(-top_db / 10)),  level: mean power over the bins of the clip's loudest frame
    (x - offset) / scale, per bin, from the training set

Recordings differ in how far their silence is below their speech (20 to 55 dB between the speakers of FSDD), and in how
much silence they have. Neither tells what was said, so everything more than `top_db` below the loudest frame is
flattened, and the level is that of this frame, not of a mean over silence.

Frame t is centred on sample t * hop, and samples outside the clip are zeros, so that a clip alone and the same clip in
a padded batch have the same 1 + samples // hop frames.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.types import AudioBatch, Mask, valid_mask

QUIETEST = 1e-6  # level up to which a clip is lifted: mel power about that of the noise of 16-bit recordings


class LogMel(nn.Module):
    """Compute log-mel frames: the Fourier transform of a Hann window every `hop_seconds`, in triangular bands."""

    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        num_mels: int = 40,
        window_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        min_hz: float = 20.0,
        top_db: float = 30.0,
    ) -> None:
        """Check the values that must fit together; conf/frontend explains each of them."""
        super().__init__()
        self.floor = 10 ** (-top_db / 10)
        self.num_mels, self.sample_rate = num_mels, sample_rate
        self.window = round(window_seconds * sample_rate)
        self.hop = round(hop_seconds * sample_rate)
        if not min_hz < sample_rate / 2:
            raise ValueError(
                f"frontend.min_hz must be below half of the sample rate, {sample_rate / 2:g}, got {min_hz}."
            )
        if self.hop < 1 or self.window < self.hop:
            raise ValueError(
                "frontend needs window_seconds >= hop_seconds >= 1 sample, "
                f"got {window_seconds} s and {hop_seconds} s at {sample_rate} Hz."
            )
        self.fft = 2 ** math.ceil(math.log2(self.window))
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate,
            n_fft=self.fft,
            win_length=self.window,
            hop_length=self.hop,
            n_mels=num_mels,
            f_min=min_hz,
            center=False,
        )
        # Complex: torchaudio's own power takes the root of a sum of squares and squares it, a third of the time.
        self.mel.spectrogram.power = None
        bands = self.mel.mel_scale.get_buffer("fb")
        if (bands.sum(dim=0) == 0).any():
            raise ValueError(
                f"frontend.num_mels must leave no band empty: {num_mels} bands are too many for {self.fft}-point "
                f"frames at {sample_rate} Hz. Use fewer bands or a longer window."
            )
        self.register_buffer("offset", torch.zeros(num_mels))  # mean per bin over the training set
        self.register_buffer("scale", torch.ones(num_mels))  # standard deviation per bin over the training set

    @property
    def hertz(self) -> Float[Tensor, " mel"]:
        """Return the frequency in the middle of each band."""
        bands = self.mel.mel_scale.get_buffer("fb")  # bin mel
        return torch.linspace(0.0, self.mel.sample_rate / 2, len(bands)) @ bands.cpu() / bands.cpu().sum(dim=0)

    def frames(self, samples: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the frames of clips of these lengths."""
        return samples // self.hop + 1

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time mel"], Int[Tensor, " batch"]]:
        """Return mel frames, 0 in the padding, and the number of valid frames of every clip."""
        frame_lengths = self.frames(lengths)
        padded = F.pad(waveform, (self.fft // 2, self.fft // 2))
        spectrum = self.mel.spectrogram(padded)  # batch frequency time, complex
        mask = valid_mask(frame_lengths, spectrum.shape[2])
        return self.levelled(spectrum.real.square() + spectrum.imag.square(), mask), frame_lengths

    def levelled(self, power: Float[Tensor, "batch frequency time"], mask: Mask) -> Float[Tensor, "batch time mel"]:
        """Turn power spectra into mel frames, 0 in the padding."""
        power = self.mel.mel_scale(power).transpose(1, 2)  # batch time mel
        level = (power.mean(dim=2) * mask).amax(dim=1).clamp(min=QUIETEST)
        mel = ((power / level[:, None, None] + self.floor).log() - self.offset) / self.scale
        return mel * mask[:, :, None]

    @torch.no_grad()
    def measure(self, batches: Iterable[AudioBatch]) -> None:
        """Set offset and scale from training clips."""
        self.offset.fill_(0.0)
        self.scale.fill_(1.0)
        frames = []
        for batch in batches:
            mel, lengths = self(batch.waveform, batch.lengths)
            frames.append(mel[valid_mask(lengths, mel.shape[1])])  # frame mel
        deviation, mean = torch.std_mean(torch.cat(frames).double(), dim=0, correction=0)
        self.offset.copy_(mean)
        self.scale.copy_(deviation.clamp(min=1e-3))

    def macs(self, samples: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the Fourier transform (5/2 n log2 n products) and the mel filters, apart from the model's compute."""
        bins = self.fft // 2 + 1
        per_frame = int(2.5 * self.fft * math.log2(self.fft)) + bins * self.num_mels
        return self.frames(samples) * per_frame
