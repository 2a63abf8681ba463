"""Read clips from a Hugging Face data set on disk, as `datasets` saves it; its package is an extra."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hopscotch.data.datamodule import Split
from hopscotch.data.files import clip_name, nfc
from hopscotch.data.rows import Row, RowSource
from hopscotch.data.table import SPLIT_OF
from hopscotch.plain import shown


class HuggingFace(RowSource):
    """Read what `save_to_disk` left in `root`: one set, or one for each split.

    Audio that lies inside the set is written to files once, below `cache_dir`, as it is.
    """

    def __init__(self, *, audio_column: str, label_column: str, root: str, **common: Any) -> None:
        """Take the arguments of `RowSource` as `common`."""
        super().__init__(root=root, **common)
        self.audio_column, self.label_name = audio_column, label_column

    def rows(self) -> Iterator[Row]:
        """List the rows of all splits; a set that has none, or training alone, is split by names."""
        try:
            datasets: Any = import_module("datasets")
        except ImportError:
            raise ValueError("data=hf needs the package datasets: pip install 'hopscotch[hf]'.") from None
        try:
            found = datasets.load_from_disk(str(self.root))
        except (OSError, ValueError) as error:
            raise ValueError(f"data.root must be a folder that datasets saved, got {self.root}: {error}") from None
        parts = dict(found) if isinstance(found, Mapping) else {"train": found}
        for name, part in parts.items():
            split = SPLIT_OF.get(str(name).lower())
            if split is None:
                raise ValueError(f"data.root: the splits must be train, validation and test, got {shown(name)}.")
            yield from self._rows_of(datasets, part, str(name), split if len(parts) > 1 else None)

    def _rows_of(self, datasets: Any, part: Any, name: str, split: Split | None) -> Iterator[Row]:
        if absent := [key for key in (self.audio_column, self.label_name) if key not in part.features]:
            raise ValueError(f"data: a column {absent[0]} must be in the set, got {', '.join(part.features)}.")
        names = getattr(part.features[self.label_name], "names", None)  # of a ClassLabel
        for number, entry in enumerate(part.cast_column(self.audio_column, datasets.Audio(decode=False))):
            path = self._file(entry[self.audio_column], Path(part._fingerprint, name, f"{number:07d}"))
            root = self.root if path.is_relative_to(self.root) else self.cache_dir / part._fingerprint
            label = entry[self.label_name]
            label = names[label] if names is not None and isinstance(label, int) else label
            label = tuple(label) if isinstance(label, list) else label
            columns = {key: nfc(str(entry[key])) for key in (self.group_by,) if key is not None and key in entry}
            yield Row(path, clip_name(path, root), label, split, facts=columns, where=f"{name} row {number}")

    def _file(self, audio: Mapping[str, Any], place: Path) -> Path:
        """Return the file of an entry, which is written if its bytes lie in the set."""
        path = Path(audio["path"] or "")
        if audio["bytes"] is None:
            return path
        kept = self.cache_dir / place.with_suffix(path.suffix)
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_bytes(audio["bytes"])
            part.rename(kept)
        return kept
