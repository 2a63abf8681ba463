"""Remember which folders and checkpoints the user has trained with: a run's folder may name no others to be read.

Whoever sends a run writes any path into its configuration, and a command that followed it would list what is there. So
training notes what it reads in a file of the user's own, outside of every run; what a stored configuration names must
stand in that file, or be typed.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hopscotch.plain import nodes, shown
from hopscotch.registry import SOURCE_KEYS

OF_A_PATH = re.compile(r"[/\\~]|\$\{|\.\.")  # what a text has that may be a path
NAMED = ("data", "augment", "ckpt_path", "init_from", "compute")  # keys of a configuration that paths stand at or below
# Whatever the text is; a pattern may be slow.
ALWAYS = (
    *(f"{source}.{key}" for source in SOURCE_KEYS for key in ("root", "group_by")),
    *("augment.noise", "augment.impulse_responses", "ckpt_path", "init_from", "compute.teacher"),
)
NEVER = tuple(f"{source}.cache_dir" for source in SOURCE_KEYS)  # clips are kept in our own


def notes() -> Path:
    """Name the file of paths: it has one a line, in JSON."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "hopscotch" / "trained_with.jsonl"


def remember(config: Mapping[str, Any]) -> None:
    """Note the paths of a configuration that was typed; where no file can be kept, they must be typed again."""
    known, file = _known(), notes()
    new = [path for path in paths_in(config).values() if path not in known]
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{json.dumps(path)}\n" for path in new))


def refuse_unknown(config: Mapping[str, Any], file: object, words: Sequence[str] = ()) -> None:
    """Refuse a path of the configuration in `file` that the user never trained with, unless `words` give its key."""
    typed, known = {word.partition("=")[0] for word in words}, _known()
    for key, path in paths_in(config).items():
        if not (key in typed or path in known):
            raise ValueError(
                f"{shown(file)} names {key}={shown(path)}, with which you have not trained here, and what comes with a "
                f"run names nothing to be read: type {key}=<path> too, this one or where it is on this machine."
            )


def paths_in(config: Mapping[str, Any]) -> dict[str, str]:
    """Find what a configuration names to be read, by key."""
    found = dict(nodes({key: config.get(key) for key in NAMED}))
    texts = {key: text for key, text in found.items() if isinstance(text, str) and key not in NEVER}
    return {key: text for key, text in texts.items() if key in ALWAYS or OF_A_PATH.search(text)}


def _known() -> set[str]:
    try:
        return {str(json.loads(line)) for line in notes().read_text(encoding="utf-8").splitlines()}
    except (OSError, ValueError):
        return set()
