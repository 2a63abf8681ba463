"""Find the clips of Google Speech Commands, as unpacked: a folder per word, and the official lists of the splits."""

import hashlib
import logging
import math
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import urlopen

from hopscotch.data.audio import count_samples
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.files import audio_files, clip_name, listed
from hopscotch.data.rows import Row, RowSource
from hopscotch.data.splits import place
from hopscotch.plain import MAX_TABLE, read_text

log = logging.getLogger(__name__)

ADDRESS = "http://download.tensorflow.org/data/"
ARCHIVES = {  # version -> official archive and its SHA-256
    "v1": ("speech_commands_v0.01.tar.gz", "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"),
    "v2": ("speech_commands_v0.02.tar.gz", "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"),
}
LISTS: dict[str, Split] = {"validation_list.txt": "val", "testing_list.txt": "test"}
NOISE = "_background_noise_"
COMMANDS = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
UNKNOWN, SILENCE = "unknown", "silence"
MORE = 0.1  # clips of unknown words, and of silence, for each of a command, as in the official task of 12
REGIONS: dict[Split, tuple[float, float]] = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}  # of a noise


class SpeechCommands(RowSource):
    """Read all words (`words=all`), or the task of 12: ten commands, other words as unknown, and silence.

    Silence is a second of background noise. Each of the noises is divided between the splits, so that none shares a
    sample with another.
    """

    address: ClassVar[str] = ADDRESS

    def __init__(self, *, version: str, words: str, fetch: bool, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`; `fetch` downloads `version` into a root without it."""
        super().__init__(**common)
        self.words = words
        self.fetched = ARCHIVES[version] if fetch else None

    def rows(self) -> Iterator[Row]:
        """List the recordings of all words that are wanted, then silence."""
        if self.fetched is not None and not (self.root / "validation_list.txt").is_file():
            self._fetch(*self.fetched)
        if absent := [name for name in LISTS if not (self.root / name).is_file()]:
            raise ValueError(f"data.root must hold {absent[0]} of Speech Commands, got {self.root}; see data.fetch.")
        split_of: dict[str, Split] = {}
        for name, split in LISTS.items():
            split_of |= dict.fromkeys(read_text(self.root / name, MAX_TABLE).splitlines(), split)
        folders = [path for path in listed(self.root) if path.is_dir() and not path.name.startswith((".", "_"))]
        found = [self._row(path, folder.name, split_of) for folder in folders for path in audio_files(folder)]
        if self.words == "all":
            yield from found
            return
        commands = [row for row in found if row.label in COMMANDS]
        wanted = Counter(str(row.split) for row in commands)
        others: Counter[str] = Counter()
        yield from commands
        for row in sorted((row for row in found if row.label == UNKNOWN), key=lambda row: place(row.name)):
            others[str(row.split)] += 1
            if others[str(row.split)] <= math.ceil(MORE * wanted[str(row.split)]):
                yield row
        for split in SPLITS:
            yield from self._silence(split, math.ceil(MORE * wanted[split]))

    def _row(self, path: Path, word: str, split_of: dict[str, Split]) -> Row:
        name, speaker = clip_name(path, self.root), path.name.partition("_nohash_")[0]
        label = word if self.words == "all" or word in COMMANDS else UNKNOWN
        split = split_of.get(name, "train")
        return Row(path, name, label, split, group=speaker, facts={"speaker": speaker})

    def _silence(self, split: Split, number: int) -> Iterator[Row]:
        """Cut so many seconds, evenly spaced, from the split's share of the background noises."""
        noises = audio_files(self.root / NOISE)
        if not noises:
            raise ValueError(f"data.words=12 needs {NOISE}/ in data.root, for silence, got none in {self.root}.")
        for index in range(number):
            path, nth, of = noises[index % len(noises)], index // len(noises), -(-number // len(noises))
            length = count_samples(path, self.sample_rate) / self.sample_rate
            low, high = (share * length for share in REGIONS[split])
            start = round(low + (high - 1.0 - low) * nth / of, 3)
            yield Row(path, clip_name(path, self.root), SILENCE, split, start=start, end=start + 1.0)

    def _fetch(self, archive: str, sha256: str) -> None:
        """Download and unpack an archive; the lists come last, so that what is there with them is whole."""
        log.warning("Fetching %s%s into %s", self.address, archive, self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as folder, tempfile.TemporaryFile(dir=self.root) as file:
            try:
                with urlopen(self.address + archive) as answer:
                    shutil.copyfileobj(answer, file)
            except OSError as error:
                raise ValueError(f"data.fetch=true: {self.address}{archive} cannot be read ({error}).") from None
            file.seek(0)
            if (found := hashlib.file_digest(file, "sha256").hexdigest()) != sha256:
                raise ValueError(f"data.fetch=true: SHA-256 of {archive} must be {sha256}, got {found}.")
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                tar.extractall(folder, filter="data")
            for path in sorted(Path(folder).iterdir(), key=lambda path: path.is_file()):
                path.rename(self.root / path.name)
