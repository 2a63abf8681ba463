"""Find recordings without labels, as the background of data=streams: every audio file below a folder."""

from collections.abc import Iterator

from hopscotch.data.files import audio_files, clip_name
from hopscotch.data.rows import Row, RowSource


class Noise(RowSource):
    """Take each file below `root` as a recording of one class; they are split by the hash of their names."""

    def rows(self) -> Iterator[Row]:
        """List all files that have a suffix."""
        for path in audio_files(self.root):
            if path.suffix:
                yield Row(path, clip_name(path, self.root), "noise")
