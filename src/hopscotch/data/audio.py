"""Read one audio file into float32 mono samples at a given rate, and check everything that its header says.

libsndfile accepts a cut file, an empty one, NaN and 1 Hz without an error, and blocks for ever on a FIFO. Every check
here fails with an `AudioFileError` that names the file, the rule and the value.
"""

import math
import os
import re
import shlex
import stat
import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.transforms import Resample

from hopscotch.plain import shown

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a header outside this range is taken for damage
MAX_TERM = 1_000  # of the resampling ratio, see `rate_ratio`
BLOCK_SECONDS = 20.0  # of a recording that is read in blocks
STEP_SECONDS = 1.0  # that are resampled at once, counted from the beginning of a file
MAX_MAGNITUDE = 1e12  # of a sample, 1 being full scale; the powers of larger ones overflow float32
VALUE = re.compile(r"[:,;(\[]| \d")  # where a rule ends and its value begins
CANCELLED = 0.01  # of the channels' root mean square, what is left in their mean: -40 dB
FOREIGN = {b"ftyp": 4, b"\x1aE\xdf\xa3": 0}  # how MP4 (m4a) and Matroska (webm) begin, and at which byte
FORMAT = struct.Struct("<HHIIHH")  # of a WAV, the part that all have
UNPACKED = {1, 3, 6, 7, 0xFFFE}  # formats of WAV whose samples take so many bits: PCM, float, A-law, mu-law
LAWS = {6, 7}  # those of a byte for each sample, whatever their bits say
UNKNOWN_SIZE = 0x7FFF_F000  # bytes; writers to a pipe put this or more where they do not know the length
NO_SIZE = 0xFFFF_FFFF  # of audio; no damage, whatever else is said
MAX_FRAMES_PER_BYTE = 2**16  # of a file: a FLAC of silence comes to some thousands
# What libsndfile writes into its log, and reads on, where a header promises more than its file has. The sizes of the
# outermost chunks count metadata, too.
PROMISED = re.compile(r"^ *(?!RIFF|FORM|Riff|Bytes/sec|Block Align)\S.*? : (\d+) \(should be (\d+)\)", re.MULTILINE)
CONTRADICTED = re.compile(
    r"does not match value from 'ds64'|not equal to frame count|(?i:seems to be (?:a )?truncated)"
    r"|without an End-Of-Stream"
)
ODD = "should be an even number of bytes"
PACKETS = "not equal to frame count"  # of AIFF, whose header counts packets where they are compressed
SPHERE = re.compile(rb"sample_count -i (\d+)\n")  # in the header of a NIST file, which libsndfile passes over
PLAIN_WAV = struct.Struct("<4sI8sIHHIIHH4sI")  # the head of a WAV that holds nothing but PCM


class AudioFileError(ValueError):
    """A file that cannot be used as a clip; the message names file, rule and value."""

    def __init__(self, message: str | None, problem: str = "") -> None:
        """Take the whole message, and what is said in it of the file."""
        super().__init__(message)
        self.problem = problem or str(message)

    @property
    def kind(self) -> str:
        """Return the rule without the value, by which files are counted."""
        return VALUE.split(self.problem)[0].strip(" .")


def printable(path: Path | str) -> str:
    """Return the name as text that can be printed and stored, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Header(NamedTuple):
    """Say what a file holds, by what it says itself."""

    rate: int  # Hz
    frames: int
    channels: int

    def num_samples(self, sample_rate: int) -> int:
        """Count the samples that `read_clip` will return."""
        source, target = rate_ratio(self.rate, sample_rate)
        return -(-self.frames * target // source)


def read_header(path: Path) -> Header:
    """Read the header alone, after the checks that need no decoding."""
    if (plain := _plain_header(path)) is not None:
        return plain
    with opened(path) as file:
        return Header(file.samplerate, file.frames, file.channels)


def count_samples(path: Path, sample_rate: int) -> int:
    """Count the samples that `read_clip` will return, by the header alone."""
    return read_header(path).num_samples(sample_rate)


def read_part(
    path: Path, sample_rate: int, start: int, num_samples: int, *, silent_ok: bool = False
) -> Float[Tensor, " sample"]:
    """Decode a part of a file, of `num_samples` from `start` on, both counted at `sample_rate` Hz.

    It is a slice of the whole to the last bit: what is resampled is read in the same steps.
    """
    with opened(path) as file:
        steps = Steps.of(file.samplerate, sample_rate)
        if start * steps.source // steps.target >= file.frames:
            raise _bad(path, f"ends before sample {start}, where a clip begins.")
        begin, end, skipped = steps.around(start, num_samples, file.frames)
        if file.seekable():
            file.seek(begin)
        else:
            _decode(path, file, begin)
        waveform = _mono(_decode(path, file, end - begin))
        read, frames = len(waveform), file.frames
    waveform = steps.resample(waveform, begin, frames)[skipped : skipped + num_samples]
    _check_whole(path, end - begin, read, is_silent=not silent_ok and not waveform.any())
    return torch.nn.functional.pad(waveform, (0, num_samples - len(waveform)))


def read_clip(path: Path, sample_rate: int, *, silent_ok: bool = False) -> Float[Tensor, " sample"]:
    """Decode a whole file to the mean of its channels at `sample_rate` Hz, as float32; |x| may exceed 1."""
    waveform = read_up_to(path, sample_rate, None, silent_ok=silent_ok)
    assert waveform is not None
    return waveform


def read_up_to(
    path: Path, sample_rate: int, most: int | None, *, silent_ok: bool = False
) -> Float[Tensor, " sample"] | None:
    """Return what `read_clip` returns, or None if that is more than `most` samples; the file is opened once."""
    with opened(path) as file:
        length = Header(file.samplerate, file.frames, file.channels).num_samples(sample_rate)
        if most is not None and length > most:
            return None
        waveform = _mono(_decode(path, file, file.frames))
    _check_whole(path, file.frames, len(waveform), is_silent=not silent_ok and not waveform.any())
    waveform = Steps.of(file.samplerate, sample_rate).resample(waveform, 0, file.frames)
    # torchaudio rounds the length in float32, which may be off by one: hold it to ours.
    return torch.nn.functional.pad(waveform, (0, length - len(waveform)))


def read_blocks(
    path: Path, sample_rate: int, seconds: float = BLOCK_SECONDS, *, silent_ok: bool = False
) -> Iterator[Float[Tensor, " sample"]]:
    """Yield what `read_clip` returns in blocks of some seconds, for recordings too long for memory.

    Each block is resampled together with its neighbours, as far as the resampler's filter extends, so that no joint can
    be heard. A cut or silent file raises at its end.
    """
    with opened(path) as file:
        source, target = rate_ratio(file.samplerate, sample_rate)
        reach = _reach(source, target)
        held, begin, done, read, is_silent = torch.zeros(0), 0, 0, 0, True  # counted in frames of the file
        while len(block := _decode(path, file, max(1, round(seconds * file.samplerate)))):
            waveform = _mono(block)
            held, read = torch.cat([held, waveform]), read + len(block)
            is_silent = is_silent and not bool(waveform.any())
            ready = (read - reach) // source * source if read < file.frames else read
            if ready <= done:
                continue
            end = -(-ready * target // source)  # rounded up in the last block alone
            whole = held if source == target else resampler(source, target)(held)
            first = begin * target // source
            yield whole[done * target // source - first : end - first]
            done, kept = ready, max(begin, (ready - reach) // source * source)
            held, begin = held[kept - begin :], kept
    _check_whole(path, file.frames, read, is_silent=is_silent and not silent_ok)


def raw_blocks(
    path: Path, file: soundfile.SoundFile, begin: int, end: int
) -> Iterator[Float[np.ndarray, "frame channel"]]:
    """Yield frames `begin` to `end` of an open file as they are, in blocks; a file that ends before raises."""
    if begin:
        file.seek(begin)
    read = begin
    while read < end and len(block := _decode(path, file, min(round(BLOCK_SECONDS * file.samplerate), end - read))):
        read += len(block)
        yield block
    _check_whole(path, end, read, is_silent=False)


def cancels(of_mean: float, of_channels: float) -> bool:
    """Tell by the mean squares of the channels' mean and of the channels whether these cancel each other."""
    return of_mean < CANCELLED**2 * of_channels


def channels_cancel(path: Path) -> bool:
    """Tell whether the channels of a file are nearly each other's negative, by its first seconds."""
    with opened(path) as file:
        if file.channels < 2:
            return False
        samples = _decode(path, file, min(file.frames, round(BLOCK_SECONDS * file.samplerate)))
    mean = samples.mean(axis=1, dtype=np.float64)
    return cancels(float(np.square(mean).mean()), float(np.square(samples, dtype=np.float64).mean()))


def _reach(source: int, target: int) -> int:
    """Return how many frames around a part have a share in it when it is resampled: a multiple of `source`."""
    return 0 if source == target else source * (2 + resampler(source, target).width // source)


@lru_cache(maxsize=32)
def rate_ratio(source_rate: int, target_rate: int) -> tuple[int, int]:
    """Reduce the ratio of the rates to its smallest whole numbers.

    The resampler's table grows with their product (2.8 GB for 44,101 to 16,000 Hz), so ratios without small terms are
    replaced by the nearest one within `MAX_TERM`, which changes the pitch by a few millionths.
    """
    ratio = Fraction(source_rate, target_rate)
    if max(ratio.numerator, ratio.denominator) > MAX_TERM:
        ratio = ratio.limit_denominator(max(1, math.floor(MAX_TERM / max(1, ratio))))
    return ratio.numerator, ratio.denominator


@lru_cache(maxsize=32)
def resampler(source: int, target: int) -> Resample:
    """Make a windowed-sinc resampler with aliases below -80 dB (torchaudio's defaults: -26 dB)."""
    return Resample(
        source,
        target,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        beta=14.769656459379492,
    )


class Steps(NamedTuple):
    """Resample a file in steps of equal shape, so that a part of it has the bits that it has in the whole.

    Every step has its neighbours as far as the filter extends. A file of one step is resampled as a whole.
    """

    source: int
    target: int
    units: int  # of a step: each is `source` frames, which become `target` samples

    @classmethod
    def of(cls, source_rate: int, target_rate: int) -> "Steps":
        source, target = rate_ratio(source_rate, target_rate)
        return cls(source, target, math.ceil(STEP_SECONDS * source_rate / source))

    @property
    def frames(self) -> int:
        return self.units * self.source

    def around(self, start: int, num_samples: int, frames: int) -> tuple[int, int, int]:
        """Return which of a file's `frames` a part needs, to which end, and how many samples come before the part."""
        if self.source == self.target:
            return start, min(start + num_samples, frames), 0
        if frames <= self.frames:
            return 0, frames, start
        samples, width = self.units * self.target, resampler(self.source, self.target).width
        first, last = start // samples, -(-(start + num_samples) // samples)
        return max(0, first * self.frames - width), min(last * self.frames + width, frames), start - first * samples

    def resample(self, waveform: Float[Tensor, " frame"], begin: int, frames: int) -> Float[Tensor, " sample"]:
        """Resample what was read from frame `begin` on of a file of `frames`; what it has beyond its end is zeros."""
        if self.source == self.target:
            return waveform
        filters = resampler(self.source, self.target)
        if frames <= self.frames:
            return filters(waveform)
        width, kernel = filters.width, cast("Tensor", filters.kernel)
        first = -(-begin // self.frames)  # `begin` lies less than a step before it
        before = first * self.frames - begin
        num_steps = -(-(len(waveform) - before) // self.frames)
        behind = num_steps * self.frames + width - (len(waveform) - before)
        padded = torch.nn.functional.pad(waveform, (width - before, behind))
        pieces = [
            torch.nn.functional.conv1d(
                padded[None, None, step * self.frames : (step + 1) * self.frames + 2 * width],
                kernel,
                stride=self.source,
            )
            for step in range(num_steps)
        ]
        whole = torch.cat(pieces, dim=2)[0].T.reshape(-1)  # unit target -> sample
        return whole[: -(-frames * self.target // self.source) - first * self.units * self.target]


def _decode(path: Path, file: soundfile.SoundFile, num_frames: int) -> Float[np.ndarray, "frame channel"]:
    """Decode the next frames of a file, or those that are left. `file.read` would seek twice, half of its time."""
    samples = np.empty((num_frames, file.channels), dtype=np.float32)
    try:
        samples = samples[: file.buffer_read_into(samples, dtype="float32")]
    except soundfile.LibsndfileError as error:
        raise _bad(path, f"decoding failed ({error.error_string.rstrip('.')}).") from None
    largest = np.abs(samples).max(initial=0.0)
    if not np.isfinite(largest):
        num_bad = int((~np.isfinite(samples)).sum())
        raise _bad(path, f"samples must be finite, got {num_bad} NaN or infinite values.")
    if largest > MAX_MAGNITUDE:
        raise _bad(path, f"samples must be at most {MAX_MAGNITUDE:g} in magnitude, got {largest:g}.")
    return samples


def _mono(samples: Float[np.ndarray, "frame channel"]) -> Float[Tensor, " frame"]:
    """Average the channels; for a single channel numpy's mean would take a tenth of the time of reading a clip."""
    return torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))


def _check_whole(path: Path, num_frames: int, num_read: int, *, is_silent: bool) -> None:
    """Refuse frames that should be there and are cut or silent."""
    if num_read != num_frames:
        raise _bad(path, f"is cut: its header promises {num_frames} frames, got {num_read}.")
    if is_silent:
        raise _bad(path, f"must not be silent, got {num_read} frames of zeros only, the channels averaged.")


def _bad(path: Path, problem: str) -> AudioFileError:
    return AudioFileError(f"Audio file {shown(printable(path))}: {problem}", problem)


def opened(path: Path) -> soundfile.SoundFile:
    """Open a file and check its header; nothing is decoded."""
    try:
        found = path.stat()
    except OSError as error:
        raise _bad(path, f"cannot be opened ({error.strerror}).") from None
    if not stat.S_ISREG(found.st_mode):
        raise _bad(path, "must be a regular file, got a folder, pipe or device.")
    _check_riff(path, found.st_size)
    # libsndfile wants bytes, of which soundfile's type hints do not know; on Windows it wants text.
    name: Any = str(path) if os.name == "nt" else os.fsencode(path)
    try:
        file = soundfile.SoundFile(name)
    except soundfile.LibsndfileError as error:
        hint = _way_to_convert(path) or "is it audio, as its name says?"
        raise _bad(path, f"libsndfile cannot read it ({error.error_string.rstrip('.')}); {hint}") from None
    if problem := _contradiction(path, file):
        file.close()
        raise _bad(path, problem)
    if MIN_RATE <= file.samplerate <= MAX_RATE and 0 < file.frames <= MAX_FRAMES_PER_BYTE * found.st_size:
        return file
    file.close()
    if file.frames > MAX_FRAMES_PER_BYTE * found.st_size:  # as of a FLAC that was written to a pipe
        raise _bad(path, f"its header must say how long it is, got {file.frames} frames; encode it again.")
    if file.frames < 1:
        raise _bad(path, f"must hold at least one frame, got {file.frames}.")
    raise _bad(path, f"rate must lie in [{MIN_RATE}, {MAX_RATE}] Hz, got {file.samplerate}.")


def _contradiction(path: Path, file: soundfile.SoundFile) -> str:
    """Say how the header contradicts the file, as libsndfile noted it while it opened the file; else an empty text."""
    told = file.extra_info
    for promised, got in PROMISED.findall(told):
        if int(got) < int(promised) < UNKNOWN_SIZE:
            return f"is cut: its header promises {promised} bytes of audio, got {got}."
    noted = CONTRADICTED.search(told)
    is_odd = (
        ODD in told and file.subtype == "GSM610"
    )  # which it calls truncated, too; `_check_riff` finds those that are
    if noted and not is_odd and not (noted[0] == PACKETS and file.subtype == "IMA_ADPCM"):
        return f"is cut or damaged: its header contradicts its length (libsndfile: {noted[0]})."
    if file.format == "NIST":
        with path.open("rb") as stream:
            promise = SPHERE.search(stream.read(1024))
        if promise is not None and int(promise[1]) != file.frames:
            return f"is cut or damaged: its header promises {int(promise[1])} frames, got {file.frames}."
    return ""


def _way_to_convert(path: Path) -> str:
    """Return the command that makes a WAV of audio in a container that libsndfile does not know, or an empty text."""
    with path.open("rb") as file:
        head = file.read(8)
    if not any(head.startswith(mark, place) for mark, place in FOREIGN.items()):
        return ""
    old, new = (shlex.quote(printable(name)) for name in (path, path.with_suffix(".wav")))
    return f"convert it: ffmpeg -i {old} {new}"


def _plain_header(path: Path) -> Header | None:
    """Read the header of a WAV that is 16-bit PCM and nothing else, in a third of libsndfile's time; None if not."""
    try:
        size = path.stat()
        if not stat.S_ISREG(size.st_mode):
            return None
        with path.open("rb", buffering=0) as file:
            head = file.read(PLAIN_WAV.size)
        riff, rest, fmt, of_fmt, tag, channels, rate, speed, block, bits, data, length = PLAIN_WAV.unpack(head)
    except (OSError, struct.error):
        return None
    is_plain = (riff, fmt, of_fmt, tag, bits, data) == (b"RIFF", b"WAVEfmt ", 16, 1, 16, b"data")
    is_sound = (rest, length) == (size.st_size - 8, size.st_size - PLAIN_WAV.size) and MIN_RATE <= rate <= MAX_RATE
    is_sound = is_sound and block == 2 * channels > 0 and speed == rate * block and length > 0 == length % block
    return Header(rate, length // block, channels) if is_plain and is_sound else None


def _check_riff(path: Path, size: int) -> None:
    """Compare a WAV's promised data length with the file, because libsndfile reads a cut one without an error.

    Zeros behind the data are padding where the RIFF has ended, and audio that the header does not count within it.
    """
    try:
        with path.open("rb", buffering=256) as file:  # more would read audio, too
            head = file.read(12)
            if head[:4] != b"RIFF" or head[8:] != b"WAVE":
                return
            while len(chunk := file.read(8)) == 8:
                name, length = chunk[:4], int.from_bytes(chunk[4:], "little")
                if name == b"fmt " and length >= FORMAT.size and len(told := file.read(FORMAT.size)) == FORMAT.size:
                    _check_format(path, *FORMAT.unpack(told))
                    length -= FORMAT.size
                if name != b"data":
                    file.seek(length + length % 2, os.SEEK_CUR)
                    continue
                held, whole = size - file.tell(), int.from_bytes(head[4:8], "little")
                if 0 < whole < UNKNOWN_SIZE <= length < NO_SIZE:
                    told = f"a RIFF of {whole} bytes with {length} bytes of audio in it"
                    raise _bad(path, f"its header must not contradict itself, got {told}.")
                if length < UNKNOWN_SIZE and length > held:
                    raise _bad(path, f"is cut: its header promises {length} bytes of audio, got {held}.")
                file.seek(length + length % 2, os.SEEK_CUR)
                is_inside = file.tell() + 8 <= min(size, 8 + whole)
                rest = file.read(8)
                if len(rest) == 8 and not (rest[:4].isascii() and (any(rest) or not is_inside)):
                    problem = f"header promises {length} bytes of audio, but {held - length} bytes follow that are none"
                    raise _bad(path, f"{problem} of its chunks.")
                return
    except OSError as error:
        raise _bad(path, f"cannot be opened ({error.strerror}).") from None


def _check_format(path: Path, kind: int, channels: int, rate: int, bytes_a_second: int, frame: int, bits: int) -> None:
    """Refuse a WAV's format if its numbers contradict each other; zeros, and other units of the fourth, are common."""
    if kind not in UNPACKED or not (channels and rate and bits):
        return
    width = 1 if kind in LAWS else -(-bits // 8)
    if frame not in (0, channels * width):
        told = f"{channels} channels of {bits} bits and frames of {frame} bytes"
        raise _bad(path, f"its header must not contradict itself, got {told}.")
    usual = {0, rate * width, rate * channels * width, rate * channels * bits}
    if bytes_a_second not in usual:
        told = f"{rate} Hz, frames of {channels * width} bytes and {bytes_a_second} bytes a second"
        raise _bad(path, f"its header must not contradict itself, got {told}.")
