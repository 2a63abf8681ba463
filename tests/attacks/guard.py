"""Watch what a command does with a hostile folder: programs, sockets, foreign code, files written elsewhere."""

import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hopscotch import cli
from hopscotch.known import notes
from hopscotch.system import PROJECT_ROOT

SECRET = "hush-5up3r-s3cr3t"
MAX_SECONDS = 5.0  # of this process, for other processes may keep the machine busy
MAX_MEMORY = 2**20  # KiB: 1 GB
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ftplib.connect", "smtplib.connect")
LISTING = ("os.listdir", "os.scandir")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What happened that must not; `roots` are where a command may write."""

    def __init__(self) -> None:
        self.roots: tuple[str, ...] = ()
        self.foreign = ""  # code from there must not run
        self.outside = ""  # what is there must not be looked for
        self.seen: list[str] = []
        self.is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in PROGRAMS or event in NETWORK or event == "pickle.find_class":
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "exec" and getattr(arguments[0], "co_filename", "").startswith(self.foreign):
            self.seen.append(f"exec {arguments[0].co_filename}")
        elif event in LISTING and self.outside and isinstance(arguments[0], str | os.PathLike):
            if os.path.realpath(arguments[0]).startswith(self.outside):
                self.seen.append(f"{event} {arguments[0]}")
        elif event in CHANGES:
            self._written(event, arguments[0])
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
                self._written(event, arguments[0])

    def _written(self, event: str, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(self.roots) and "__pycache__" not in place and place != os.devnull:
            self.seen.append(f"{event} {place}")


WATCH = Watch()


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float
    kib: int  # by which the largest size of the process grew

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("Error: ")]


@contextmanager
def watched(run: Path, outside: Path) -> Iterator[list[str]]:
    """What happens within that must not, in words."""
    if WATCH not in getattr(sys, "_hopscotch_hooks", []):
        sys.addaudithook(WATCH)
        sys._hopscotch_hooks = [WATCH]  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    homes = (Path.home() / ".cache", *(Path(os.environ[name]) for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR")))
    caches = (PROJECT_ROOT / ".cache", *homes, notes().parent)
    WATCH.roots = tuple(os.path.realpath(path) for path in (run, *caches))
    WATCH.foreign, WATCH.seen = str(run), []
    before = tree(outside)
    WATCH.outside = os.path.realpath(outside)
    WATCH.is_on = True
    try:
        yield WATCH.seen
    finally:
        WATCH.is_on = False
    if tree(outside) != before:
        WATCH.seen.append(f"changed outside: {sorted(set(tree(outside)) ^ set(before))}")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content."""
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def call(command: str, words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> Ended:
    """`hopscotch <command> <words>`, in this process; an exception that a user would see as a trace escapes."""
    capsys.readouterr()
    code, message, started = 0, "", time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        cli.main([command, *map(str, words)])
    except SystemExit as end:
        code, message = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code or 0, "")
    seconds = time.process_time() - started
    out, err = capsys.readouterr()
    return Ended(code, out, err + message, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def assert_harmless(ended: Ended, seen: Sequence[str], run: Path, *, refused: bool) -> None:
    """Nothing ran, nothing was written elsewhere, no secret was shown, one sentence, quick and small."""
    said = ended.out + ended.err
    assert not seen, list(seen)
    assert SECRET not in said, said
    assert not any(SECRET.encode() in content for content in tree(run).values() if content and len(content) < 2**22)
    assert "Traceback" not in said, said
    assert [sign for sign in said if not (sign.isprintable() or sign == "\n")] == []
    assert ended.seconds < MAX_SECONDS
    assert ended.kib < MAX_MEMORY
    if refused:
        assert ended.code in (1, 2), said
        assert len(ended.errors) == 1, said
    else:
        assert ended.code == 0, said
        assert ended.errors == [], said
