"""Change a clip's speed, silence, level and noise in training, every number drawn from the clip's own key.

So a clip's augmentation depends neither on its neighbours in the batch nor on the loader worker that makes it.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchaudio.transforms import Resample

from hopscotch.data.keyed import keyed_bits, keyed_uniform
from hopscotch.types import valid_mask

DRAWS, NOISE = range(2)  # streams of random numbers
NUM_OCTAVES = 8  # of pink noise: 1/f from half the rate down to rate / 512
MAX_SPEED_TERM = 40  # speeds are rounded to fractions of whole numbers up to this, such as 19/20


class WaveformAugment:
    """Speed, silence, gain and noise, in this order.

    `speeds`: factors, drawn evenly; 1.1 makes a clip shorter and higher, which moves its formants too.
    `silence_probability`, `silence_seconds`: the share of clips that get silence, up to this much at either end.
    `gain_db`: largest change of level either way.
    `noise_probability`, `noise_snr_db`: the share of clips that get noise of a colour drawn between white and pink,
    and the range of the signal-to-noise ratio, measured against the clip's own RMS.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        speeds: Sequence[float],
        silence_probability: float,
        silence_seconds: float,
        gain_db: float,
        noise_probability: float,
        noise_snr_db: Sequence[float],
    ) -> None:
        _check("speeds", speeds, len(speeds) > 0 and all(0.5 <= s <= 2.0 for s in speeds), "be a list within [0.5, 2]")
        _check("silence_probability", silence_probability, 0 <= silence_probability <= 1, "lie in [0, 1]")
        _check("silence_seconds", silence_seconds, silence_seconds >= 0, "be at least 0")
        _check("gain_db", gain_db, gain_db >= 0, "be at least 0")
        _check("noise_probability", noise_probability, 0 <= noise_probability <= 1, "lie in [0, 1]")
        is_range = len(noise_snr_db) == 2 and noise_snr_db[0] <= noise_snr_db[1]
        _check("noise_snr_db", noise_snr_db, is_range, "be [lowest, highest]")
        self.speeds = [Fraction(speed).limit_denominator(MAX_SPEED_TERM) for speed in speeds]
        self.silence_probability = silence_probability
        self.max_silence = round(silence_seconds * sample_rate)  # samples
        self.gain_db = gain_db
        self.noise_probability = noise_probability
        self.noise_snr_db = (float(noise_snr_db[0]), float(noise_snr_db[1]))

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch longest"], Int[Tensor, " batch"]]:
        """The augmented clips, zero-padded, and their new lengths."""
        speed, padded, before, after, gain, noisy, snr, colour = keyed_uniform(keys, DRAWS, 8).unbind(1)  # each batch
        waveform, lengths = self._change_speed(waveform, lengths, (speed * len(self.speeds)).long())
        silence = torch.stack([before, after]) * self.max_silence * (padded < self.silence_probability)
        waveform, lengths = _add_silence(waveform, lengths, *silence.round().long())
        waveform *= 10 ** (self.gain_db * (2 * gain - 1)[:, None] / 20)
        rows = (noisy < self.noise_probability).nonzero()[:, 0]
        low, high = self.noise_snr_db
        noise = coloured_noise(keys[rows], waveform.shape[1], colour=colour[rows])
        return _add_noise(waveform, lengths, rows, noise, low + (high - low) * snr[rows]), lengths

    def _change_speed(self, waveform: Tensor, lengths: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        terms = torch.tensor([speed.as_integer_ratio() for speed in self.speeds])
        source, target = terms[choice].unbind(1)
        new_lengths = (lengths * target + source - 1) // source
        result = waveform.new_zeros(len(waveform), int(new_lengths.max()))
        for i in choice.unique().tolist():  # one resampling for all clips of equal speed
            rows = (choice == i).nonzero()[:, 0]
            group = waveform[:, : int(lengths[rows].max())].index_select(0, rows)
            changed = group if self.speeds[i] == 1 else speed_changer(self.speeds[i])(group)
            size = min(changed.shape[1], result.shape[1])  # off by one in torchaudio for clips of many minutes
            result[:, :size].index_copy_(0, rows, changed[:, :size])
        return result, new_lengths


def coloured_noise(
    keys: Int[Tensor, " batch"], num_samples: int, *, colour: Float[Tensor, " batch"]
) -> Float[Tensor, "batch num_samples"]:
    """Noise of unit power, from white (colour 0) to pink (colour 1).

    Pink is Voss's sum over octaves: values that change every 1, 2, 4, ... samples. Sample t is a function of (key, t),
    so a longer batch holds the same noise, continued. Uniform noise is as white as Gaussian, at four values a hash.
    """
    counts = [-(-num_samples // 2**octave) for octave in range(NUM_OCTAVES)]
    hashes = [-(-count // 4) for count in counts]
    counters = torch.cat([torch.arange(num) + octave * 2**40 for octave, num in enumerate(hashes)])
    bits = keyed_bits(keys, NOISE, counters).view(torch.int16)  # batch values
    octaves = [part[:, :count] for part, count in zip(bits.split([4 * num for num in hashes], 1), counts, strict=True)]
    held = octaves[-1].float()
    for octave in reversed(octaves[1:-1]):
        held = octave + _hold(held, octave.shape[1])
    own = ((1 - colour) + colour / NUM_OCTAVES).sqrt()[:, None]
    return (octaves[0] * own + _hold(held * (colour / NUM_OCTAVES).sqrt()[:, None], num_samples)) * (12**0.5 / 2**16)


def _hold(values: Tensor, size: int) -> Tensor:
    return values[:, :, None].expand(-1, -1, 2).flatten(1)[:, :size]


def _add_silence(waveform: Tensor, lengths: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros before and after each clip, and beyond its end, where the resampler rings on."""
    new_lengths = before + lengths + after
    result = waveform.new_zeros(len(waveform), int(new_lengths.max()))
    places = zip(result.numpy(), waveform.numpy(), before.tolist(), lengths.tolist(), strict=True)
    for target, source, start, length in places:  # as arrays: a slice of a tensor takes ten times as long
        target[start : start + length] = source[:length]
    return result, new_lengths


def _add_noise(waveform: Tensor, lengths: Tensor, rows: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Noise under those rows, `snr_db` below each clip's RMS."""
    clean, lengths = waveform.index_select(0, rows), lengths[rows]
    rms = (clean.square().sum(1) / lengths).sqrt()
    noise *= (rms * 10 ** (-snr_db / 20))[:, None]
    noise *= valid_mask(lengths, waveform.shape[1])
    return waveform.index_copy_(0, rows, clean + noise)


@lru_cache(maxsize=64)
def speed_changer(speed: Fraction) -> Resample:
    """Shorter than the reader's filter: for augmentation, -60 dB of alias will do."""
    return Resample(
        speed.numerator,
        speed.denominator,
        lowpass_filter_width=16,
        rolloff=0.9,
        resampling_method="sinc_interp_kaiser",
        beta=6.0,
    )


def _check(key: str, value: object, is_good: bool, rule: str) -> None:
    if not is_good:
        raise ValueError(f"augment.waveform.{key} must {rule}, got {value}.")
