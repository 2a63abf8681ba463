"""The story of a run as Markdown, for whoever meets the run's folder in an editor or on a server."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hopscotch.plain import shown
from hopscotch.report.markdown import escape, markdown_table
from hopscotch.report.story import Code, Drawn, Facts, Folded, Heading, Part, Section, Stored, Table, Text, Warn


def render_card(title: str, top: Sequence[Part], sections: Sequence[Section], folder: Path) -> str:
    """`folder` is where the card will lie: pictures are named from there."""
    blocks = [f"# {escape(title)}", *render_all(top, folder)]
    for section in sections:
        blocks += [f"## {escape(section.title)}", *render_all(section.parts, folder)]
    return "\n\n".join(blocks) + "\n"


def render_all(parts: Iterable[Part], folder: Path) -> list[str]:
    return [text for part in parts if (text := render(part, folder))]


def render(part: Part, folder: Path) -> str:
    match part:
        case Text(words):
            return escape(words)
        case Heading(words):
            return f"### {escape(words)}"
        case Warn(words):
            return f"> **Warning:** {escape(words)}"
        case Code(text):
            return "\n".join(["```", *map(shown, text.split("\n")), "```"])
        case Facts(pairs):
            return "\n".join(f"- **{escape(value)}** {escape(word)}" for word, value in pairs)
        case Folded(title, _, file):
            return f"{escape(title)}: [{file}]({file})."
        case Drawn():
            return ""  # its numbers stand in the tables
        case Stored(path, caption):
            return f"![{escape(caption)}]({path.relative_to(folder).as_posix()})"
        case Table(head, rows, numbers):
            return markdown_table(head, rows, numbers)
