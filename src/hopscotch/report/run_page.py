"""The story of a run as one HTML file, with pictures and sound inside."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hopscotch.report import page
from hopscotch.report.sounds import Sounds
from hopscotch.report.story import Code, Drawn, Facts, Folded, Heading, Part, Section, Stored, Table, Text, Warn


def render_page(title: str, top: Sequence[Part], sections: Sequence[Section], sounds: Sounds | None) -> str:
    """`sounds` is None where nothing can be heard."""
    body = [render(part, sounds) for part in top]
    body += [page.section(one.title, *(render(part, sounds) for part in one.parts)) for one in sections]
    return page.page(title, body)


def render(part: Part, sounds: Sounds | None) -> str:
    match part:
        case Text(words):
            return page.paragraph(words)
        case Heading(words):
            return page.heading(words)
        case Warn(words):
            return page.warning(words)
        case Code(text):
            return page.command(text)
        case Facts(pairs):
            return page.facts(pairs)
        case Folded(title, text, _):
            return page.folded(title, page.code(text))
        case Drawn(figures):
            return page.side_by_side(page.picture(figure, caption) for figure, caption in figures())
        case Stored(path, caption):
            return page.side_by_side([stored(path, caption)])
        case Table():
            return render_table(part, sounds)


def stored(path: Path, caption: str) -> str:
    """As wide as it was drawn, in inches."""
    with Image.open(path) as picture:
        inches = picture.width / picture.info["dpi"][0]
    return page.image(path.read_bytes(), caption, width=round(inches * page.CSS_DOTS_PER_INCH))


def render_table(part: Table, sounds: Sounds | None) -> str:
    if sounds is None or not part.clips:
        return page.table(part.head, part.rows, numbers=part.numbers)
    rows = [[sounds.player(clip), *row] for row, clip in zip(part.rows, part.clips, strict=True)]
    return page.table(["sound", *part.head], rows, numbers=part.numbers)
