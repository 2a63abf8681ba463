"""Turn waveforms into mel frames that depend neither on the level nor on the padding of a clip.

    x = log(mel / level + 10^(-top_db / 10))
    (x - offset) / scale, per bin, from the training set

    level=clip    mean power over the bins of the clip's loudest frame
    level=none    1: a frame of a stream depends on its own samples alone

Recordings differ in how far their silence is below their speech (20 to 55 dB between the speakers of FSDD), and in how
much silence they have. Neither tells what was said, so everything more than `top_db` below the loudest frame is
flattened, and the level is that of this frame, not of a mean over silence. A stream has no loudest frame yet.

Frame t is centred on sample t * hop, and samples outside the clip are zeros, so that a clip alone and the same clip in
a padded batch have the same 1 + samples // hop frames. A CPU transforms a block of frames at a time, which stays in its
cache between the steps.
"""

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
import torchaudio
from jaxtyping import Float, Int
from torch import Tensor, nn

from hopscotch.types import AudioBatch, Mask, valid_mask

Level = Literal["clip", "none"]
BLOCK = 256  # frames that a CPU transforms at a time: half a megabyte of spectrum
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
        level: Level = "clip",
    ) -> None:
        """Check the values that must fit together; conf/frontend explains each of them."""
        super().__init__()
        self.floor = 10 ** (-top_db / 10)
        self.level = level
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
        self.mel = self.transform(min_hz)
        self.fft = self.mel.n_fft
        self.register_buffer("offset", torch.zeros(num_mels))  # mean per bin over the training set
        self.register_buffer("scale", torch.ones(num_mels))  # standard deviation per bin over the training set

    def transform(self, min_hz: float) -> torchaudio.transforms.MelSpectrogram:
        """Make the transform whose window and bands are used."""
        fft = 2 ** math.ceil(math.log2(self.window))
        mel = torchaudio.transforms.MelSpectrogram(
            self.sample_rate,
            n_fft=fft,
            win_length=self.window,
            hop_length=self.hop,
            n_mels=self.num_mels,
            f_min=min_hz,
            center=False,
        )
        if (mel.mel_scale.get_buffer("fb").sum(dim=0) == 0).any():
            raise ValueError(
                f"frontend.num_mels must leave no band empty: {self.num_mels} bands are too many for {fft}-point "
                f"frames at {self.sample_rate} Hz. Use fewer bands or a longer window."
            )
        return mel

    @property
    def hertz(self) -> Float[Tensor, " mel"]:
        """Return the frequency in the middle of each band."""
        bands = self.mel.mel_scale.get_buffer("fb")  # bin mel
        return torch.linspace(0.0, self.mel.sample_rate / 2, len(bands)) @ bands.cpu() / bands.cpu().sum(dim=0)

    def is_same(self, other: "LogMel") -> bool:
        """Tell whether another front end makes the same frames of a clip."""
        settings = [(type(one), one.hop, one.window, one.floor, one.level) for one in (self, other)]
        values = zip(self.buffers(), other.buffers(), strict=True)
        return settings[0] == settings[1] and all(torch.equal(mine, theirs) for mine, theirs in values)

    def frames(self, samples: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Count the frames of clips of these lengths."""
        return samples // self.hop + 1

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time mel"], Int[Tensor, " batch"]]:
        """Return mel frames, 0 in the padding, and the number of valid frames of every clip."""
        frame_lengths = self.frames(lengths)
        power = self.power(F.pad(waveform, (self.fft // 2, self.fft // 2)))
        return self.masked(power, valid_mask(frame_lengths, power.shape[1])), frame_lengths

    def levelled(self, power: Float[Tensor, "batch frequency time"], mask: Mask) -> Float[Tensor, "batch time mel"]:
        """Turn power spectra into mel frames, 0 in the padding."""
        return self.masked(self.mel.mel_scale(power).transpose(1, 2), mask)

    def masked(self, power: Float[Tensor, "batch time mel"], mask: Mask) -> Float[Tensor, "batch time mel"]:
        """Scale the power of bands; 0 in the padding."""
        return self.scaled(power, self.levels(power, mask)) * mask[:, :, None]

    def power(self, samples: Float[Tensor, "batch sample"], *, every: int = 1) -> Float[Tensor, "batch time mel"]:
        """Return the power in each band of frames that begin at sample 0 and at every `every`-th hop from there."""
        bands = self.mel.mel_scale.get_buffer("fb")  # bin mel
        window = self.mel.spectrogram.get_buffer("window")
        left = (self.fft - self.window) // 2
        window = F.pad(window, (left, self.fft - self.window - left))
        frames = samples.unfold(1, self.fft, every * self.hop)  # batch time fft
        if samples.device.type != "cpu" or torch.jit.is_tracing():  # a trace would keep the number of blocks
            return _bin_power(frames * window) @ bands
        block = max(1, BLOCK // len(samples))
        return torch.cat([_bin_power(part * window) @ bands for part in frames.split(block, dim=1)], dim=1)

    def levels(self, power: Float[Tensor, "batch time mel"], mask: Mask) -> Float[Tensor, " batch"]:
        """Return what the power of each clip is measured by."""
        if self.level == "none":
            return power.new_ones(len(power))
        return (power.mean(dim=2) * mask).amax(dim=1).clamp(min=QUIETEST)

    def scaled(
        self, power: Float[Tensor, "batch time mel"], levels: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch time mel"]:
        """Turn power into what the model hears."""
        return ((power / levels[:, None, None] + self.floor).log() - self.offset) / self.scale

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
        """Count what the frames of clips of these lengths take, apart from the model's compute."""
        return self.frames(samples) * self.frame_macs

    @property
    def frame_macs(self) -> int:
        """Count the Fourier transform (5/2 n log2 n products) and the mel filters of a frame."""
        return int(2.5 * self.fft * math.log2(self.fft)) + (self.fft // 2 + 1) * self.num_mels


def _bin_power(frames: Float[Tensor, "batch time fft"]) -> Float[Tensor, "batch time bin"]:
    spectrum = torch.fft.rfft(frames)
    return spectrum.real.square() + spectrum.imag.square()
