"""Augment training clips: speed, silence, room, level and noise of waveforms; tilt and masks of spectrograms.

Every random number is drawn from the clip's own key, so a clip's augmentation depends neither on its neighbours in the
batch nor on the loader worker that makes it.

Masks follow SpecAugment (Park et al. 2019), with a time mask limited to a share of the clip's own frames, so that it
cannot hide a short word completely.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchaudio.functional import fftconvolve
from torchaudio.transforms import Resample

from hopscotch.data.events import Events, played
from hopscotch.data.recordings import Recordings
from hopscotch.keyed import keyed_bits, keyed_uniform
from hopscotch.types import valid_mask

DRAWS, NOISE, RECORDED, MASKS, TILTS = 0, 1, 2, 100, 101  # streams of random numbers
NUM_OCTAVES = 8  # of pink noise: 1/f from half the rate down to rate / 512
NUM_COSINES = 4  # over the mel axis: a microphone or a voice changes the whole spectrum smoothly
MAX_SPEED_TERM = 40  # speeds are rounded to fractions of whole numbers up to this, such as 19/20


class Drawn(NamedTuple):
    """Hold what is done to the waveform of each clip of a batch."""

    speed: Int[Tensor, " batch"]  # place among the speeds
    before: Int[Tensor, " batch"]  # samples of silence
    after: Int[Tensor, " batch"]
    gain_db: Float[Tensor, " batch"]
    is_noisy: Bool[Tensor, " batch"]
    snr_db: Float[Tensor, " batch"]
    colour: Float[Tensor, " batch"]  # of noise that is not recorded: 0 white, 1 pink
    recorded: Float[Tensor, "batch 2"]  # of noise that is: which one, and where it begins
    is_in_room: Bool[Tensor, " batch"]
    room: Float[Tensor, " batch"]  # which impulse response


class WaveformAugment:
    """Change speed, silence, room, gain and noise of waveforms, in this order."""

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
        impulse_probability: float,
        noise: Recordings | None = None,
        impulse_responses: Recordings | None = None,
    ) -> None:
        """Take the keys of conf/augment, where each is explained and from where `hopscotch.config` checks it.

        Without recordings noise is synthetic, and no clip is put into a room.
        """
        self.speeds = [Fraction(speed).limit_denominator(MAX_SPEED_TERM) for speed in speeds]
        self.silence_probability = silence_probability
        self.max_silence = round(silence_seconds * sample_rate)  # samples
        self.gain_db = gain_db
        self.noise_probability = noise_probability
        self.noise_snr_db = (float(noise_snr_db[0]), float(noise_snr_db[1]))
        self.noise = noise
        self.impulse_responses = impulse_responses
        self.impulse_probability = 0.0 if impulse_responses is None else impulse_probability

    @property
    def recordings(self) -> list[Recordings]:
        """List the folders that clips are mixed with."""
        return [one for one in (self.noise, self.impulse_responses) if one is not None]

    def draw(self, keys: Int[Tensor, " batch"]) -> Drawn:
        """Draw what is done to the clips of these keys."""
        speed, padded, before, after, gain, noisy, snr, colour = keyed_uniform(keys, DRAWS, 8).unbind(1)  # each batch
        rooms, room, *recorded = keyed_uniform(keys, RECORDED, 4).unbind(1)
        silence = torch.stack([before, after]) * self.max_silence * (padded < self.silence_probability)
        low, high = self.noise_snr_db
        return Drawn(
            (speed * len(self.speeds)).long(),
            *silence.round().long(),
            gain_db=self.gain_db * (2 * gain - 1),
            is_noisy=noisy < self.noise_probability,
            snr_db=low + (high - low) * snr,
            colour=colour,
            recorded=torch.stack(recorded, dim=1),
            is_in_room=rooms < self.impulse_probability,
            room=room,
        )

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch longest"], Int[Tensor, " batch"]]:
        """Return the augmented clips, zero-padded, and their new lengths."""
        drawn = self.draw(keys)
        waveform, lengths = self._change_speed(waveform, lengths, drawn.speed)
        waveform, lengths = _add_silence(waveform, lengths, drawn.before, drawn.after)
        if self.impulse_responses is not None:
            for row in drawn.is_in_room.nonzero()[:, 0].tolist():
                clip = waveform[row, : int(lengths[row])]
                clip.copy_(in_room(clip, self.impulse_responses.whole(float(drawn.room[row]))))
        waveform *= 10 ** (drawn.gain_db[:, None] / 20)
        rows = drawn.is_noisy.nonzero()[:, 0]
        if self.noise is None:
            noise = coloured_noise(keys[rows], waveform.shape[1], colour=drawn.colour[rows])
        else:
            noise = recorded_noise(self.noise, lengths[rows], waveform.shape[1], drawn.recorded[rows])
        return _add_noise(waveform, lengths, rows, noise, drawn.snr_db[rows]), lengths

    def moved(
        self, recordings: Sequence[Events], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> list[Events]:
        """Return where events are heard in the augmented clips, whose `lengths` are the new ones."""
        drawn = self.draw(keys)
        rows = zip(recordings, drawn.speed.tolist(), drawn.before.tolist(), lengths.tolist(), strict=True)
        return [played(events, self.speeds[speed], before, length) for events, speed, before, length in rows]

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
    """Draw noise of unit power, from white (colour 0) to pink (colour 1).

    Pink noise is Voss's sum over octaves: values that change every 1, 2, 4, ... samples. Sample t is a function of
    (key, t), so a longer batch continues the same noise. Uniform noise is as white as Gaussian noise, at four
    values per hash.
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


def recorded_noise(
    recordings: Recordings, lengths: Int[Tensor, " batch"], num_samples: int, drawn: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch num_samples"]:
    """Take a part of a recording for each clip, as long as the clip and of unit power; of silence nothing is made."""
    noise = torch.zeros(len(lengths), num_samples)
    for row, length, (chosen, begin) in zip(noise, lengths.tolist(), drawn.tolist(), strict=True):
        part = recordings.part(chosen, begin, length)
        row[:length] = part / part.square().mean().sqrt().clamp(min=torch.finfo().tiny)
    return noise


def in_room(clip: Float[Tensor, " sample"], response: Float[Tensor, " tap"]) -> Float[Tensor, " sample"]:
    """Convolve a clip with the impulse response of a room, and give it the power that it had.

    The direct path, the largest sample of the response, stays in its place, so that the clip is not delayed; what rings
    on beyond the clip's end is cut.
    """
    direct = int(response.abs().argmax())
    heard = fftconvolve(clip, response)[direct : direct + len(clip)]
    return heard * (clip.square().sum() / heard.square().sum().clamp(min=torch.finfo().tiny)).sqrt()


def _hold(values: Tensor, size: int) -> Tensor:
    return values[:, :, None].expand(-1, -1, 2).flatten(1)[:, :size]


def _add_silence(waveform: Tensor, lengths: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Put zeros before and after each clip, also over the ringing of the resampler beyond its end."""
    new_lengths = before + lengths + after
    result = waveform.new_zeros(len(waveform), int(new_lengths.max()))
    places = zip(result.numpy(), waveform.numpy(), before.tolist(), lengths.tolist(), strict=True)
    for target, source, start, length in places:  # as arrays: a slice of a tensor takes ten times as long
        target[start : start + length] = source[:length]
    return result, new_lengths


def _add_noise(waveform: Tensor, lengths: Tensor, rows: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Add noise to these rows, `snr_db` below each clip's RMS."""
    clean, lengths = waveform.index_select(0, rows), lengths[rows]
    rms = (clean.square().sum(1) / lengths).sqrt()
    noise *= (rms * 10 ** (-snr_db / 20))[:, None]
    noise *= valid_mask(lengths, waveform.shape[1])
    return waveform.index_copy_(0, rows, clean + noise)


@lru_cache(maxsize=64)
def speed_changer(speed: Fraction) -> Resample:
    """Make a resampler with a shorter filter than the reader's, because aliases of -60 dB suffice here."""
    return Resample(
        speed.numerator,
        speed.denominator,
        lowpass_filter_width=16,
        rolloff=0.9,
        resampling_method="sinc_interp_kaiser",
        beta=6.0,
    )


class SpecAugment(nn.Module):
    """Tilt spectra, then mask them with 0, which is a bin's mean over the training set; each clip by its own key."""

    def __init__(
        self, *, num_time_masks: int, time_mask_share: float, num_mel_masks: int, mel_mask_share: float, tilt: float
    ) -> None:
        """Take the keys of conf/augment, where each is explained and from where `hopscotch.config` checks it."""
        super().__init__()
        self.num_time_masks = num_time_masks
        self.time_mask_share = time_mask_share
        self.num_mel_masks = num_mel_masks
        self.mel_mask_share = mel_mask_share
        self.tilt = tilt

    def forward(
        self, mel: Float[Tensor, "batch time mel"], lengths: Int[Tensor, " batch"], keys: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time mel"]:
        """Return the augmented mel frames; padding stays 0."""
        counts = [self.num_time_masks, self.num_time_masks, self.num_mel_masks, self.num_mel_masks]
        time_width, time_start, mel_width, mel_start = keyed_uniform(keys, MASKS, sum(counts)).split(counts, 1)
        if self.tilt > 0:
            weights = self.tilt * (2 * keyed_uniform(keys, TILTS, NUM_COSINES) - 1)  # batch cosines
            # Not by a matrix product, whose last bits depend on how many clips there are.
            added = (weights[:, :, None] * cosines(mel.shape[2], mel.device)).sum(dim=1, keepdim=True)  # batch 1 mel
            mel = mel + added.to(mel.dtype) * valid_mask(lengths, mel.shape[1])[:, :, None]
        num_mels = torch.full_like(lengths, mel.shape[2])
        hidden_time = _spans(self.time_mask_share * time_width, time_start, lengths, mel.shape[1])
        hidden_mel = _spans(self.mel_mask_share * mel_width, mel_start, num_mels, mel.shape[2])
        return mel.masked_fill(hidden_time[:, :, None] | hidden_mel[:, None, :], 0.0)


def cosines(num_mels: int, device: torch.device) -> Float[Tensor, "cosines mel"]:
    """Sample cosines with 0.5, 1, 1.5 and 2 periods over the mel axis."""
    orders = torch.arange(1, NUM_COSINES + 1, device=device)[:, None]
    return torch.cos(math.pi * orders * (torch.arange(num_mels, device=device) + 0.5) / num_mels)


def _spans(widths: Tensor, starts: Tensor, sizes: Tensor, size: int) -> Tensor:
    """Mark the places inside any of a clip's spans (batch size); widths and starts are in [0, 1) of the free places."""
    widths = (widths * (sizes[:, None] + 1)).long().clamp(max=sizes[:, None] - 1)  # batch masks
    starts = (starts * (sizes[:, None] - widths + 1)).long()
    places = torch.arange(size, device=widths.device)
    inside = (places >= starts[..., None]) & (places < (starts + widths)[..., None])  # batch masks size
    return inside.any(1)
