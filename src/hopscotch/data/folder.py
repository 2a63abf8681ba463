"""Find a user's own clips: <root>/<class>/<any depth>/<clip>, or the same below train/, val/ and test/."""

import hashlib
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from hopscotch.data.audio import printable
from hopscotch.data.clips import Clip, some
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.files import audio_files, files_in, listed, may_be_clip

log = logging.getLogger(__name__)

TRAINING = {"train", "training"}
SPLIT_WORDS = TRAINING | {"val", "valid", "validation", "dev", "test", "testing"}


class Folder(AudioDataModule):
    """Take each folder as a class and each file in it as a clip; names that start with a dot are ignored.

    Without train/, val/ and test/ folders each class is split by the hash of its clips' names: `val_fraction` and
    `test_fraction` of it, the rest for training. The split does not depend on the seed, so all runs share one test set.
    """

    def __init__(self, *, root: str, val_fraction: float, test_fraction: float, **common: Any) -> None:
        """Take the arguments of `AudioDataModule` as `common`; `val_fraction` and `test_fraction` are of each class."""
        super().__init__(**common)
        if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
            raise ValueError(
                "data.val_fraction and data.test_fraction must be above 0 and leave some clips for training, "
                f"got {val_fraction} and {test_fraction}."
            )
        self.root = Path(root)
        self.fractions: dict[Split, float] = {"test": test_fraction, "val": val_fraction}

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Read the headers of all files, and name what does not fit the layout."""
        if not self.root.is_dir():
            problem = "is a file" if self.root.exists() else "does not exist"
            raise ValueError(f"data.root must be a folder of class folders, got {self.root}, which {problem}.")
        tops = _folders(self.root)
        names = {top.name for top in tops}
        is_split = names == set(SPLITS)
        words = {name.lower() for name in names} & SPLIT_WORDS
        if not is_split and words and (len(words) == len(names) or (words & TRAINING and words - TRAINING)):
            raise ValueError(
                f"data.root must hold class folders, or train/, val/ and test/ (so written, and nothing else) "
                f"with class folders in each; got {', '.join(sorted(names))} in {self.root}."
            )
        parents = [self.root, *tops] if is_split else [self.root]
        if unused := [printable(path.relative_to(self.root)) for parent in parents for path in files_in(parent)]:
            log.warning("data.root: files outside the class folders are not used: %s", some(unused))
        class_folders = [folder for split in SPLITS for folder in _folders(self.root / split)] if is_split else tops
        classes = sorted({folder.name for folder in class_folders})
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            raise ValueError(f"data.root must hold at least two class folders, got {found} in {self.root}.")
        by_class: dict[str, list[Clip]] = defaultdict(list)
        for folder in class_folders:
            headers = (self.file_clip(path, self.root, classes.index(folder.name)) for path in audio_files(folder))
            by_class[folder.name] += [clip for clip in headers if clip is not None]
        empty = [name for name in classes if not by_class[name]]
        if empty:
            raise ValueError(f"data.root: every class needs at least one audio file, got none in {', '.join(empty)}.")
        clips: dict[Split, list[Clip]] = {"train": [], "val": [], "test": []}
        for name in classes:
            for split, part in (self._given(by_class[name]) if is_split else self._split(by_class[name])).items():
                clips[split] += part
        _refuse_shared(clips)
        return [printable(Path(name)) for name in classes], clips

    def _given(self, clips: list[Clip]) -> dict[Split, list[Clip]]:
        """Split clips by the folder train/, val/ or test/ that they are in."""
        return {split: [clip for clip in clips if Path(clip.name).parts[0] == split] for split in SPLITS}

    def _split(self, clips: list[Clip]) -> dict[Split, list[Clip]]:
        """Split clips by the hash of their names: at least one per part, as long as training keeps one."""
        order = sorted(clips, key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
        parts: dict[Split, list[Clip]] = {}
        for split, fraction in self.fractions.items():
            num = min(max(1, round(fraction * len(clips))), max(0, len(order) - 1))
            parts[split], order = order[:num], order[num:]
        return {"train": order, **parts}


def _folders(parent: Path) -> list[Path]:
    """List the class folders, or those of the splits."""
    paths = listed(parent)
    for path in paths:
        if path.is_symlink() and not path.exists() and may_be_clip(path.name):
            raise ValueError(f"data.root: a link must lead to a class folder, got {path}, which leads nowhere.")
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def _refuse_shared(clips: dict[Split, list[Clip]]) -> None:
    """Refuse a file that links put into two splits: it would be both trained and tested on."""
    known: dict[str, tuple[Split, str]] = {}
    for split, part in clips.items():
        for clip in part:
            assert clip.path is not None
            other, name = known.setdefault(os.path.realpath(clip.path), (split, clip.name))
            if other != split:
                raise ValueError(
                    f"data.root: a file must be in one split alone, got {name} in {other} and {clip.name} in {split}, "
                    "which are the same file."
                )
