"""Read clips from manifests as NeMo writes them: a JSON object in each line, paths relative to the manifest."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.files import clip_name, file_at
from hopscotch.data.rows import Label, Row, RowSource, refuse_all
from hopscotch.plain import MAX_TABLE, read_text, shown

HALF = re.compile("[\ud800-\udfff]")  # of a letter beyond the first 65,536, which no text has alone
LABELS = ("command", "target", "label")  # keys that may have the label, the first that is there


class Manifest(RowSource):
    """Read one manifest, or one for each split.

    A line has `audio_filepath`, a label under `command`, `target` or `label`, which is a list if there are several, and
    may have `offset` and `duration`. Paths are relative to `root` if it is given.
    """

    def __init__(self, *, manifest: str | Mapping[str, str | None], root: str | None = None, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`."""
        self.manifests: dict[Split | None, Path] = {}
        for split in (None,) if isinstance(manifest, str) else SPLITS:
            if file := manifest if isinstance(manifest, str) else manifest.get(str(split)):
                self.manifests[split] = Path(file)
        if not self.manifests:
            raise ValueError("data.manifest must be given: a file, or data.manifest.train=, .val= and .test=.")
        super().__init__(root=str(next(iter(self.manifests.values())).parent) if root is None else root, **common)
        self.is_rooted = root is not None

    def rows(self) -> Iterator[Row]:
        """List the rows of all lines, or refuse the lines that are wrong."""
        rows, problems = [], []
        for split, file in self.manifests.items():
            for number, line in enumerate(read_text(file, MAX_TABLE).removeprefix("\ufeff").split("\n"), start=1):
                if not line.strip():
                    continue
                where = f"{file.name} line {number}"
                try:
                    rows.append(self._row(line, self.root if self.is_rooted else file.parent, split, where))
                except ValueError as error:
                    problems.append(f"{where}: {error}")
        refuse_all(problems)
        if not rows:
            raise ValueError(f"data.manifest must have a line for each clip, got none in {shown(self.root)}.")
        yield from rows

    def _row(self, line: str, folder: Path, split: Split | None, where: str) -> Row:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON object, it cannot be parsed") from None
        if not isinstance(entry, dict):
            raise ValueError("must be a JSON object")
        name = entry.get("audio_filepath")
        if not isinstance(name, str) or not name or "\0" in name or not _is_name(name):
            raise ValueError("audio_filepath must be the path of a file")
        offset, duration = (_seconds(entry, key) for key in ("offset", "duration"))
        end = None if duration is None else (offset or 0.0) + duration
        facts = {key: str(entry[key]) for key in (self.group_by,) if key is not None and key in entry}
        path = file_at(folder, name)
        return Row(path, clip_name(path, self.root), _label(entry), split, None, None, offset, end, facts, where)


def _is_name(text: str) -> bool:
    """Tell whether a file may have this name; some halves of letters stand for bytes that are not UTF-8."""
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def _seconds(entry: Mapping[str, Any], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{key} must be a number of seconds, got {shown(value)}")
    return float(value)


def _label(entry: Mapping[str, Any]) -> Label | None:
    key = next((key for key in LABELS if entry.get(key) is not None), None)
    if key is None:
        raise ValueError(f"must have a label under {', '.join(LABELS)}")
    value = entry[key]
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        raise ValueError(f"{key} must be a text, a number or a list of them, got {shown(value)}")
    if any(HALF.search(str(item)) for item in items):
        raise ValueError(f"{key} must be text, got half a letter of UTF-16, {shown(value)}")
    if isinstance(value, list):
        return tuple(map(str, items))
    return value if isinstance(value, str) else float(value)
