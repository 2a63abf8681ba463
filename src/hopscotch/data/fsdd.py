"""Free Spoken Digit Dataset: ten digits, six speakers, recordings/<digit>_<speaker>_<take>.wav."""

import difflib
import logging
import re
from pathlib import Path

from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import Clip, some
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.data.folder import files_in

log = logging.getLogger(__name__)

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<take>\d+)\.wav", re.IGNORECASE)
TEST_TAKES = range(5)  # the data set's own test set
VAL_TAKES = range(5, 10)  # our share of its training set


class Fsdd(AudioDataModule):
    """`split=official` shares its speakers out over all splits; `split=speaker` tests on one never heard."""

    def __init__(
        self,
        *,
        root: str,
        split: str,
        test_speaker: str | None,
        sample_rate: int,
        batch_size: int,
        num_workers: int,
        cache_gib: float,
        on_bad_file: str,
        seed: int,
        augment: WaveformAugment | None,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_gib=cache_gib,
            on_bad_file=on_bad_file,
            seed=seed,
            augment=augment,
        )
        if split not in ("official", "speaker"):
            raise ValueError(f"data.split must be official or speaker, got {split!r}.")
        if split == "speaker" and test_speaker is None:
            raise ValueError("data.split=speaker needs data.test_speaker=<name>, the speaker to test on, got none.")
        if split == "official" and test_speaker is not None:
            raise ValueError(f"data.test_speaker={test_speaker} has no effect unless data.split=speaker, got official.")
        self.root = Path(root)
        self.test_speaker = test_speaker

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        recordings = self.root / "recordings"
        if not recordings.is_dir():
            raise ValueError(f"data.root must be a folder that holds recordings/, got {self.root}.")
        found = [(path, match) for path in sorted(recordings.iterdir()) if (match := NAME.fullmatch(path.name))]
        if not found:
            raise ValueError(f"data.root: {recordings} must hold <digit>_<speaker>_<take>.wav files, got none.")
        if others := [path.name for path in files_in(recordings) if not NAME.fullmatch(path.name)]:
            rule = "data.root: recordings not named <digit>_<speaker>_<take>.wav are not used, %d of %d: %s"
            log.warning(rule, len(others), len(others) + len(found), some(others))
        self._check_speaker(sorted({match["speaker"] for _, match in found}))
        clips: dict[Split, list[Clip]] = {"train": [], "val": [], "test": []}
        for path, match in found:
            clip = self.file_clip(path, self.root, int(match["digit"]), speaker=match["speaker"])
            if clip is not None:
                clips[self._split_of(match["speaker"], int(match["take"]))].append(clip)
        return DIGITS, clips

    def _split_of(self, speaker: str, take: int) -> Split:
        is_test = take in TEST_TAKES if self.test_speaker is None else speaker == self.test_speaker
        return "test" if is_test else "val" if take in VAL_TAKES else "train"

    def _check_speaker(self, speakers: list[str]) -> None:
        if self.test_speaker is None or self.test_speaker in speakers:
            return
        nearest = difflib.get_close_matches(self.test_speaker, speakers, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"data.test_speaker must be one of {', '.join(speakers)}, got {self.test_speaker!r}; "
            f"did you mean {nearest}?"
        )
