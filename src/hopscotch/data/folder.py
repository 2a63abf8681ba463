"""Find a user's own clips: <root>/<class>/<any depth>/<clip>, or the same below train/, val/ and test/."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hopscotch.data.audio import printable
from hopscotch.data.clips import some
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.files import audio_files, clip_name, files_in, listed, may_be_clip, nfc
from hopscotch.data.rows import Row, RowSource
from hopscotch.plain import shown

log = logging.getLogger(__name__)

TRAINING = {"train", "training"}
SPLIT_WORDS = TRAINING | {"val", "valid", "validation", "dev", "test", "testing"}
FOLD = re.compile(r"fold[ _-]?\d+", re.IGNORECASE)
TABLES = (".", "meta", "metadata")  # where data sets keep the table of what is in audio/
KNOWN = {"esc50.csv": "data=esc50", "words20.csv": "data=words20"}


class Folder(RowSource):
    """Take each folder as a class and each file in it as a clip; names that start with a dot are ignored.

    Without train/, val/ and test/ folders clips are split by the hash of their names. The split does not depend on the
    seed, so all runs share one test set.
    """

    def rows(self) -> Iterator[Row]:
        """List all files, and name what does not fit the layout."""
        if not self.root.is_dir():
            problem = "is a file" if self.root.exists() else "does not exist"
            raise ValueError(f"data.root must be a folder of class folders, got {self.root}, which {problem}.")
        tops = _folders(self.root)
        _refuse_data_sets(self.root, [top.name for top in tops])
        by_folder = is_split(self.root, {top.name for top in tops})
        parents = [self.root, *tops] if by_folder else [self.root]
        if unused := [clip_name(path, self.root) for parent in parents for path in files_in(parent)]:
            log.warning("data.root: files outside the class folders are not used: %s", some(unused))
        folders: dict[Split | None, list[Path]] = {} if by_folder else {None: tops}
        for split in SPLITS if by_folder else ():
            folders[split] = _folders(self.root / split)
        classes = sorted({nfc(printable(folder.name)) for parts in folders.values() for folder in parts})
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            raise ValueError(f"data.root must hold at least two class folders, got {found} in {self.root}.")
        rows = [
            Row(path, clip_name(path, self.root), label, split)
            for split, parts in folders.items()
            for folder, label in [(part, nfc(printable(part.name))) for part in parts]
            for path in audio_files(folder)
        ]
        rows.sort(key=lambda row: str(row.label))
        if empty := sorted(set(classes) - {str(row.label) for row in rows}):
            raise ValueError(f"data.root: every class needs at least one audio file, got none in {', '.join(empty)}.")
        yield from rows


def is_split(root: Path, names: set[str]) -> bool:
    """Tell whether the folders are train/, val/ and test/; refuse what is nearly so."""
    words = {name.lower() for name in names} & SPLIT_WORDS
    if names == set(SPLITS):
        return True
    if words and (len(words) == len(names) or (words & TRAINING and words - TRAINING)):
        raise ValueError(
            f"data.root must hold class folders, or train/, val/ and test/ (so written, and nothing else) "
            f"with class folders in each; got {', '.join(sorted(names))} in {root}."
        )
    return False


def _refuse_data_sets(root: Path, names: Sequence[str]) -> None:
    """Refuse the layouts of data sets whose folders are no classes, with the configuration that reads them."""
    rule = "data.root must hold class folders, got"
    for name in ("validation_list.txt", "testing_list.txt", "_background_noise_"):
        if (root / name).exists():
            raise ValueError(f"{rule} {name} of Speech Commands in {root}: use data=speech_commands.")
    tables = [path for place in TABLES for path in sorted((root / place).glob("*.[ct]sv"))]
    if "audio" in names and tables and set(names) <= {"audio", *TABLES}:
        table = tables[0].relative_to(root)
        config = KNOWN.get(table.name, f"data=table data.table={shown(tables[0])}")
        raise ValueError(f"{rule} audio/ and {shown(table)} in {root}: use {config}.")
    if names and all(FOLD.fullmatch(name) for name in names):
        raise ValueError(
            f"{rule} the folds {some(names)} in {root}: use data=table data.table=<csv with path, label and fold>."
        )


def _folders(parent: Path) -> list[Path]:
    """List the class folders, or those of the splits."""
    paths = listed(parent)
    for path in paths:
        if path.is_symlink() and not path.exists() and may_be_clip(path.name):
            raise ValueError(f"data.root: a link must lead to a class folder, got {path}, which leads nowhere.")
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]
