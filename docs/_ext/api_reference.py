"""Write `reference/api/` from the package: one page per module or sub-package, filled by autodoc.

Docstrings of this project are plain text in Google's form, with code between single backticks. `plain_text` makes
reStructuredText of them, in which a single backtick, a star or a bar would mean something else.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config_reference import write_if_changed

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hopscotch"
FOLDER = "reference/api"
INTERNAL = {"config", "report", "system"}  # how runs are checked and reported: no interface for other code
SECTIONS = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Shape|Note|Notes|Example|Examples):")
CODE = re.compile(r"``.+?``|`[^`]+`")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Register the extension; docstrings are made plain before napoleon (priority 500) reads their sections."""
    app.connect("config-inited", lambda app, _: write_pages(SOURCE, Path(app.srcdir) / FOLDER))
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-skip-member", skip_member)
    return {"parallel_read_safe": True}


def write_pages(source: Path, folder: Path) -> None:
    """Write a page for each public module or sub-package below `source`, and an index."""
    pages: dict[str, list[str]] = {}
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[-1].startswith("_") or parts[0] in INTERNAL:
            continue
        pages.setdefault(parts[0], []).append(".".join((source.name, *parts)))
    folder.mkdir(parents=True, exist_ok=True)
    for name, modules in pages.items():
        title = f"{source.name}.{name}"
        sections = [f"```{{eval-rst}}\n.. automodule:: {module}\n```" for module in modules]
        if len(modules) > 1 or modules[0] != title:
            sections = [f"## {module}\n\n{text}" for module, text in zip(modules, sections, strict=True)]
        write_if_changed(folder / f"{name}.md", "\n\n".join([f"# {title}", *sections]) + "\n")
    entries = "\n".join(pages)
    write_if_changed(
        folder / "index.md",
        "# API reference\n\nThese pages are made from the docstrings of the package whenever the documentation is "
        f"built.\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n",
    )
    for file in folder.glob("*.md"):
        if file.stem not in {*pages, "index"}:
            file.unlink()


def skip_member(app: "Sphinx", what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, whose docstrings say nothing."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


def plain_text(app: "Sphinx", what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring of plain text into reStructuredText, in place.

    A block that is indented where no section of Google's form began is shown as it stands.
    """
    result: list[str] = []
    in_section = literal = False
    for number, line in enumerate(lines):
        blank, indented = not line.strip(), line.startswith((" ", "\t"))
        if not blank and not indented:
            in_section, literal = bool(SECTIONS.fullmatch(line.strip())), False
        elif not blank and not in_section and not literal and not _is_item(lines[number - 1]):
            result += ["", "::", ""]
            literal = True
        result.append(line if literal else escape(line))
    lines[:] = result


def _is_item(line: str) -> bool:
    """Return True for the first line of a list's item, which an indented line continues."""
    return line.lstrip().startswith(("- ", "* "))


def escape(line: str) -> str:
    """Show code between backticks as code, and every other sign as itself."""
    text, end = "", 0
    for match in CODE.finditer(line):
        text += _escaped(line[end : match.start()]) + f"``{match.group().strip('`')}``"
        end = match.end()
        if line[end : end + 1].isalnum():
            text += "\\ "
    return text + _escaped(line[end:])


def _escaped(text: str) -> str:
    return re.sub(r"(?<![\w])([*|])|([*|`])|(\w)_(?!\w)", lambda m: _sign(m.group()), text)


def _sign(text: str) -> str:
    return f"{text[:-1]}\\{text[-1]}"
