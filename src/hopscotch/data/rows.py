"""Turn rows, one per recording or part of one, into clips: the one home of labels, splits and folds of all sources."""

import logging
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from hopscotch.data import leaks
from hopscotch.data.audio import AudioFileError
from hopscotch.data.clips import MAX_NAMED, Clip, some
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.files import nfc
from hopscotch.data.index import user_cache
from hopscotch.data.splits import by_fold, into_folds, into_splits
from hopscotch.data.store import Disk
from hopscotch.plain import shown
from hopscotch.progress import with_progress

log = logging.getLogger(__name__)

SLACK = 0.1  # seconds by which a row may go beyond the end of its file: tables round
ROUNDING = 0.02  # seconds before its end within which a row from the start is the whole file

NEGATIVES = "none of these"

Label = str | tuple[str, ...] | float


@dataclass(frozen=True)
class Row:
    """Describe one recording, or the part of it from `start` to `end`, as a source names it."""

    path: Path
    name: str  # of the file, as `hopscotch.data.files.clip_name` has it
    label: Label | None
    split: Split | None = None
    fold: str | None = None
    group: str | None = None  # a speaker or recording, which is to stand on one side of a split
    start: float | None = None  # seconds
    end: float | None = None  # seconds
    facts: Mapping[str, str | float] = field(default_factory=dict)  # more columns, for reports and `group_by`
    where: str = ""  # file and line that the row stands in, for messages

    @property
    def unit(self) -> str:
        """Return what the row's side of a split is drawn by; the parts of a file stay together."""
        return self.name if self.group is None else self.group

    @property
    def clip_name(self) -> str:
        """Return the name of the clip, which no other has."""
        if self.start is None and self.end is None:
            return self.name
        return f"{self.name}[{self.start or 0:g}-{'' if self.end is None else f'{self.end:g}'}]"

    @property
    def told(self) -> str:
        """Return the name for messages, with the place where it stands."""
        return f"{self.where}: {self.clip_name}" if self.where else self.clip_name


class RowSource(AudioDataModule):
    """Find clips by rows: a source yields them, in the order that its clips are to have.

    A source whose rows have neither splits nor folds takes `val_fraction` and `test_fraction`.
    """

    order: ClassVar[Sequence[str] | None] = None  # of the classes, where the data set has one; else they are sorted
    label_name: str = "label"  # what a number is called

    def __init__(
        self,
        *,
        root: str,
        cache_dir: str | None = None,
        disk_cache_gib: float = 0.0,
        group_by: str | None = None,
        folds: int | None = None,
        fold: int | str | None = None,
        val_fold: int | str | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        negatives: Sequence[str] = (),
        negatives_name: str = NEGATIVES,
        **common: Any,
    ) -> None:
        """Take the keys of conf/data/parts/rows.yaml, and the arguments of `AudioDataModule` as `common`."""
        super().__init__(**common)
        if negatives and self.labels in ("number", "events"):
            what = "hears events: see data.keywords" if self.has_events else "predicts a number, which has no classes"
            raise ValueError(f"data.negatives must be empty for a task that {what}.")
        self.negatives, self.negatives_name = [nfc(str(name)) for name in negatives], nfc(negatives_name)
        self._num_negatives: Counter[str] = Counter()
        val, test = val_fraction, test_fraction
        if val is not None and test is not None and not (val > 0 and test > 0 and val + test < 1):
            raise ValueError(
                "data.val_fraction and data.test_fraction must be above 0 and leave some clips for training, "
                f"got {val} and {test}."
            )
        if folds is not None and fold is None:
            raise ValueError(f"data.folds={folds} needs data.fold=1, or -m data.fold=1,2,...,{folds}: the test's.")
        self.root = Path(root)
        self.cache_dir = user_cache() if cache_dir is None else Path(cache_dir)
        self.disk = Disk(self.cache_dir / "clips", disk_cache_gib) if disk_cache_gib else None
        self.val_fraction, self.test_fraction = val or 0.0, test or 0.0
        self.group_by, self.folds, self.fold, self.val_fold = group_by, folds, fold, val_fold

    @abstractmethod
    def rows(self) -> Iterable[Row]:
        """List all recordings."""

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Make clips of all rows, and look for audio that stands on both sides of a split."""
        classes, clips = self.clips_of_rows()
        leaks.refuse_links(clips, self.index)
        leaks.warn_of_copies(clips, self.index)
        leaks.warn_of_groups(clips)
        leaks.warn_of_recordings(clips, [] if self.augment is None else self.augment.recordings)
        return classes, clips

    def clips_of_rows(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Make clips of all rows: their labels, splits and lengths, of which only the headers are read."""
        self.remember(self.cache_dir / "index", self.root)
        rows = self._grouped(list(self.rows()))
        refuse_all(f"{row.told} is there a second time" for row in _again(rows))
        found = [self._label(row) for row in rows]
        refuse_all(words for words, _ in found if words)
        labels = self._without_negatives([label for _, label in found])
        classes = self._classes(labels)
        number = {name: place for place, name in enumerate(classes)}
        clips: dict[Split, list[Clip]] = {split: [] for split in SPLITS}
        headers = with_progress(rows, len(rows), "Reading headers")
        for row, label, split in zip(headers, labels, self._splits(rows, labels), strict=True):
            clip = self._clip(row, _numbered(label, number), split)
            if clip is not None:
                clips[split].append(clip)
        return classes, clips

    def _grouped(self, rows: list[Row]) -> list[Row]:
        """Give each row the group that `group_by` says: a column, or what a pattern finds in its name."""
        if self.group_by is None:
            return rows
        rule = "data.group_by must be a column, or a regular expression that fits"
        try:
            pattern = re.compile(self.group_by)
        except re.error as error:
            raise ValueError(f"{rule}, got {self.group_by!r}: {error}.") from None
        grouped = []
        for row in rows:
            found = pattern.search(row.name)
            group = row.facts.get(self.group_by, found and found[pattern.groups and 1])
            if group in (None, ""):
                raise ValueError(f"{rule} every name, got {self.group_by!r}, which has no group for {row.name}.")
            grouped.append(replace(row, group=nfc(str(group))))
        return grouped

    def _label(self, row: Row) -> tuple[str, Label]:
        """Return what is wrong, or an empty text, and the label of a row as the task takes it."""
        label = row.label
        if label is None or label == "":
            return f"{row.told} has no label", ""
        if self.labels == "number":
            try:
                number = math.nan if isinstance(label, tuple) else float(label)
            except ValueError:
                number = math.nan
            fault = f"{row.told} must have a finite number as its label for this task, got {shown(label)}"
            return "" if math.isfinite(number) else fault, number
        names = label if isinstance(label, tuple) else (label if isinstance(label, str) else f"{label:g}",)
        names = tuple(dict.fromkeys(map(nfc, names)))
        if self.labels in ("several", "events"):
            return "", names
        if len(names) != 1:
            return f"{row.told} must have one label for this task, got {len(names)}", ""
        return "", names[0]

    def _without_negatives(self, labels: Sequence[Label]) -> Sequence[Label]:
        """Give the classes that are to be negatives one name, and count the clips of each."""
        if not self.negatives:
            return labels
        self._num_negatives = Counter(name for label in labels for name in _names(label) if name in self.negatives)
        if absent := [name for name in self.negatives if name not in self._num_negatives]:
            known = some(sorted({name for label in labels for name in _names(label)}))
            raise ValueError(f"data.negatives must name classes of the data ({known}), got {some(absent)}.")

        def renamed(label: Label) -> Label:
            names = dict.fromkeys(self.negatives_name if name in self.negatives else name for name in _names(label))
            return tuple(names) if isinstance(label, tuple) else next(iter(names))

        return [renamed(label) for label in labels]

    def summary(self) -> dict[str, object]:
        """Add how many clips are negatives, by what they were called."""
        return super().summary() | ({"negatives": dict(self._num_negatives)} if self.negatives else {})

    def _classes(self, labels: Sequence[Label]) -> list[str]:
        if self.labels == "number":
            return [self.label_name]
        found = sorted({name for label in labels for name in _names(label)})
        classes = found if self.order is None else [name for name in self.order if name not in self.negatives]
        if self.negatives:
            classes = [*(name for name in classes if name != self.negatives_name), self.negatives_name]  # the last one
        if len(classes) < 2 and self.labels == "one":
            raise ValueError(f"data must have at least two classes, got {', '.join(classes) or 'none'}.")
        return classes

    def _splits(self, rows: Sequence[Row], labels: Sequence[Label]) -> Sequence[Split]:
        """Return the split of each row: by its fold, as it is given, or by the hash of its name or group."""
        own = [row.fold for row in rows if row.fold is not None]
        if self.fold is not None and self.folds is not None:
            if own:
                raise ValueError(f"data.folds must be null where clips have folds of their own, got {self.folds}.")
            dealt = into_folds(_units(rows, labels), self.folds)
            return by_fold([dealt[row.unit] for row in rows], str(self.fold), self.val_fold)
        if self.fold is not None or (own and all(row.split is None for row in rows)):
            names = ", ".join(sorted(set(own)))
            if self.fold is None:
                raise ValueError(f"data.fold must be given, or -m data.fold=...: the one to test on, of {names}.")
            if not own:
                raise ValueError(f"data.fold={self.fold} needs data.folds=5 or so: these clips have no folds.")
            refuse_all(f"{row.told} has no fold" for row in rows if row.fold is None)
            return by_fold([str(row.fold) for row in rows], str(self.fold), self.val_fold)
        given: list[Split] = [row.split for row in rows if row.split is not None]
        if not given:
            drawn = into_splits(_units(rows, labels), self.val_fraction, self.test_fraction)
            return [drawn[row.unit] for row in rows]
        refuse_all(f"{row.told} has no split" for row in rows if row.split is None)
        if "val" in given or "train" not in given or not self.val_fraction:
            return given
        training = [place for place, split in enumerate(given) if split == "train"]
        units = _units([rows[place] for place in training], [labels[place] for place in training])
        drawn = into_splits(units, self.val_fraction, 0.0)
        return [drawn[row.unit] if split == "train" else split for row, split in zip(rows, given, strict=True)]

    def _clip(self, row: Row, label: int | tuple[int, ...] | float, split: Split) -> Clip | None:
        """Describe the clip of a row; None if its file is unreadable, which is noted."""
        more = {"fold": row.fold, "group": None if row.group in row.facts.values() else row.group}
        facts = {**row.facts, **{key: value for key, value in more.items() if value is not None}}
        try:
            total, rate = self.index.header(row.path).num_samples(self.sample_rate), self.sample_rate
            start, end = round((row.start or 0.0) * rate), total if row.end is None else round(row.end * rate)
            if not 0 <= start < min(end, total) or end > total + SLACK * rate:
                told = f"{row.start or 0:g} s to {'its end' if row.end is None else f'{row.end:g} s'}"
                rule = f"a clip must lie within its {total / rate:g} s, got {told}."
                raise AudioFileError(f"Audio file {shown(row.name)}: {rule}", rule)
            if start == 0 and end >= total - ROUNDING * rate:
                return Clip(row.name, label, total, row.path, facts, group=row.group)
            end = min(end, total)
            return Clip(row.clip_name, label, end - start, row.path, facts, start, row.group)
        except AudioFileError as error:
            named = AudioFileError(f"{row.where}: {error}", error.problem) if row.where else error
            self._note_bad(split, row.clip_name, named)
            return None


def _units(rows: Sequence[Row], labels: Sequence[Label]) -> dict[str, frozenset[str]]:
    """Map the units that are dealt to their classes; numbers are all of one."""
    found: dict[str, set[str]] = {}
    for row, label in zip(rows, labels, strict=True):
        found.setdefault(row.unit, set()).update(_names(label))
    return {unit: frozenset(names) for unit, names in found.items()}


def _numbered(label: Label, number: Mapping[str, int]) -> int | tuple[int, ...] | float:
    if isinstance(label, tuple):
        return tuple(sorted(number[name] for name in label))
    return number[label] if isinstance(label, str) else label


def _names(label: Label) -> tuple[str, ...]:
    """List the classes of a label; a number is of one without a name."""
    return (label,) if isinstance(label, str) else label if isinstance(label, tuple) else ("",)


def _again(rows: Sequence[Row]) -> list[Row]:
    """List the rows whose clip has been named before."""
    ordered = sorted(range(len(rows)), key=lambda place: rows[place].clip_name)
    return [rows[later] for one, later in pairwise(ordered) if rows[one].clip_name == rows[later].clip_name]


def refuse_all(problems: Iterable[str]) -> None:
    """Raise all problems in one line; if they are too many for it, each has a line of the log."""
    if not (found := list(problems)):
        return
    for problem in found if len(found) > MAX_NAMED else ():
        log.error("data: %s", shown(problem))
    raise ValueError(f"data: {some(found)}.")
