"""Find the clips of ESC-50: 50 kinds of sound in five folds, of which no two share a recording."""

from pathlib import Path
from typing import Any

from hopscotch.data.table import Table, read_table

COLUMNS = {"path": "filename", "label": "category", "fold": "fold"}
RECORDINGS = ("recording", "src_file")  # the column of the recording that a clip was cut from, here or as published


class Esc50(Table):
    """Read esc50.csv in `root` or in meta/, whose clips are in audio/; test on `fold` and validate on the next one."""

    def __init__(self, *, root: str, fold: int | str, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`."""
        places = [Path(root) / "esc50.csv", Path(root) / "meta" / "esc50.csv"]
        table = next((place for place in places if place.is_file()), None)
        if table is None:
            raise ValueError(f"data.root must hold esc50.csv, or meta/ with it, got {root}.")
        group = next((head for head in read_table(table)[0] if head in RECORDINGS), None)
        audio = str(Path(root) / "audio")
        columns = COLUMNS | {"group": group}
        super().__init__(table=str(table), root=audio, columns=columns, label_separator=",", fold=fold, **common)
