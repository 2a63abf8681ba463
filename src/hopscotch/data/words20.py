"""Find the clips of words20: twenty Arabic words by 24 speakers, of whom none stands in two splits."""

from pathlib import Path
from typing import Any

from hopscotch.data.table import Table

COLUMNS = {"path": "path", "label": "word", "split": "split", "group": "speaker"}


class Words20(Table):
    """Read words20.csv in `root`, whose recordings are below audio/."""

    def __init__(self, *, root: str, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`."""
        table, audio = Path(root) / "words20.csv", Path(root) / "audio"
        super().__init__(table=str(table), root=str(audio), columns=COLUMNS, label_separator=",", **common)
