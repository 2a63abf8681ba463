"""Find the clips of the Free Spoken Digit Dataset: recordings/<digit>_<speaker>_<take>.wav, six speakers."""

import difflib
import logging
import re
from collections.abc import Iterator
from typing import Any, ClassVar

from hopscotch.data.clips import some
from hopscotch.data.datamodule import Split
from hopscotch.data.files import clip_name, files_in, listed
from hopscotch.data.rows import Row, RowSource

log = logging.getLogger(__name__)

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<take>\d+)\.wav", re.IGNORECASE)
TEST_TAKES = range(5)  # the data set's own test set
VAL_TAKES = range(5, 10)  # our share of its training set


class Fsdd(RowSource):
    """Split by take, with all speakers in all splits (`split=official`), or hold one speaker out (`split=speaker`)."""

    order: ClassVar = DIGITS

    def __init__(self, *, split: str, test_speaker: str | None, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`; `test_speaker` is the held-out one."""
        super().__init__(**common)
        if split == "speaker" and test_speaker is None:
            raise ValueError("data.split=speaker needs data.test_speaker=<name>, the speaker to test on, got none.")
        if split == "official" and test_speaker is not None:
            raise ValueError(f"data.test_speaker={test_speaker} has no effect unless data.split=speaker, got official.")
        self.test_speaker = test_speaker

    def rows(self) -> Iterator[Row]:
        """List all recordings with the data set's names, and name the others in the log."""
        recordings = self.root / "recordings"
        if not recordings.is_dir():
            raise ValueError(f"data.root must be a folder that holds recordings/, got {self.root}.")
        found = [(path, match) for path in listed(recordings) if (match := NAME.fullmatch(path.name))]
        if not found:
            raise ValueError(f"data.root: {recordings} must hold <digit>_<speaker>_<take>.wav files, got none.")
        if others := [path.name for path in files_in(recordings) if not NAME.fullmatch(path.name)]:
            rule = "data.root: recordings not named <digit>_<speaker>_<take>.wav are not used, %d of %d: %s"
            log.warning(rule, len(others), len(others) + len(found), some(others))
        self._check_speaker(sorted({match["speaker"] for _, match in found}))
        for path, match in found:
            digit, speaker, take = DIGITS[int(match["digit"])], match["speaker"], int(match["take"])
            facts = {"speaker": speaker}
            yield Row(path, clip_name(path, self.root), digit, self._split_of(speaker, take), facts=facts)

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
