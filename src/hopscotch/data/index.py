"""Remember what was read of files, so that a second start opens none: headers, which clips are good, signs of copies.

It is one JSON file in the cache folder for each data root and way of reading, replaced as a whole, so that it is never
half-written, and the last of several runs has it. An entry holds while size and time of its file do. What is bad is not
remembered: it is few, and may have had reasons outside the file. A damaged index is made again, and one that cannot be
written costs the time that it saves.
"""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hopscotch.data.audio import Header, read_header
from hopscotch.data.clips import Clip

FORMAT = 1


def user_cache() -> Path:
    """Return the cache folder of the user: `$XDG_CACHE_HOME/hopscotch`, or `~/.cache/hopscotch`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hopscotch")


@dataclass(slots=True)
class Entry:
    """Hold what is known of a file, as of its size in bytes and the time of its last change in nanoseconds."""

    size: int
    time: int
    inode: tuple[int, int] = (0, 0)  # with its device; not kept
    header: Header | None = None
    parts: dict[str, bool] = field(default_factory=dict)  # clips of it that decode well -> whether channels cancel
    signs: dict[str, str] = field(default_factory=dict)  # by which copies are found

    def row(self) -> list[Any]:
        return [self.size, self.time, self.header, self.parts, self.signs]


class Index:
    """Look up files by their paths; `save` keeps what was learnt."""

    def __init__(self, file: Path | None = None) -> None:
        """Read the index in `file`; without one nothing is remembered beyond this object."""
        self._file = file
        self._rows = {} if file is None else _read(file)
        self._entries: dict[str, Entry] = {}
        self._is_new = False

    def entry(self, path: Path) -> Entry:
        """Return the entry of a file, which is empty if the file has changed; it is looked at once."""
        name = str(path)
        if (entry := self._entries.get(name)) is not None:
            return entry
        try:
            found = os.stat(path)
        except OSError:
            return Entry(-1, -1)  # whoever reads the file says what is wrong
        entry = _entry(self._rows.pop(name, None))
        if entry is None or (entry.size, entry.time) != (found.st_size, found.st_mtime_ns):
            entry = Entry(found.st_size, found.st_mtime_ns)
        entry.inode = found.st_dev, found.st_ino
        self._entries[name] = entry
        return entry

    def header(self, path: Path) -> Header:
        """Return rate, frames and channels of a file; an `AudioFileError` says why it cannot be used."""
        entry = self.entry(path)
        if entry.header is None:
            entry.header, self._is_new = read_header(path), True
        return entry.header

    def sign(self, path: Path, kind: Callable[[Path], str]) -> str:
        """Return what `kind` makes of the content of a file."""
        signs = self.entry(path).signs
        if kind.__name__ not in signs:
            signs[kind.__name__], self._is_new = kind(path), True
        return signs[kind.__name__]

    def note_good(self, clip: Clip, *, cancels: bool) -> None:
        """Note that a clip of a file was decoded, and whether its channels cancel each other."""
        if clip.path is not None:
            self.entry(clip.path).parts[_part(clip)], self._is_new = cancels, True

    def is_good(self, clip: Clip) -> bool:
        """Tell whether a clip of a file is known to decode well."""
        return clip.path is not None and _part(clip) in self.entry(clip.path).parts

    def cancels(self, clip: Clip) -> bool:
        """Tell whether the channels of a clip are known to cancel each other."""
        return clip.path is not None and self.entry(clip.path).parts.get(_part(clip), False)

    def facts(self, clip: Clip) -> str:
        """Write what the samples of a clip depend on."""
        assert clip.path is not None
        entry = self.entry(clip.path)
        return f"{clip.path}\t{entry.size}\t{entry.time}\t{_part(clip)}\t{clip.num_samples}\n"

    def save(self) -> None:
        """Write the file if something was learnt; entries of other files stay in it."""
        if self._file is None or not self._is_new:
            return
        rows = {**self._rows, **{name: entry.row() for name, entry in self._entries.items()}}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".index.", dir=self._file.parent) as folder:
                unfinished = Path(folder, self._file.name)
                unfinished.write_text(json.dumps({"format": FORMAT, "files": rows}), encoding="utf-8")
                os.replace(unfinished, self._file)
            self._is_new = False


def _part(clip: Clip) -> str:
    return "" if clip.start is None else f"{clip.start}+{clip.num_samples}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        rows = found["files"] if found["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _entry(row: Any) -> Entry | None:
    """Read an entry when it is asked for; None if it is damaged."""
    try:
        size, time, header, parts, signs = row
        header = None if header is None else Header(*header)
        numbers = (size, time, *(header or ()))
        are_maps = isinstance(parts, dict) and isinstance(signs, dict)
    except (TypeError, ValueError):
        return None
    is_sound = are_maps and all(type(number) is int for number in numbers) and min(header or (1,)) > 0
    is_sound = is_sound and all(isinstance(value, bool) for value in parts.values())
    return Entry(size, time, (0, 0), header, parts, signs) if is_sound else None
