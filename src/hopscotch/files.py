"""Write what a run keeps: tables, logs, pages, summaries; what the disk does not take is named, with its bytes."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hopscotch.plain import quoted, shown

UNFINISHED = ".unfinished"  # end of the name of a file that `replace_file` is writing


class DiskError(OSError):
    """A file could not be written; the text is complete and meant for the owner of the run."""


def disk_error(path: Path, num_bytes: int, error: OSError) -> DiskError:
    """Make the error for a file that the disk does not take, with its size and what is free there."""
    free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
    return DiskError(
        f"{shown(path)} cannot be written: {error.strerror}. It has {num_bytes:,} bytes, {free:,} are free there."
    )


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, a text in UTF-8.

    Raises:
        DiskError: If the disk does not take it, with the file and its size.
    """
    told = content.encode() if isinstance(content, str) else content
    try:
        path.write_bytes(told)
    except OSError as error:
        raise disk_error(path, len(told), error) from error


def replace_file(path: Path, content: str) -> None:
    """Write a text whole or not at all; what was there before stays until then. Errors are those of `write_file`."""
    unfinished = path.with_name(path.name + UNFINISHED)  # in the same folder: a rename across disks is a copy
    try:
        write_file(unfinished, content)
    except DiskError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    os.replace(unfinished, path)


def append_line(path: Path, line: str) -> None:
    """Append a line to a log in one call to the system, so that lines of several processes do not tear each other.

    After half a line, as a kill or a full disk leaves it, a new one begins. Errors are those of `write_file`.
    """
    told = f"{line}\n".encode()
    size = len(told)
    try:
        with path.open("a+b", buffering=0) as file:
            size += file.tell()
            if file.tell():
                file.seek(-1, os.SEEK_END)
            told = told if file.read(1) in (b"", b"\n") else b"\n" + told
            written = file.write(told)
            if written < len(told):  # a disk that is full takes a part, and says why when it gets the rest
                file.write(told[written:])
    except OSError as error:
        raise disk_error(path, size, error) from error


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table; its texts are `quoted`."""
    table = io.StringIO(newline="")
    csv.writer(table).writerows([quoted(cell) for cell in row] for row in (heads, *rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, table.getvalue())


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse to write to `names` within `folder` where one of them, a folder on its way or a file in it is a link."""
    for name in names:
        path = folder / name
        above = [folder.joinpath(*Path(name).parts[:count]) for count in range(1, len(Path(name).parts) + 1)]
        below = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
        for found in [*above, *below]:
            if found.is_symlink() or (found.is_file() and found.stat().st_nlink > 1):
                kind = "symbolic" if found.is_symlink() else "hard"
                raise ValueError(f"{shown(found)} must not be a {kind} link: nothing of a run is written through one.")
