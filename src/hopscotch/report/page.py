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

import soundfile
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from hopscotch.plain import shown
from hopscotch.report import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 144
CSS_DOTS_PER_INCH = 96  # what a browser calls an inch


def render_html(template: str, context: Mapping[str, Any]) -> str:
    """Render a page; a cell of a table that is to hold HTML must be Markup."""
    return _render("html", template, context, shown, {"picture": picture, "stored": stored, "lines": lines})


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
    """Show a matplotlib figure, on white in the dark too; a screen reader says its caption."""
    figure, caption = drawn
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return image(file.getvalue(), caption, round(figure.get_figwidth() * CSS_DOTS_PER_INCH))


def stored(file: tuple[Path, str]) -> Markup:
    """Show a picture of a run's folder, as wide as it was drawn, in inches."""
    path, caption = file
    with Image.open(path) as opened:
        inches = opened.width / opened.info["dpi"][0]
    return image(path.read_bytes(), caption, round(inches * CSS_DOTS_PER_INCH))


def image(png: bytes, caption: str, width: int) -> Markup:
    """`width` is in CSS pixels."""
    words, address = escape(shown(caption)), data_address("image/png", png)
    return Markup(
        f'<figure><img src="{address}" alt="{words}" width="{width}"><figcaption>{words}</figcaption></figure>'
    )


def sound(waveform: Float[Tensor, " sample"], sample_rate: int) -> Markup:
    """Make a player: 16 bits, scaled down where it would clip."""
    samples = waveform / waveform.abs().max().clamp(min=1.0)
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    address = data_address("audio/wav", file.getvalue())
    return Markup(f'<audio controls preload="none" src="{address}"></audio>')


def data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
