"""Read noise or impulse responses from a folder: recordings that are no clips, of which each draw takes a part.

A folder is listed once, by its headers. The shortest recordings are decoded then and kept, as far as they fit; of any
other one the part that is drawn is read each time, so that hours of noise take no memory and loader workers share
nothing that changes.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hopscotch.data.audio import AudioFileError, count_samples, read_clip, read_part
from hopscotch.data.files import audio_files, clip_name
from hopscotch.plain import shown
from hopscotch.progress import with_progress

KEPT_SAMPLES = 2**22  # of all that is kept together: 16 MiB, four minutes at 16 kHz
MAX_IMPULSE_SECONDS = 10.0  # a cathedral rings on for less; longer recordings are no impulse responses
MAX_NAMED = 5  # bad files in a message


class Recordings:
    """Give recordings, or parts of them, by numbers in [0, 1): each recording is as likely as another one.

    Every file below the folder counts that has a suffix and may be audio, as for clips.
    """

    def __init__(self, key: str, folder: str, sample_rate: int, *, longest: float = math.inf) -> None:
        """List a folder; `key` names it in messages, `longest` is the most that a recording may have, in seconds.

        Raises:
            ValueError: If there are no recordings, or some that cannot be used, of which the first few are named.
        """
        self.key, self.folder, self.sample_rate = key, Path(folder), sample_rate
        self.files = [path for path in audio_files(self.folder) if path.suffix]
        if not self.files:
            raise ValueError(f"{key} must be a folder with recordings in it, got {shown(folder)}: there are none.")
        self.lengths: list[int] = []  # samples
        self._kept: dict[int, Tensor] = {}
        bad: list[str] = []
        for path in with_progress(self.files, len(self.files), f"Listing {key}"):
            try:
                self.lengths.append(count_samples(path, sample_rate))
                if self.lengths[-1] > longest * sample_rate:
                    bad.append(f"{self._name(path)} of {self.lengths[-1] / sample_rate:g} s, more than {longest:g} s.")
            except AudioFileError as error:
                bad.append(str(error))
        self._refuse(bad)
        room = KEPT_SAMPLES
        for place in sorted(range(len(self.files)), key=self.lengths.__getitem__):
            room -= self.lengths[place]
            if room < 0:
                break
            try:
                self._kept[place] = read_clip(self.files[place], sample_rate)
            except AudioFileError as error:
                bad.append(str(error))
        self._refuse(bad)

    def name(self, chosen: float) -> str:
        """Name the recording that a number in [0, 1) chooses, as seen from the folder."""
        return self._name(self.files[self._place(chosen)])

    def whole(self, chosen: float) -> Float[Tensor, " sample"]:
        """Return the recording that a number in [0, 1) chooses."""
        return self._whole(self._place(chosen))

    def part(self, chosen: float, begin: float, num_samples: int) -> Float[Tensor, " num_samples"]:
        """Return a part of a recording, which begins at a share `begin` of where it can; a short one is repeated.

        A part of a longer recording may be silent.
        """
        place = self._place(chosen)
        spare = self.lengths[place] - num_samples
        if spare < 0:
            start = int(begin * self.lengths[place])
            return self._whole(place).roll(-start).repeat(-(-num_samples // self.lengths[place]))[:num_samples]
        start = int(begin * (spare + 1))
        if place in self._kept:
            return self._kept[place][start : start + num_samples]
        return self._read(read_part, place, start, num_samples, silent_ok=True)

    def _place(self, chosen: float) -> int:
        return int(chosen * len(self.files))

    def _whole(self, place: int) -> Tensor:
        return self._kept[place] if place in self._kept else self._read(read_clip, place)

    def _read(self, read: Callable[..., Tensor], place: int, *which: int, **options: Any) -> Tensor:
        try:
            return read(self.files[place], self.sample_rate, *which, **options)
        except AudioFileError as error:
            raise AudioFileError(f"{self.key}: {error}", error.problem) from None

    def _name(self, path: Path) -> str:
        return shown(clip_name(path, self.folder))

    def _refuse(self, bad: list[str]) -> None:
        if bad:
            more = f" And {len(bad) - MAX_NAMED} more." if len(bad) > MAX_NAMED else ""
            told = f"{' '.join(bad[:MAX_NAMED])}{more} Repair or remove them."
            raise ValueError(f"{self.key} must hold recordings that can be used, got {len(bad)} that cannot: {told}")
