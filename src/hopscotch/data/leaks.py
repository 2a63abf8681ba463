"""Find audio that stands in two splits, where a test on it says too much: links, copies and groups."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from hopscotch.data.clips import Clip, some
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.index import Index
from hopscotch.data.recordings import Recordings

log = logging.getLogger(__name__)

PROBE = 4096  # bytes from the middle of a file, which tell most files of equal size apart

Placed = tuple[Split, Clip]
Sign = Callable[[Path], Hashable]


def refuse_links(clips: Mapping[Split, Sequence[Clip]], index: Index) -> None:
    """Refuse a file, or a part of one, that is in two splits by a link of either kind."""
    for pair in linked(clips, index):
        raise ValueError(f"data.root: a file must be in one split alone, got {pair}, which are the same file.")


def linked(clips: Mapping[Split, Sequence[Clip]], index: Index) -> Iterator[str]:
    """Name the pairs of clips that are the same file, or parts of it that overlap, in two splits."""
    placed: list[Placed] = [(split, clip) for split in SPLITS for clip in clips[split]]
    for same in _shared(placed, lambda path: index.entry(path).inode):
        same.sort(key=lambda placed: placed[1].start or 0)
        for (split, clip), (other, later) in pairwise(same):
            if split != other and (clip.start is None or (later.start or 0) < clip.start + clip.num_samples):
                yield f"{clip.name} in {split} and {later.name} in {other}"


def warn_of_copies(clips: Mapping[Split, Sequence[Clip]], index: Index) -> None:
    """Say how many clips of validation and test have their bytes in training, too; few files are read for it."""
    found: list[list[Placed]] = [[(split, clip) for split in SPLITS for clip in clips[split] if clip.start is None]]
    signs: tuple[Sign, ...] = (
        lambda path: index.entry(path).size,
        lambda path: index.sign(path, probe),
        lambda path: index.sign(path, content),
    )
    for sign in signs:
        found = [same for group in found for same in _shared(group, sign)]
    for split in SPLITS[1:]:
        copies = [
            f"{clip.name} (of {same[0][1].name})"
            for same in found
            for placed, clip in same
            if placed == split and same[0][0] == "train"
        ]
        if copies:
            log.warning(
                "data: %d of %d %s clips are copies of training clips, so that their accuracy says too much: %s. "
                "Remove them, or keep them on one side with data.group_by.",
                len(copies), len(clips[split]), split, some(copies),
            )  # fmt: skip


def warn_of_groups(clips: Mapping[Split, Sequence[Clip]]) -> None:
    """Say which groups stand in training and in another split."""
    if shared := groups_on_both_sides(clips):
        log.warning("data: %d groups stand in training and in validation or test: %s", len(shared), some(shared))


def warn_of_recordings(clips: Mapping[Split, Sequence[Clip]], recordings: Iterable[Recordings]) -> None:
    """Say which clips are also recordings that training clips are mixed with."""
    for mixed in recordings:
        own = {_inode(path) for path in mixed.files}
        placed = [(split, clip) for split in reversed(SPLITS) for clip in clips[split]]
        found = [f"{clip.name} ({split})" for split, clip in placed if clip.path and _inode(clip.path) in own]
        if found:
            log.warning("data: %d clips are recordings of %s, too: %s", len(found), mixed.key, some(found))


def groups_on_both_sides(clips: Mapping[Split, Sequence[Clip]]) -> list[str]:
    """List the groups that stand in training and in another split."""
    groups = {split: {clip.group for clip in part if clip.group is not None} for split, part in clips.items()}
    return sorted(groups["train"] & (groups["val"] | groups["test"]))


def _shared(placed: Iterable[Placed], sign: Sign) -> list[list[Placed]]:
    """Collect the clips that have the same sign, if they are in several splits."""
    found: dict[Hashable, list[Placed]] = defaultdict(list)
    for split, clip in placed:
        assert clip.path is not None
        found[sign(clip.path)].append((split, clip))
    return [same for same in found.values() if len({split for split, _ in same}) > 1]


def _inode(path: Path) -> Hashable:
    found = path.stat()
    return found.st_dev, found.st_ino


def probe(path: Path) -> str:
    """Hash what lies in the middle of a file."""
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, (os.fstat(file.fileno()).st_size - PROBE) // 2))
        return hashlib.sha256(file.read(PROBE)).hexdigest()[:16]


def content(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
