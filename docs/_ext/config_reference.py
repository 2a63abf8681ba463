"""Write `reference/configuration/` from the YAML files of `conf/`: every group, choice, key, default and comment.

Nothing is listed by hand. A folder of `conf/` becomes a page, a file becomes a section, a key becomes a row. A key's
comment is the one at the end of its line, after the lines of comment directly above it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONF = Path(__file__).resolve().parents[2] / "conf"
FOLDER = "reference/configuration"
SIGNS = re.compile(r"[\\`*_\[\]<>|$]")  # that mean something in Markdown


class Key(NamedTuple):
    """One key of a YAML file."""

    name: str  # dotted path from the top of the file
    default: str  # as it is written
    comment: str


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register the extension: the pages are written before Sphinx looks for pages."""
    app.connect("config-inited", lambda app, _: write_pages(CONF, Path(app.srcdir) / FOLDER))
    return {"parallel_read_safe": True}


def write_pages(conf: Path, folder: Path) -> None:
    """Write a page per group, one for the files at the top of `conf`, and an index; remove old ones."""
    pages = {"run": _page("The run itself", "", sorted(conf.glob("*.yaml")), conf)}
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        files = sorted(group.rglob("*.yaml"))
        if files:
            pages[group.name] = _page(f"`{group.name}`", group.name, files, conf)
    pages["index"] = _index(list(pages))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        write_if_changed(folder / f"{name}.md", text)
    for file in folder.glob("*.md"):
        if file.stem not in pages:
            file.unlink()


def write_if_changed(file: Path, text: str) -> None:
    """Leave a file alone that has this text already, so that Sphinx does not read it again."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def purpose(source: str) -> str:
    """Return the comment that a file opens with, without Hydra's `# @package` line."""
    lines = []
    for line in source.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def keys_of(source: str) -> list[Key]:
    """List the keys of a YAML text in order, each with its default as written and its comment."""
    node = yaml.compose(source, Loader=yaml.SafeLoader)
    lines = source.splitlines()
    return list(_walk(node, "", lines, source)) if isinstance(node, yaml.MappingNode) else []


def _walk(node: yaml.MappingNode, prefix: str, lines: list[str], source: str) -> Iterator[Key]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults":  # the files that this one builds on: told apart, it is no key of a run
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield Key(f"{name}.", "", _comment(lines, key.start_mark.line, lines[key.start_mark.line].find(":")))
            yield from _walk(value, f"{name}.", lines, source)
        else:
            text = " ".join(source[value.start_mark.index : value.end_mark.index].split())
            end = value.end_mark if value.end_mark.line == value.start_mark.line else value.start_mark
            yield Key(name, text, _comment(lines, key.start_mark.line, end.column))


def _comment(lines: list[str], number: int, column: int) -> str:
    """Join the comment lines directly above a line and the comment behind `column` of the line itself."""
    above: list[str] = []
    while number > len(above) and lines[number - len(above) - 1].lstrip().startswith("#"):
        above.insert(0, lines[number - len(above) - 1].strip().removeprefix("#").strip())
    if len(above) == number:  # the first lines of a file are its purpose
        above = []
    behind = lines[number][column:].partition(" #")[2].strip()
    return " ".join([*above, behind]).strip()


def built_on(source: str) -> list[str]:
    """List the entries of a file's defaults, as `group: choice` or a file's name."""
    entries = (yaml.safe_load(source) or {}).get("defaults", [])
    names = [
        ", ".join(f"{group}: {'none' if choice is None else choice}" for group, choice in entry.items())
        if isinstance(entry, dict)
        else str(entry)
        for entry in entries
    ]
    return [name for name in names if name != "_self_"]


def _page(title: str, group: str, files: list[Path], conf: Path) -> str:
    parts = [f"# {title}"]
    if group:
        parts.append(f"Choose with `{group}=<name>`.")
    for file in files:
        source = file.read_text(encoding="utf-8")
        choice = file.relative_to(conf / group).with_suffix("").as_posix()
        parts.append(f"## `{group}={choice}`" if group and "/" not in choice else f"## `{choice}`")
        parts.append("\n".join(_escape(line) + "  " for line in purpose(source).splitlines()))
        if bases := built_on(source):
            parts.append(f"Builds on: {', '.join(f'`{base}`' for base in bases)}.")
        if keys := keys_of(source):
            parts.append(_table(keys, _package(source, file.relative_to(conf).parent.parts)))
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _package(source: str, folders: tuple[str, ...]) -> str:
    """Return where the keys of a file lie in the configuration: below its folders, unless it says that they are global.

    Files in a folder `parts` are read by others of their group, as if they lay beside these.
    """
    is_global = source.startswith("# @package _global_")
    return "" if is_global else "".join(f"{name}." for name in folders if name != "parts")


def _table(keys: list[Key], package: str) -> str:
    rows = [f"| {_code(package + key.name)} | {_code(key.default)} | {_escape(key.comment)} |" for key in keys]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def _escape(text: str) -> str:
    """Return plain text as Markdown that shows it letter by letter, but for code between backticks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part.replace("|", r"\|") if i % 2 else SIGNS.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def _index(names: list[str]) -> str:
    entries = "\n".join(names)
    return (
        "# Configuration reference\n\n"
        "These pages are made from the files of `conf/` whenever the documentation is built: every group, choice, key, "
        "default and comment. `python train.py --help` prints groups and choices in the terminal, and "
        "`python train.py --cfg job` the composed configuration of a run.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )
