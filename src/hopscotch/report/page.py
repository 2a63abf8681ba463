"""Render the templates: HTML pages that need no network and no server, and Markdown cards.

Everything given as text is escaped, in each medium by its own rule; pictures and sound travel inside a page as data.
"""

import base64
import io
import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from hopscotch.plain import shown
from hopscotch.report import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGE = 700  # CSS pixels: a picture that is scrolled on a telephone, not shrunk
CSS_DOTS_PER_INCH = 96  # what a browser calls an inch


def render_html(template: str, context: Mapping[str, Any]) -> str:
    """Render a page, its contents in one line; a cell of a table that is to hold HTML must be Markup."""
    told = _render("html", template, context, shown, {"picture": picture, "stored": stored, "lines": lines})
    titles = re.findall(r"<h2>([^<]*)</h2>", told)
    links = "\n".join(f'<a href="#part{place}">{title}</a>' for place, title in enumerate(titles))
    places = iter(range(len(titles)))
    told = re.sub(r"<h2>", lambda _: f'<h2 id="part{next(places)}">', told)
    return told.replace("<nav></nav>", f"<nav>{links}</nav>" if links else "", 1)


def render_markdown(template: str, context: Mapping[str, Any]) -> str:
    """Render a card, in which Markup is Markdown that is ready."""
    filters = {
        "markdown": lambda table: Markup(text.markdown(table)),
        "lines": lambda told: Markup("\n".join(map(shown, told.split("\n")))),
    }
    told = _render("md", template, context, lambda value: Markup(text.escape(str(value))), filters)
    return re.sub(r"\n{3,}", "\n\n", told)  # parts of a card stand between blank lines, whatever is before them


def _render(
    medium: str,
    template: str,
    context: Mapping[str, Any],
    escaped: Callable[[Any], str],
    filters: Mapping[str, Callable[..., Any]],
) -> str:
    """Fill a template; everything but Markup is `escaped`, and for HTML once more if that is not Markup."""
    made = Environment(
        loader=PackageLoader("hopscotch.report"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else escaped(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": text.number, **filters}
    made.globals["medium"] = medium
    return made.get_template(template).render(context)


def lines(told: str) -> Markup:
    """Escape a text whose line breaks are to stay."""
    return Markup("\n").join(map(shown, told.split("\n")))


def link(words: str, address: str) -> Markup:
    """Make a cell of a table that leads elsewhere."""
    return Markup('<a href="{}">{}</a>').format(address, shown(words))


def picture(drawn: "tuple[Figure, str]") -> Markup:
    """Show a matplotlib figure; a screen reader says its caption."""
    from hopscotch.report.paint import svg

    figure, caption = drawn
    return image("image/svg+xml", svg(figure).encode(), caption, round(figure.get_figwidth() * CSS_DOTS_PER_INCH))


def stored(file: tuple[Path, str]) -> Markup:
    """Show a picture of a run's folder, as wide as it was drawn; a browser runs nothing that is in an `img`."""
    path, caption = file
    if path.suffix == ".svg":
        told = path.read_text(encoding="utf-8")
        width = re.search(r'<svg [^>]*width="([\d.]+)pt"', told[:2000])
        return image("image/svg+xml", told.encode(), caption, round(float(width[1]) * 4 / 3) if width else 800)
    with Image.open(path) as opened:
        inches = opened.width / opened.info["dpi"][0]
    return image("image/png", path.read_bytes(), caption, round(inches * CSS_DOTS_PER_INCH))


def image(kind: str, content: bytes, caption: str, width: int) -> Markup:
    """`width` is in CSS pixels."""
    words, address = escape(shown(caption)), data_address(kind, content)
    kind = ' class="large"' if width > LARGE else ""
    return Markup(
        f'<figure{kind}><img src="{address}" alt="{words}" width="{width}"><figcaption>{words}</figcaption></figure>'
    )


def sound(waveform: Float[Tensor, " sample"], sample_rate: int) -> Markup:
    """Make a player: 16 bits, scaled down where it would clip."""
    samples = waveform / waveform.abs().max().clamp(min=1.0)
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    address = data_address("audio/wav", file.getvalue())
    return Markup(f'<audio controls preload="none" src="{address}"></audio>')


def thumbnail(pixels: UInt8[np.ndarray, "height width rgb"], size: tuple[int, int]) -> Markup:
    """Show a small picture without a caption."""
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "png")
    width, height = size
    return Markup(
        f'<img class="mel" src="{data_address("image/png", file.getvalue())}" alt="" width="{width}" height="{height}">'
    )


def data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
