"""The part of `--help` that comes from conf/: groups, their choices, and what each is for."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def describe_groups(folders: Iterable[Path], chosen: Mapping[str, Any]) -> str:
    """One line per choice: the name of its file in a group's folder, and the comment that the file opens with."""
    lines = []
    for folder in folders:
        for group in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "hydra"):
            lines.append(group.name)
            for file in sorted(group.glob("*.yaml")):
                mark = "*" if chosen.get(group.name) == file.stem else " "
                lines.append(f"  {mark} {file.stem:<22}{_purpose(file)}".rstrip())
    return "\n".join(lines)


def _purpose(file: Path) -> str:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""
