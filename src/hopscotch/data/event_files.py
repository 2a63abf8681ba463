"""Find recordings with label files that say when there are events, and cut them into rows of a minute or so."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hopscotch.data.audio import AudioFileError
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.events import NONE, Event, Events, part_of
from hopscotch.data.files import audio_files, clip_name, file_at, listed, nfc
from hopscotch.data.folder import is_split
from hopscotch.data.label_files import Line, Span, annotations, track
from hopscotch.data.rows import SLACK, Label, Row, RowSource, refuse_all

LEAST = 1.0  # seconds of a last row; what is left of a recording, if it is less, belongs to the row before


class Recording(NamedTuple):
    """Hold what label files say of a recording."""

    path: Path
    spans: list[Span]
    split: Split | None


class EventFiles(RowSource):
    """Read recordings and their events.

    An event that is cut by the end of a row is an event of both rows. Events may overlap, and a recording may have
    none. Without annotations each recording below `root` has a label track, and train/, val/ and test/ folders are the
    splits.
    """

    has_events = True

    def __init__(
        self,
        *,
        annotations: str | Mapping[str, str | None],
        keywords: Sequence[str] | None,
        segment_seconds: float,
        root: str | None = None,
        **common: Any,
    ) -> None:
        """Take the keys of conf/data/events.yaml, and the arguments of `RowSource` as `common`."""
        self.files: dict[Split | None, Path] = {}
        for split in (None,) if isinstance(annotations, str) else SPLITS:
            if file := annotations if isinstance(annotations, str) else annotations.get(str(split)):
                self.files[split] = Path(file)
        if root is None and not self.files:
            raise ValueError("data.root or data.annotations must be given: a folder of recordings, or their events.")
        super().__init__(root=str(next(iter(self.files.values())).parent) if root is None else root, **common)
        self.is_rooted = root is not None
        self.keywords = None if keywords is None else [nfc(str(name)) for name in keywords]
        self.segment = max(1, round(segment_seconds * self.sample_rate))
        self._spans: dict[Path, list[Span]] = {}

    def clips_of_rows(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Give the clips of all rows their events."""
        classes, clips = super().clips_of_rows()
        if not classes:
            raise ValueError(f"data must have an event in one of its recordings, got none in {self.root}.")
        number = {name: place for place, name in enumerate(classes)}
        heard = {path: self._events(spans, number) for path, spans in self._spans.items()}

        def with_events(clip: Clip) -> Clip:
            assert clip.path is not None
            events = part_of(heard[clip.path], clip.start or 0, clip.num_samples)
            return replace(clip, label=NONE, events=events, is_cut=clip.start is not None)

        return classes, {split: [with_events(clip) for clip in part] for split, part in clips.items()}

    def _classes(self, labels: Sequence[Label]) -> list[str]:
        return super()._classes(labels) if self.keywords is None else self.keywords

    def rows(self) -> Iterator[Row]:
        """List the rows of all recordings, or refuse the lines that are wrong."""
        problems: list[str] = []
        found = list(self._annotated(problems) if self.files else self._beside(problems))
        rows = [row for recording in found for row in self._rows(recording, problems)]
        refuse_all(problems)
        if not rows:
            raise ValueError(f"data must have a recording, got none in {self.root}.")
        yield from rows

    def _annotated(self, problems: list[str]) -> Iterator[Recording]:
        """Read the recordings that annotations name."""
        for split, file in self.files.items():
            lines: dict[str, list[Line]] = defaultdict(list)
            for line in annotations(file):
                lines[line.name].append(line)
            folder = self.root if self.is_rooted else file.parent
            for name, some in lines.items():
                spans = _spans(some, problems)
                if name:
                    yield Recording(file_at(folder, name), spans, split)

    def _beside(self, problems: list[str]) -> Iterator[Recording]:
        """Read the label track of each recording below the root."""
        by_folder = is_split(self.root, {path.name for path in listed(self.root) if path.is_dir()})
        for path in audio_files(self.root):
            name, beside = clip_name(path, self.root), path.with_suffix(".txt")
            if not beside.is_file():
                problems.append(f"{name} must have a label track, {beside.name}, which is empty if it has no events")
                continue
            split: Any = name.partition("/")[0] if by_folder else None
            if by_folder and split not in SPLITS:
                problems.append(f"{name} must be in train/, val/ or test/, which {self.root} has")
                continue
            yield Recording(path, _spans(track(beside), problems), split)

    def _rows(self, recording: Recording, problems: list[str]) -> Iterator[Row]:
        """Cut a recording, whose header says how long it is."""
        path, rate = recording.path, self.sample_rate
        name = clip_name(path, self.root)
        whole = Row(path, name, (), recording.split, group=name, facts={"recording": name})
        spans = self._spans[path] = [s for s in recording.spans if self.keywords is None or s.label in self.keywords]
        try:
            total = self.index.header(path).num_samples(rate)
        except AudioFileError:  # which is noted when the clip is made
            yield whole
            return
        seconds = total / rate
        problems += [
            f"{span.where}: an event must lie within the {seconds:g} s of {name}, got {span.start:g} to {span.end:g} s"
            for span in recording.spans
            if span.start >= seconds or span.end > seconds + SLACK
        ]
        starts = range(0, max(1, total - round(LEAST * rate) + 1), self.segment)
        for start, end in zip(starts, [*starts[1:], total], strict=True):
            label = tuple(sorted({s.label for s in spans if s.start * rate < end and s.end * rate > start}))
            is_whole = len(starts) == 1
            yield replace(
                whole, label=label, start=None if is_whole else start / rate, end=None if is_whole else end / rate
            )

    def _events(self, spans: Sequence[Span], number: Mapping[str, int]) -> Events:
        rate = self.sample_rate
        made = ((int(span.start * rate), round(span.end * rate), number[span.label]) for span in spans)
        return tuple(sorted(Event(start, max(end, start + 1), label) for start, end, label in made))


def _spans(lines: Iterator[Line] | Sequence[Line], problems: list[str]) -> list[Span]:
    """Join the spans of a recording's lines; faults become problems, as do events that are there twice."""
    found: dict[tuple[float, float, str], Span] = {}
    for line in lines:
        problems += [line.fault] if line.fault else []
        for span in line.spans:
            if found.setdefault(span[:3], span) is not span:
                problems.append(f"{span.where}: {span.label} from {span.start:g} to {span.end:g} s is there twice")
    return list(found.values())
