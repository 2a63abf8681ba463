"""Read clips from a table with a head, in CSV or TSV: each row a recording or a part of one."""

import csv
import difflib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hopscotch.data.datamodule import Split
from hopscotch.data.files import clip_name, file_at, nfc
from hopscotch.data.rows import Label, Row, RowSource, refuse_all
from hopscotch.plain import MAX_FIELD, MAX_TABLE, read_text, shown

NEEDED = ("path", "label")
DELIMITERS = ",\t;"
AUTO = "auto"  # a column of the key's own name, if there is one
WORDS: dict[Split, str] = {"train": "train training", "val": "val valid validation dev", "test": "test testing"}
SPLIT_OF: dict[str, Split] = {word: split for split, words in WORDS.items() for word in words.split()}


class Table(RowSource):
    """Read the rows of `table`; `columns` says which column has the path, label, split, fold, group, start and end.

    Paths are relative to `root`, and that is the folder of the table unless it is given.
    """

    def __init__(
        self,
        *,
        table: str,
        columns: Mapping[str, str | None],
        label_separator: str,
        root: str | None = None,
        **common: Any,
    ) -> None:
        """Take the arguments of `RowSource` as `common`; `label_separator` parts several labels in one cell."""
        super().__init__(root=str(Path(table).parent) if root is None else root, **common)
        self.table, self.columns, self.label_separator = Path(table), columns, label_separator

    def rows(self) -> Iterator[Row]:
        """List all rows, or refuse those in which a cell is wrong."""
        heads, cells = read_table(self.table)
        columns = {key: name for key, name in self._columns(heads).items() if name is not None}
        self.label_name = columns["label"]
        kept = {columns[key] for key in ("group",) if key in columns} | ({self.group_by} & set(heads))
        rows, problems = [], []
        for line, row in cells:
            where = f"{self.table.name} line {line}"
            if isinstance(row, str):
                problems.append(f"{where}: {row}")
                continue
            found = {key: row[name] for key, name in columns.items() if row[name] != ""}
            try:
                rows.append(self._row(found, {str(name): nfc(row[str(name)]) for name in kept}, where))
            except ValueError as error:
                problems.append(f"{where}: {error}")
        refuse_all(problems)
        yield from rows

    def _row(self, found: Mapping[str, str], facts: Mapping[str, str], where: str) -> Row:
        if "path" not in found:
            raise ValueError("has no path")
        path = file_at(self.root, found["path"])
        split = SPLIT_OF.get(found.get("split", "train").strip().lower())
        if split is None:
            raise ValueError(f"the split must be train, val or test, got {shown(found['split'])}")
        return Row(
            path,
            clip_name(path, self.root),
            self._label_of(found.get("label")),
            split if "split" in found else None,
            fold=found.get("fold"),
            group=nfc(found["group"]) if "group" in found else None,
            start=_seconds(found, "start"),
            end=_seconds(found, "end"),
            facts=facts,
            where=where,
        )

    def _label_of(self, cell: str | None) -> Label | None:
        if self.labels != "several":
            return None if cell is None else cell.strip()
        return tuple(word.strip() for word in (cell or "").split(self.label_separator) if word.strip())

    def _columns(self, heads: list[str]) -> dict[str, str | None]:
        """Find the column of each key, by name; auto is one of the key's own name."""
        columns = {key: (key if key in heads else None) if name == AUTO else name for key, name in self.columns.items()}
        for key, name in columns.items():
            if name not in heads and (name is not None or key in NEEDED):
                rule = f"data.columns.{key} must be a column of {shown(self.table)} ({shown(', '.join(heads))})"
                close = difflib.get_close_matches(str(name), heads, n=1)
                raise ValueError(f"{rule}, got {name}." + (f" Did you mean {close[0]}?" if close else ""))
        return columns


def _seconds(found: Mapping[str, str], key: str) -> float | None:
    try:
        seconds = float(found.get(key, 0.0))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"the {key} must be a number of seconds, got {shown(found[key])}")
    return seconds if key in found else None


def read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str] | str]]]:
    """Read the heads of a table, and its rows with their lines; a row that does not fit the heads is said why."""
    text = read_text(path, MAX_TABLE).removeprefix("\ufeff")
    csv.field_size_limit(MAX_FIELD)
    signs = Counter(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=lambda sign: signs[sign]))
    try:
        heads = [nfc(head.strip()) for head in next(reader, [])]
        if not heads or len(set(heads)) < len(heads):
            raise ValueError(f"{shown(path)} must begin with the names of its columns, each once.")
        rows: list[tuple[int, dict[str, str] | str]] = []
        for cells in reader:
            if not cells:
                continue
            fault = f"must have {len(heads)} cells, got {len(cells)}"
            rows.append((reader.line_num, dict(zip(heads, cells, strict=True)) if len(cells) == len(heads) else fault))
    except csv.Error as error:
        raise ValueError(f"{shown(path)} line {reader.line_num} must be a row of a table: {error}.") from None
    if not rows:
        raise ValueError(f"{shown(path)} must have a row for each clip, got none.")
    return heads, rows
